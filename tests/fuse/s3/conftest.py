"""A bucket of Ceph, and a mount of it that several tests write to."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.buckets import PREFIX, Bucket
from tests.support.mounts import MountedRegistry, mounted
from tests.support.s3_servers import S3Registry, S3Server, serving_registry

QUICK = ("--create", "--tag-timeout", "0.5", "--negative-timeout", "0.5")


@pytest.fixture(scope="module")
def bucket(ceph: S3Server) -> Iterator[Bucket]:
    """A bucket that the tests of a module share."""
    with Bucket.made(ceph) as bucket:
        yield bucket


@pytest.fixture(scope="module")
def shared(bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedRegistry]:
    """A mount of ``bucket`` that tests write to, each into ``repository``."""
    with mounted(bucket.url, tmp_path_factory.mktemp("shared"), *QUICK) as mount:
        yield mount


@pytest.fixture
def repository(shared: MountedRegistry) -> Path:
    """An empty repository of a test's own, made by mkdir(1) in ``shared``."""
    path = shared.path / str(uuid.uuid4())
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def served(
    ceph: S3Server, bucket: Bucket, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[S3Registry]:
    """A registry that serves ``bucket``."""
    directory = tmp_path_factory.mktemp("served")
    with serving_registry(ceph, bucket.name, directory, PREFIX) as served:
        yield served

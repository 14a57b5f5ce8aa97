"""Blobs that somebody removes, replaces or cuts in the bucket, while they are read."""

import errno
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from tests.fuse.mounts import MountedRegistry, failing_with, mounted
from tests.fuse.repositories import layer, put_layer
from tests.fuse.s3.buckets import Bucket
from tests.fuse.s3.conftest import QUICK

pytestmark = [pytest.mark.fuse, pytest.mark.s3]

SIZE = 24 * 2**20

# So that most of a blob is not there yet when its first bytes are read.
SHORT_SIGHTED = ("--read-memory", "4", "--read-part", "1", "--readahead-kb", "128")


@pytest.fixture(scope="module")
def shared(bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedRegistry]:
    place = tmp_path_factory.mktemp("shared")
    with mounted(bucket.url, place, *QUICK, *SHORT_SIGHTED) as mount:
        yield mount


CHANGES: dict[str, Callable[[Bucket, str, bytes], None]] = {
    "removed": lambda bucket, path, content: bucket.remove(path),
    "replaced": lambda bucket, path, content: bucket.put(path, content[::-1]),
    "cut": lambda bucket, path, content: bucket.put(path, content[: SIZE // 2]),
    "longer": lambda bucket, path, content: bucket.put(path, content + b"x"),
    "emptied": lambda bucket, path, content: bucket.put(path, b""),
}


def _repair(bucket: Bucket, digest: Digest, content: bytes) -> None:
    """Store a blob as it should be, at another second: S3 tells no less."""
    path = paths.blob_data(digest)
    stored = bucket.put(path, content)
    while bucket.put(path, content) == stored:
        pass


@pytest.mark.parametrize("change", CHANGES)
def test_blob_that_changes_while_it_is_read_is_an_error(
    bucket: Bucket, repository: Path, change: str
) -> None:
    """[S13.9]"""
    content = random.Random(change).randbytes(SIZE)
    digest = put_layer(repository, content)
    file = layer(repository, digest)
    with file.open("rb", buffering=0) as opened:
        assert opened.read(2**20) == content[: 2**20]
        CHANGES[change](bucket, paths.blob_data(digest), content)
        got = bytearray(content[: 2**20])
        with failing_with(errno.EIO):
            while chunk := opened.read(2**17):
                got += chunk
        assert content.startswith(got)
    assert len(got) < SIZE
    # What is not there any more is told, and what is right again is read.
    with failing_with(errno.EIO):
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            opened.read()
    _repair(bucket, digest, content)
    assert file.read_bytes() == content


@pytest.mark.parametrize("change", CHANGES)
def test_blob_that_was_changed_before_it_is_read_is_an_error(
    bucket: Bucket, repository: Path, change: str
) -> None:
    """[S13.9] Its size is remembered."""
    content = random.Random(change).randbytes(SIZE)
    digest = put_layer(repository, content)
    file = layer(repository, digest)
    assert file.stat().st_size == SIZE
    CHANGES[change](bucket, paths.blob_data(digest), content)
    with failing_with(errno.EIO):
        file.read_bytes()
    _repair(bucket, digest, content)
    assert file.read_bytes() == content


def test_link_that_is_damaged(bucket: Bucket, repository: Path) -> None:
    """[S4.1] [S4.2]"""
    good, bad = put_layer(repository, b"good"), put_layer(repository, b"bad")
    bucket.put(paths.link(paths.layers(repository.name), bad), b"nonsense")
    other = put_layer(repository, b"other")
    bucket.remove(paths.blob_data(other))
    assert len(os.listdir(repository / "_layers/sha256")) == 3
    assert layer(repository, good).read_bytes() == b"good"

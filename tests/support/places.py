"""Places that images are copied from and to, as the tests of the contracts have them."""

import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from blobfs import paths
from blobfs.digest import Descriptor, Digest
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.factory import driver_for
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.drivers.s3.client import client_for, session_for
from blobfs.drivers.s3.options import S3Options
from blobfs.reference import Tag
from blobfs.transfer.base import Source, Target
from blobfs.transfer.layout import ArchiveSource, ArchiveTarget, LayoutSource, LayoutTarget
from blobfs.transfer.registry import RegistryOptions, RegistrySource, RegistryTarget
from blobfs.transfer.storage import StorageSource
from blobfs.transfer.storage_target import StorageTarget
from tests.support.layout import image
from tests.support.s3_prefixes import keys_of
from tests.support.s3_servers import S3Server
from tests.support.services import DockerRegistry, ServiceFailed

if TYPE_CHECKING:
    from _pytest.mark.structures import ParameterSet
    from botocore.session import Session
    from types_boto3_s3 import S3Client


_KINDS: Final[Mapping[str, Sequence[pytest.MarkDecorator]]] = {
    "directory": (),
    "surveyed directory": (),
    "memory": (),
    "layout": (),
    "archive": (),
    "bucket": (pytest.mark.s3,),
    "surveyed bucket": (pytest.mark.s3,),
    "registry": (pytest.mark.registry,),
}


def places(*without: str) -> "list[ParameterSet]":
    """Return the parameters of the fixture ``place``, *without* some kinds."""
    kinds = {kind: marks for kind, marks in _KINDS.items() if kind not in without}
    return [pytest.param(kind, marks=marks, id=kind) for kind, marks in kinds.items()]


class Place(ABC):
    """A place with a source and a target of its own content.

    What it cannot do is said by its attributes: names of repositories, history of tags, blobs that
    no manifest names, lists of manifests without a tag, and so on.
    """

    has_history = True
    has_lone_blobs = True
    has_lone_manifests = True
    removes_tags = True

    @abstractmethod
    def source(self) -> Source:
        """Open what is there; the caller closes it."""

    @abstractmethod
    def target(self) -> Target:
        """Open the place to write to it; it may be missing. The caller closes it."""

    def damage(self, digest: Digest, content: bytes | None) -> None:
        """Replace the bytes that are stored of a blob, or remove them."""
        raise ServiceFailed("the bytes of a blob cannot be replaced here")

    @contextmanager
    def writing(self) -> Iterator[Target]:
        """Yield a target, and make complete what the block has stored."""
        with self.target() as target:
            yield target
            target.flush()
            target.finish()


class StoragePlace(Place):
    """The storage at *url*, which is surveyed with *survey*; *opened* opens its driver."""

    def __init__(
        self,
        url: str,
        *,
        survey: bool = False,
        opened: Callable[[], StorageDriver] | None = None,
    ) -> None:
        self.url = url
        self._survey = survey
        self._opened = opened

    def _driver(self) -> StorageDriver | None:
        return None if self._opened is None else self._opened()

    def source(self) -> StorageSource:
        source = StorageSource(self.url, driver=self._driver())
        if self._survey:
            source.survey(_nothing)
        return source

    def target(self) -> StorageTarget:
        target = StorageTarget(self.url, driver=self._driver())
        if self._survey:
            target.survey(_nothing)
        return target

    def driver(self) -> StorageDriver:
        """Open its driver; the caller closes it."""
        return self._driver() or driver_for(self.url)

    def damage(self, digest: Digest, content: bytes | None) -> None:
        with closing(self.driver()) as driver:
            driver.delete(paths.blob_data(digest))
            if content is not None:
                driver.put_content(paths.blob_data(digest), content)


def _nothing(kind: str, count: int) -> None:
    """Show no progress."""


def directory_place(directory: Path, *, survey: bool = False) -> StoragePlace:
    """A directory, which is made by its target."""
    return StoragePlace(str(directory / "storage"), survey=survey)


def memory_place() -> StoragePlace:
    """A registry in memory."""
    driver = InMemoryDriver()
    return StoragePlace("memory:", opened=lambda: driver)


class RegistryPlace(Place):
    """A docker-registry."""

    has_history = False
    has_lone_blobs = False
    has_lone_manifests = False
    removes_tags = False

    def __init__(self, registry: DockerRegistry) -> None:
        self.registry = registry
        shutil.rmtree(registry.root / "docker", ignore_errors=True)

    def source(self) -> RegistrySource:
        return RegistrySource(self.registry.address, RegistryOptions(anonymous=True))

    def target(self) -> RegistryTarget:
        return RegistryTarget(self.registry.address, RegistryOptions(anonymous=True))


class LayoutPlace(Place):
    """An OCI image layout in *directory*."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def source(self) -> LayoutSource:
        return LayoutSource(self._directory)

    def target(self) -> LayoutTarget:
        return LayoutTarget(self._directory)

    def damage(self, digest: Digest, content: bytes | None) -> None:
        path = self._directory / "blobs" / digest.algorithm / digest.encoded
        path.unlink()
        if content is not None:
            path.write_bytes(content)


class ArchivePlace(Place):
    """An OCI archive, which each copy makes anew."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def source(self) -> ArchiveSource:
        return ArchiveSource(self._file)

    def target(self) -> ArchiveTarget:
        return ArchiveTarget(self._file, replace=True)


@contextmanager
def bucket_place(server: S3Server, *, survey: bool = False) -> Iterator[StoragePlace]:
    """A prefix of a new bucket. All its drivers share a client, as one is slow to make."""
    with keys_of(server), server.bucket() as bucket, pytest.MonkeyPatch.context() as patch:
        url = server.storage_url(bucket, secrets.token_hex(4))
        session, client = _client(server)
        patch.setattr("blobfs.drivers.s3.driver.session_for", lambda _: session)
        patch.setattr("blobfs.drivers.s3.driver.client_for", lambda *_: client)
        yield StoragePlace(url, survey=survey)


@cache
def _client(server: S3Server) -> tuple["Session", "S3Client"]:
    options = S3Options.parse(server.storage_url("any"))
    session = session_for(options)
    return session, client_for(options, session)


def described(content: bytes, algorithm: str = "sha256") -> Descriptor:
    """The descriptor of a blob."""
    return Descriptor(Digest.of(content, algorithm), len(content))


def put_image(target: Target, repository: str, *contents: bytes, tag: str = "") -> Digest:
    """Store an image of a config and layers with these contents, and return its digest."""
    for content in contents:
        target.put_blob(repository, described(content), [content])
    payload = image(*(Digest.of(content) for content in contents))
    target.flush()
    target.put_manifest(repository, Digest.of(payload), payload)
    target.flush()
    if tag:
        target.tag(repository, Tag(tag), Digest.of(payload), ())
        target.flush()
    return Digest.of(payload)

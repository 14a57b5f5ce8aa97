"""A registry's storage as a source."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from blobfs import paths
from blobfs.concurrency import CallLock
from blobfs.digest import CANONICAL, Descriptor, Digest
from blobfs.drivers.base import BytesReader, FileReader, StorageDriver
from blobfs.drivers.factory import driver_for
from blobfs.drivers.location import Location
from blobfs.drivers.objectstore import ObjectStore
from blobfs.drivers.wrapper import ReaderWrapper
from blobfs.errors import BlobUnknown, Corrupt, NotAFile, PathNotFound
from blobfs.host.preflight import check_registry, check_storage
from blobfs.reference import Tag
from blobfs.storage.listing.presence import with_presence
from blobfs.storage.registry import Registry, RemoteOptions, with_caching
from blobfs.storage.repository import Repository
from blobfs.transfer.base import Outline, Source
from blobfs.transfer.outlines import outline_of

_READ_AT_ONCE: Final = 2**20
"""The largest blob in bytes that is read by one call."""


class StorageSource(Source):
    """The storage at *location*; *driver* is its driver, which is closed, or opened by default.

    Thread-safe: ``_reading`` lets one thread read the manifests of a repository for all.
    Raises MountRefused, AccessDenied, StorageUnavailable.
    """

    def __init__(self, location: str | Location, driver: StorageDriver | None = None) -> None:
        self.location = Location.of(location)
        if driver is None and self.location.root is not None:
            check_storage(self.location.root)
        self.driver = driver or with_presence(driver_for(self.location))
        cached = self.driver
        if isinstance(cached, ObjectStore):
            cached = with_caching(cached, RemoteOptions())
        self._registry = Registry(cached)
        self._open = cached.open
        self._reading = CallLock()
        self._subjects: dict[str, Mapping[Digest, Sequence[Digest]]] = {}
        try:
            check_registry(self._registry, self.location)
        except BaseException:
            self.close()
            raise

    def repositories(self) -> Iterator[str]:
        return iter(sorted(self._registry.enumerate()))

    def tags(self, repository: str) -> Iterator[Tag]:
        return self._existing(repository).tags.enumerate()

    def tagged(self, repository: str, tag: Tag) -> Digest:
        return self._repository(repository).tags.get_now(tag)

    def tagged_ns(self, repository: str, tag: Tag) -> int:
        return self._repository(repository).tags.mtime_ns(tag)

    def history(self, repository: str, tag: Tag) -> Sequence[Digest]:
        return sorted(self._repository(repository).tags.history(tag).enumerate_all())

    def revisions(self, repository: str) -> Iterator[Digest]:
        return self._existing(repository).manifests.links.enumerate_all()

    def blobs(self, repository: str) -> Iterator[Digest]:
        return self._existing(repository).layers.enumerate_all()

    def referrers(self, repository: str, digest: Digest) -> Sequence[Digest]:
        with self._reading:
            if repository not in self._subjects:
                self._subjects[repository] = self._read_subjects(self._repository(repository))
        return self._subjects[repository].get(digest, ())

    def _read_subjects(self, repository: Repository) -> Mapping[Digest, Sequence[Digest]]:
        """The referrers in a repository, by their subject; each manifest is read."""
        found: defaultdict[Digest, list[Digest]] = defaultdict(list)
        revisions = list(repository.manifests.links.enumerate_all())
        for digest, outline in repository.manifests.links.map_contents(_outline_or_none, revisions):
            if isinstance(outline, Outline) and outline.subject is not None:
                found[outline.subject].append(digest)
        return found

    def manifest(self, repository: str, digest: Digest) -> bytes:
        return self._repository(repository).manifests.payload(digest)

    def outline(self, repository: str, digest: Digest) -> Outline:
        return outline_of(digest, self.manifest(repository, digest))

    def size(self, repository: str, digest: Digest) -> int:
        return self._repository(repository).layers.stat(digest).size

    def open(self, repository: str, blob: Descriptor) -> FileReader:
        path = paths.blob_data(self.stored(repository, blob.digest))
        try:
            if blob.size <= _READ_AT_ONCE:
                return BytesReader(self.driver.read_at(path, 0, blob.size + 1))
            return _BlobReader(self._open(path, blob.size), blob.digest)
        except (PathNotFound, NotAFile):
            raise BlobUnknown(blob.digest) from None

    def stored(self, repository: str, digest: Digest) -> Digest:
        """Return the digest under which a blob is stored; raises BlobUnknown, LinkInvalid."""
        if digest.algorithm == CANONICAL:
            return digest
        return self._repository(repository).layers.resolve(digest)

    def _repository(self, name: str) -> Repository:
        return self._registry.repository(name)

    def _existing(self, name: str) -> Repository:
        return self._registry.existing(name)

    def close(self) -> None:
        self._registry.close()


class _BlobReader(ReaderWrapper):
    """Reads a blob, which may be missing only when it is read."""

    def __init__(self, reader: FileReader, digest: Digest) -> None:
        super().__init__(reader)
        self._digest = digest

    def read_at(self, offset: int, size: int) -> bytes:
        try:
            return self._reader.read_at(offset, size)
        except PathNotFound:
            raise BlobUnknown(self._digest) from None


def _outline_or_none(digest: Digest, payload: bytes) -> Outline | None:
    try:
        return outline_of(digest, payload)
    except Corrupt:
        return None

"""A registry's storage as a source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from blobfs import paths
from blobfs.digest import CANONICAL, Descriptor, Digest
from blobfs.drivers.base import BytesReader, FileReader, StorageDriver
from blobfs.drivers.base_driver import with_base
from blobfs.drivers.factory import concrete_driver_for
from blobfs.drivers.location import Location
from blobfs.drivers.objectstore import ObjectStore
from blobfs.drivers.wrapper import ReaderWrapper
from blobfs.errors import (
    BlobDamaged,
    BlobUnknown,
    DigestMismatch,
    ManifestUnknown,
    NotAFile,
    PathNotFound,
)
from blobfs.host.preflight import check_registry, check_storage
from blobfs.inventory.inventory import Progress
from blobfs.inventory.rows import LinkKind
from blobfs.reference import Tag
from blobfs.storage.blobstore import MAX_CONTENT
from blobfs.storage.listing.presence import with_presence
from blobfs.storage.registry import Registry, RemoteOptions, with_caching
from blobfs.transfer.base import Outline, Source
from blobfs.transfer.survey import SurveyedView, survey_source
from blobfs.transfer.views import StorageView

_READ_AT_ONCE: Final = 2**20
"""The largest blob in bytes that is read by one call."""


class StorageSource(Source):
    """The storage at *location*; *driver* is its driver, which is closed, or opened by default.

    ``survey`` keeps what it reads in *state_dir* for the next one. Thread-safe.
    Raises MountRefused, AccessDenied, StorageUnavailable.
    """

    def __init__(
        self,
        location: str | Location,
        *,
        state_dir: Path | None = None,
        driver: StorageDriver | None = None,
    ) -> None:
        self.location = Location.of(location)
        self._state_dir = state_dir
        if driver is None and self.location.root is not None:
            check_storage(self.location.root)
        self.concrete = driver or concrete_driver_for(self.location)
        self.driver = driver or with_presence(with_base(self.concrete))
        cached = self.driver
        if isinstance(cached, ObjectStore):
            cached = with_caching(cached, RemoteOptions())
        self._registry = Registry(cached)
        self._open = cached.open
        self._view = self._live = StorageView()
        self._live.use(self._registry, self.driver)
        try:
            check_registry(self._registry, self.location)
        except BaseException:
            self.close()
            raise

    def survey(self, progress: Progress) -> None:
        if self.location.root is None and self.location.bucket is None:
            return  # the inventory would be of another memory
        state = (
            None if self._state_dir is None else self._state_dir / f"copy-{self.location.key}.db"
        )
        inventory = survey_source(self.location, state, progress)
        self._view = SurveyedView(inventory)
        self._view.use(self._registry, self.driver)

    def repositories(self) -> Iterator[str]:
        return iter(self._view.repositories())

    def _view_of(self, repository: str) -> StorageView:
        """Return the survey, or the storage itself for what the survey could not read."""
        return self._live if repository in self._view.unreadable else self._view

    def tags(self, repository: str) -> Iterator[Tag]:
        return self._view_of(repository).tags(repository)

    def tagged(self, repository: str, tag: Tag) -> Digest:
        return self._view_of(repository).tagged(repository, tag)

    def tagged_ns(self, repository: str, tag: Tag) -> int:
        return self._view_of(repository).tagged_ns(repository, tag)

    def history(self, repository: str, tag: Tag) -> Sequence[Digest]:
        return self._view_of(repository).history(repository, tag)

    def revisions(self, repository: str) -> Iterator[Digest]:
        return self._view_of(repository).digests(repository, LinkKind.REVISION)

    def blobs(self, repository: str) -> Iterator[Digest]:
        return self._view_of(repository).digests(repository, LinkKind.LAYER)

    def referrers(self, repository: str, digest: Digest) -> Sequence[Digest]:
        return self._view_of(repository).referrers(repository, digest)

    def outline(self, repository: str, digest: Digest) -> Outline:
        return self._view_of(repository).outline(repository, digest)

    def size(self, repository: str, digest: Digest) -> int:
        return self._view_of(repository).size(repository, digest)

    def manifest(self, repository: str, digest: Digest) -> bytes:
        try:
            target = self._view_of(repository).resolve(repository, LinkKind.REVISION, digest)
            payload = self.driver.read_at(paths.blob_data(target), 0, MAX_CONTENT + 1)
        except (BlobUnknown, PathNotFound):
            raise ManifestUnknown(digest) from None
        except NotAFile:
            raise BlobDamaged(f"manifest {digest} is a directory") from None
        if Digest.of(payload, digest.algorithm) != digest:
            raise DigestMismatch(f"the content of manifest {digest} does not match its digest")
        return payload

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
        return self._view_of(repository).resolve(repository, LinkKind.LAYER, digest)

    def close(self) -> None:
        self._view.close()
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

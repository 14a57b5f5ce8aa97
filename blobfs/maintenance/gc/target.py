"""The storage that a collection changes, with the descriptor cache of its registries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from typing import TypeVar

from blobfs import paths
from blobfs.cache.base import DescriptorCache
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver, map_each, stat_or_none
from blobfs.drivers.location import Location
from blobfs.errors import BlobUnknown, PathNotFound
from blobfs.inventory.rows import LinkKind, unpack
from blobfs.inventory.scanning import hash_fault, opened
from blobfs.maintenance.gc.rules import Link
from blobfs.reference import RepositoryName, Tag
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.linkedblobstore import LinkedBlobStore

A = TypeVar("A")
T = TypeVar("T")


class PutBack(Enum):
    """The result of ``ChangedStorage.put_back``."""

    DONE = 0
    DIFFERS = 1
    """A blob of another size was stored meanwhile. Both remain, for a person to decide."""
    GONE = 2
    """Neither exists."""


class ChangedStorage:
    """Removes and restores links and blobs, and clears them in *cache*. Thread-safe.

    A change of the storage comes before the clear, so a registry that looks again finds the change.
    """

    def __init__(self, storage: Location, cache: DescriptorCache) -> None:
        self.driver: StorageDriver = opened(storage)
        self._cache = cache
        self._blobs = BlobStore(self.driver)
        # A listing of an object store may have fractions of a second, a HEAD has none.
        self._precision_ns = 10**9 if self.driver.is_object_store else 1

    def unlink(self, repository: str, link: Link) -> None:
        """Remove a link, unless it is missing, or was written again since it was read.

        The caller then calls ``clear``.
        """
        if link.digest is None:
            raise ValueError("a tag's current link is never removed")
        digest, links = unpack(link.digest), self._links(repository, link)
        try:
            info = self.driver.stat(paths.link(links.link_set, digest))
            if abs(info.mtime_ns - link.mtime) < self._precision_ns:
                links.delete(digest)
        except (PathNotFound, BlobUnknown):
            pass

    def link(self, repository: str, link: Link) -> None:
        """Restore a link."""
        if link.digest is None:
            raise ValueError("a tag's current link is never removed")
        self._links(repository, link).link(unpack(link.digest), unpack(link.target))

    def clear(self, repository: str, links: Iterable[Link]) -> None:
        """Clear removed links in the cache; a registry may set them again for a short time."""
        digests = [unpack(link.digest) for link in links if link.digest is not None]
        self._cache.clear_many(digests, RepositoryName(repository))

    def set_aside(self, digest: Digest, aside: str, before_ns: int) -> bool:
        """Hide a blob from registries, by a move to *aside*, a path of this run alone.

        False if it is missing, or was stored again since *before_ns*.
        """
        data = paths.blob_data(digest)
        try:
            if self._blobs.metadata.stat_now(data).mtime_ns >= before_ns:
                return False
            self.driver.move(data, aside)
        except PathNotFound:
            return False
        self._cache.clear(digest)
        return True

    def best_first(self, digest: Digest, asides: Sequence[str]) -> list[str]:
        """Return the paths of data of one blob in the order in which to put them back.

        Of data of several sizes, one with the digest is the first, or else the largest.
        """
        infos = self.driver.stat_many(asides)
        sizes = [-1 if info is None else info.size for info in infos]
        found = [path for _, path in sorted(zip(sizes, asides, strict=True), reverse=True)]
        if len(set(sizes) - {-1}) > 1:
            found.sort(key=lambda path: hash_fault(self.driver, digest, path) is not None)
        return found

    def put_back(self, digest: Digest, aside: str) -> PutBack:
        """Undo ``set_aside``. A blob that was stored again meanwhile stays."""
        data = paths.blob_data(digest)
        [new, old] = self.driver.stat_many([data, aside])
        if old is None:
            return PutBack.GONE if new is None else PutBack.DONE
        if new is not None and new.size != old.size:
            return PutBack.DIFFERS
        try:
            if new is None:
                self.driver.move(aside, data)
            else:
                self.driver.delete(aside)
        except PathNotFound:  # another collection was faster
            return PutBack.GONE if stat_or_none(self.driver, data) is None else PutBack.DONE
        return PutBack.DONE

    def drop(self, digest: Digest, aside: str) -> int | None:
        """Delete a blob that was set aside, and return its size; None if it is gone already."""
        size: int | None
        try:
            size = self._blobs.metadata.stat_now(aside).size
            self.driver.delete(aside)
        except PathNotFound:
            size = None
        self._cache.clear(digest)
        return size

    def map(self, call: Callable[[A], T], items: Iterable[A]) -> Iterator[tuple[A, T]]:
        """Yield each item with the result of *call*; many at once on a remote storage."""
        return map_each(self.driver, call, items)

    def _links(self, repository: str, link: Link) -> LinkedBlobStore:
        name = RepositoryName(repository)
        if link.kind == LinkKind.LAYER:
            links = paths.layers(name)
        elif link.kind == LinkKind.REVISION:
            links = paths.revisions(name)
        else:
            links = paths.tag_index(name, Tag(link.tag))
        return LinkedBlobStore(self.driver, self._blobs, links)

"""A driver that answers metadata calls from listings of an object store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import md5

from blobfs import paths
from blobfs.drivers.base import DirEntry, FileInfo, FileWriter, StorageDriver, stat_or_none
from blobfs.drivers.objectstore import ObjectStore
from blobfs.drivers.wrapper import ChangingWrapper, RemoteWrapper, ResumableWrapper, WriterWrapper
from blobfs.errors import PathNotFound
from blobfs.storage.listing.base import MetadataCache
from blobfs.storage.listing.blob_stats import BlobStats
from blobfs.storage.listing.cache import ListingCache, is_listed


def _nothing_is_held(path: str) -> None:
    """Do nothing."""


class ListedDriver(ChangingWrapper, ResumableWrapper, RemoteWrapper, MetadataCache):
    """Metadata cache over *driver*, which is *store* or a wrapper of it.

    Listings are valid for *name_ttl_s* seconds, attributes of blobs for *content_ttl_s*. Changes
    through this driver are visible at once. *discard* discards the bytes of a path that *driver*
    holds. Thread-safe.
    """

    def __init__(
        self,
        driver: StorageDriver,
        store: ObjectStore,
        discard: Callable[[str], None] = _nothing_is_held,
        *,
        name_ttl_s: float,
        content_ttl_s: float,
    ) -> None:
        super().__init__(driver)
        self._store = self._uploads = store
        self._discard = discard
        self._listings = ListingCache(store, name_ttl_s)
        self._blobs = BlobStats(store, paths.BLOBS, content_ttl_s, name_ttl_s)
        store.watch(self._changed)

    def _changed(self, path: str) -> None:
        """Invalidate the cached state of *path* and of all below it, which may have changed."""
        if is_listed(path):
            self._listings.invalidate(path)
        else:
            self._blobs.invalidate(path)

    @contextmanager
    def changing(self, path: str) -> Iterator[None]:
        try:
            yield
        finally:
            self._changed(path)

    def stat(self, path: str) -> FileInfo:
        if is_listed(path):
            return self._listings.of(path).stat(path)
        if not _is_blob(path):
            return self._driver.stat(path)
        if self._blobs.is_missing(path):
            raise PathNotFound(path)
        return self._blobs.get(path) or self.stat_now(path)

    def stat_now(self, path: str) -> FileInfo:
        if not _is_blob(path):
            return self._store.stat_now(path)
        self._blobs.invalidate(path)
        with self._blobs.request() as put:
            info = self._store.stat_now(path)
            put([(path, info)])
        return info

    def stat_many(self, paths: Sequence[str]) -> list[FileInfo | None]:
        self.prefetch(paths)
        found = {path: self._blobs.get(path) for path in paths}
        blobs = [
            path for path, info in found.items() if info is None and self._is_unknown_blob(path)
        ]
        found.update(zip(blobs, self._store.stat_files(blobs), strict=True))
        return [found[path] if _is_blob(path) else stat_or_none(self, path) for path in paths]

    def _is_unknown_blob(self, path: str) -> bool:
        """True if *path* is a blob's that was not missing a moment ago."""
        return _is_blob(path) and not self._blobs.is_missing(path)

    def prefetch(self, paths: Sequence[str]) -> None:
        blobs = [path for path in paths if _is_blob(path)]
        if blobs:
            self._blobs.prefetch(blobs)

    def is_known_to_hold(self, path: str, content: bytes) -> bool:
        listing = self._listings.known(path) if is_listed(path) else None
        file = listing.files.get(path) if listing is not None else None
        return (
            file is not None
            and file.size == len(content)
            and file.etag == md5(content, usedforsecurity=False).hexdigest()
        )

    def invalidate(self, path: str) -> None:
        self._discard(path)

    def listdir(self, path: str) -> Iterator[DirEntry]:
        if is_listed(path):
            return self._listings.of_children(path).listdir(path)
        return self._driver.listdir(path)

    def read_at(self, path: str, offset: int, size: int) -> bytes:
        listing = self._listings.known(path) if is_listed(path) else None
        if listing is not None:
            listing.stat(path)  # raises PathNotFound
        return self._driver.read_at(path, offset, size)

    def stat_unfinished(self, path: str, token: str = "") -> FileInfo:
        if not token and is_listed(path):
            token = self._listings.unfinished(path)
            if not token:
                return self.stat(path)
        return self._store.stat_unfinished(path, token)

    def create(self, path: str) -> FileWriter:
        return _InvalidatingWriter(super().create(path), partial(self._changed, path))

    def append(self, path: str, token: str = "") -> FileWriter:
        return _InvalidatingWriter(super().append(path, token), partial(self._changed, path))


class _InvalidatingWriter(WriterWrapper):
    """Calls *changed* after each call that may change a stored file."""

    def __init__(self, writer: FileWriter, changed: Callable[[], None]) -> None:
        super().__init__(writer)
        self._changed = changed

    def flush(self) -> None:
        self._end(self._writer.flush)

    def commit(self) -> None:
        self._end(self._writer.commit)

    def cancel(self) -> None:
        self._end(self._writer.cancel)

    def close(self) -> None:
        self._end(self._writer.close)

    def _end(self, call: Callable[[], None]) -> None:
        try:
            call()
        finally:
            self._changed()


def _is_blob(path: str) -> bool:
    return path.startswith(f"{paths.BLOBS}/") and path.endswith("/data")

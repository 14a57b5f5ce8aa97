"""The driver that reads blobs from the disk cache, and the cache's interface to it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from blobfs import metrics, paths
from blobfs.concurrency import guard
from blobfs.digest import Descriptor
from blobfs.drivers.base import FileReader, StorageDriver
from blobfs.drivers.wrapper import DriverWrapper
from blobfs.errors import DigestMismatch, MountRefused
from blobfs.logs import about
from blobfs.storage.diskcache.downloads import Download, Downloads, IdleLimits
from blobfs.storage.diskcache.entries import Entries
from blobfs.storage.diskcache.health import Health
from blobfs.storage.diskcache.quota import Bounds, SpaceQuota

_VERSION: Final = "v1"
"""The directory of this file format; another format uses another directory."""

_IDLE_SHARE: Final = 8
"""Divisor of the cache's size: the limit of idle downloads."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """Directory and limits of the cache: at most *size* bytes, at least *min_free* bytes free.

    A partial download is dropped after *idle_s* seconds without a reader. A directory that failed
    is tried again after *retry_s*. A lock that another process holds for *patience_s* is a failure.
    """

    directory: Path
    size: int = 10 * 2**30
    min_free: int = 2**30
    idle_s: float = 600.0
    retry_s: float = 30.0
    patience_s: float = 1.0


class BlobCache:
    """The cache in this process. Thread-safe; its lock guards the counters.

    A blob's *entry* is complete and verified; a *download* is incomplete. Failures of the disk are
    counted and logged, never raised, so that reads continue from the store.
    """

    def __init__(self, options: CacheOptions) -> None:
        root = options.directory / _VERSION
        self._lock = guard()
        self._hits = self._misses = self._damaged = 0
        self._health = Health(options.directory, options.retry_s)
        self._entries = Entries(root)
        bounds = Bounds(options.size, options.min_free, options.patience_s)
        self._quota = SpaceQuota(root, self._entries, bounds)
        idle = IdleLimits(options.size // _IDLE_SHARE, options.idle_s)
        self._downloads = Downloads(self._quota, self._entries, self._health, idle)

    @classmethod
    def opened(cls, options: CacheOptions) -> BlobCache:
        """Open a cache and create its directory; raises MountRefused if that is unfit."""
        cache = cls(replace(options, directory=options.directory.resolve()))
        try:
            cache._quota.open()
        except OSError as exc:
            raise MountRefused(
                f"{exc.filename or options.directory} cannot be used as a cache: {exc.strerror};"
                " give a directory that only you can write"
            ) from None
        return cache

    def stats(self) -> dict[str, int]:
        """Return counters of reads, entries and failures since the start, and the bytes held.

        It does not touch the disk, which may hang: it is called on the event loop.
        """
        with self._lock:
            counters = {"hits": self._hits, "misses": self._misses, "damaged": self._damaged}
        return counters | {
            "stored": self._downloads.stored,
            "mismatched": self._downloads.mismatched,
            "evicted": self._quota.evicted,
            "failures": self._health.failures,
            "held_bytes": self._quota.last_held_bytes,
        }

    def read_at(self, blob: Descriptor, offset: int, size: int) -> bytes | None:
        """Return *size* verified bytes of *blob*'s entry; None if there is no valid entry."""
        data = None
        try:
            data = self._entries.read_at(blob, offset, size)
        except DigestMismatch as exc:
            log.warning(
                "a damaged entry of the cache was removed: %s", exc, extra=about(digest=blob.digest)
            )
            with self._lock:
                self._damaged += 1
        except OSError as exc:
            self._health.failed(exc)
        with self._lock:
            self._hits += data is not None
            self._misses += data is None
        return data

    def join(self, blob: Descriptor) -> Download | None:
        """Return the download for a new reader of *blob*; None if it cannot be cached now."""
        if not self._health.is_usable():
            return None
        try:
            if self._health.needs_repair:
                self._quota.prepare()
                self._health.needs_repair = False
            return self._downloads.join(blob)
        except OSError as exc:
            self._failed(exc)
            return None

    def add(self, download: Download, offset: int, data: bytes) -> None:
        """Add *data* from the store to a download."""
        try:
            self._downloads.add(download, offset, data)
        except OSError as exc:
            self._failed(exc)

    def leave(self, download: Download) -> None:
        """Count a closed reader of a download."""
        try:
            self._downloads.leave(download)
        except OSError as exc:
            self._failed(exc)

    def close(self) -> None:
        """Drop the incomplete downloads, and release the directory."""
        try:
            self._downloads.close()
        except OSError as exc:
            self._failed(exc)
        self._quota.close()

    def _failed(self, exc: OSError) -> None:
        """Note a failure and drop all downloads, because the disk may be full."""
        self._health.failed(exc)
        try:
            self._downloads.drop_all()
        except OSError as again:
            log.debug("%s", again)


class CachedDriver(DriverWrapper):
    """Driver wrapper that reads blobs from the disk cache, and stores what it reads there.

    It owns the cache. Thread-safe.
    """

    def __init__(self, driver: StorageDriver, cache: BlobCache) -> None:
        super().__init__(driver)
        self._cache = cache
        metrics.DISK_CACHE.watch(self)

    @classmethod
    def opened(cls, driver: StorageDriver, options: CacheOptions) -> CachedDriver:
        """Wrap *driver* with a new cache; raises MountRefused."""
        return cls(driver, BlobCache.opened(options))

    def stats(self) -> dict[str, int]:
        """Return the cache's counters."""
        return self._cache.stats()

    def open(self, path: str, size: int | None = None) -> FileReader:
        reader = self._driver.open(path, size)
        digest = paths.digest_of_blob(path)
        if digest is None:
            return reader
        return _Reader(reader, Descriptor(digest, reader.size), self._cache)

    def close(self) -> None:
        self._cache.close()
        super().close()


class _Reader(FileReader):
    """Reader of one blob; the lock guards its download, which it joins at the first miss."""

    def __init__(self, reader: FileReader, blob: Descriptor, cache: BlobCache) -> None:
        self._reader = reader
        self._blob = blob
        self._cache = cache
        self._lock = guard()
        self._has_joined = False
        self._download: Download | None = None

    @property
    def size(self) -> int:
        return self._blob.size

    def read_at(self, offset: int, size: int) -> bytes:
        size = min(size, self._blob.size - offset)
        if size <= 0:
            return b""
        data = self._cache.read_at(self._blob, offset, size)
        if data is None:
            data = self._reader.read_at(offset, size)
            download = self._joined()
            if download is not None:
                self._cache.add(download, offset, data)
        return data

    def _joined(self) -> Download | None:
        if not self._has_joined:
            self._join()
        return self._download

    def _join(self) -> None:
        download = self._cache.join(self._blob)
        with self._lock:
            is_first = not self._has_joined
            if is_first:
                self._download, self._has_joined = download, True
        if not is_first and download is not None:  # another thread has joined it, or ``close``
            self._cache.leave(download)

    def close(self) -> None:
        with self._lock:
            download, self._download = self._download, None
            self._has_joined = True
        if download is not None:
            self._cache.leave(download)
        self._reader.close()

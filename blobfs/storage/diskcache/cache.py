"""The blobs of an object store, kept on a local disk by the digest that names them.

An entry is made of a blob only after all of it was held to its digest, and is then written with
checks of its parts, to which each later read of it is held, in every mount: so even the first byte
of a large one comes at once, and what has rotted since is never served. What the entry cannot give
is read from the store, and so is everything while the cache's directory fails.

``entries`` has the files, ``quota`` bounds them and shares them with other
processes, and ``downloads`` makes them of what is read.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Final

from blobfs import metrics, paths
from blobfs.digest import Descriptor
from blobfs.drivers.base import FileReader, StorageDriver
from blobfs.drivers.wrapper import DriverWrapper
from blobfs.errors import DigestMismatch, MountRefused, PathInvalid
from blobfs.logs import about
from blobfs.storage.diskcache.downloads import Download, Downloads, IdleLimits
from blobfs.storage.diskcache.entries import Entries
from blobfs.storage.diskcache.health import Health
from blobfs.storage.diskcache.quota import Bounds, SpaceQuota

_VERSION: Final = "v1"
"""What another version writes it keeps elsewhere."""

_IDLE_SHARE: Final = 8
"""The share of the size, as a divisor, that blobs may take that were only begun to be read."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """Where blobs are kept, in at most *size* bytes, and as long as *min_free* bytes are free.

    What was read in part is dropped after *idle_s*. A directory that failed, such as by being
    locked by another process for *patience_s*, is tried again after *retry_s*.
    """

    directory: Path
    size: int = 10 * 2**30
    min_free: int = 2**30
    idle_s: float = 600.0
    retry_s: float = 30.0
    patience_s: float = 1.0


class BlobCache:
    """The cache, as this process uses it. Thread-safe; it raises nothing.

    A blob's *entry* is complete and verified, a *download* is becoming one.
    """

    def __init__(self, options: CacheOptions) -> None:
        root = options.directory / _VERSION
        self._lock = Lock()
        self._hits = self._misses = self._damaged = 0
        self._health = Health(options.directory, options.retry_s)
        self._entries = Entries(root)
        bounds = Bounds(options.size, options.min_free, options.patience_s)
        self._quota = SpaceQuota(root, self._entries, bounds)
        idle = IdleLimits(options.size // _IDLE_SHARE, options.idle_s)
        self._downloads = Downloads(self._quota, self._entries, self._health, idle)

    @classmethod
    def opened(cls, options: CacheOptions) -> BlobCache:
        """A cache whose directory is fit for it; raises MountRefused."""
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
        """Counters since the start, of reads, entries and failures, and the bytes that are held."""
        with self._lock:
            counters = {"hits": self._hits, "misses": self._misses, "damaged": self._damaged}
        return counters | {
            "stored": self._downloads.stored,
            "mismatched": self._downloads.mismatched,
            "evicted": self._quota.evicted,
            "failures": self._health.failures,
            "held_bytes": self._held_bytes(),
        }

    def _held_bytes(self) -> int:
        try:
            return self._quota.held_bytes()
        except OSError:
            return 0

    def read_at(self, blob: Descriptor, offset: int, size: int) -> bytes | None:
        """*size* bytes of *blob*'s entry, checked; None if there is no good one."""
        data = None
        try:
            data = self._entries.read_at(blob, offset, size)
        except DigestMismatch as exc:
            log.warning(
                "an entry of the cache is dropped: %s", exc, extra=about(digest=blob.digest)
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
        """What a reader of *blob* is to keep in what it read; None if it cannot be cached now."""
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

    def keep(self, download: Download, offset: int, data: bytes) -> None:
        """Have *data*, which was read from the store."""
        try:
            self._downloads.add(download, offset, data)
        except OSError as exc:
            self._failed(exc)

    def leave(self, download: Download) -> None:
        """Note that a reader is closed."""
        try:
            self._downloads.leave(download)
        except OSError as exc:
            self._failed(exc)

    def close(self) -> None:
        """Let go of the directory, and of what is not complete."""
        try:
            self._downloads.close()
        except OSError as exc:
            self._failed(exc)
        self._quota.close()

    def _failed(self, exc: OSError) -> None:
        """Note a failure, and let go of what is being filled: there may be no room for it."""
        self._health.failed(exc)
        try:
            self._downloads.drop_all()
        except OSError as again:
            log.debug("%s", again)


class CachedDriver(DriverWrapper):
    """Reads blobs from a cache on disk as far as they are there, and fills it."""

    def __init__(self, driver: StorageDriver, cache: BlobCache) -> None:
        super().__init__(driver)
        self._cache = cache
        metrics.DISK_CACHE.watch(self)

    @classmethod
    def opened(cls, driver: StorageDriver, options: CacheOptions) -> CachedDriver:
        """A driver over *driver* with a cache of its own; raises MountRefused."""
        return cls(driver, BlobCache.opened(options))

    def stats(self) -> dict[str, int]:
        """Counters of the cache."""
        return self._cache.stats()

    def open(self, path: str) -> FileReader:
        return self._cached(path, self._driver.open(path))

    def open_of_size(self, path: str, size: int) -> FileReader:
        return self._cached(path, self._driver.open_of_size(path, size))

    def close(self) -> None:
        self._cache.close()
        super().close()

    def _cached(self, path: str, reader: FileReader) -> FileReader:
        if not path.startswith(f"{paths.BLOBS}/"):
            return reader
        try:
            digest = paths.parse(path).digest
        except PathInvalid:
            return reader
        return (
            reader
            if digest is None
            else _Reader(reader, Descriptor(digest, reader.size), self._cache)
        )


class _Reader(FileReader):
    def __init__(self, reader: FileReader, blob: Descriptor, cache: BlobCache) -> None:
        self._reader = reader
        self._blob = blob
        self._cache = cache
        self._lock = Lock()
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
                self._cache.keep(download, offset, data)
        return data

    def _joined(self) -> Download | None:
        with self._lock:
            if not self._has_joined:
                self._has_joined = True
                self._download = self._cache.join(self._blob)
            return self._download

    def close(self) -> None:
        with self._lock:
            download, self._download = self._download, None
            self._has_joined = True
        if download is not None:
            self._cache.leave(download)
        self._reader.close()

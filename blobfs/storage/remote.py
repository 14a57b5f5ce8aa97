"""What makes an object store quick enough to be looked into."""

from __future__ import annotations

from dataclasses import dataclass, field

from blobfs.drivers.base import StorageDriver
from blobfs.drivers.objectstore import ObjectStore
from blobfs.drivers.prefetch.driver import ReadAheadDriver, ReadAheadOptions
from blobfs.storage.diskcache.cache import CachedDriver, CacheOptions
from blobfs.storage.listing.driver import ListedDriver


@dataclass(frozen=True, slots=True)
class RemoteOptions:
    """How an object store is remembered and read; durations are in seconds.

    What was listed is taken to be so for *name_ttl_s*, and a blob's size for *content_ttl_s*.
    """

    name_ttl_s: float = 1.0
    content_ttl_s: float = 3600.0
    read_ahead: ReadAheadOptions = field(default_factory=ReadAheadOptions)
    cache: CacheOptions | None = None


def with_caching(store: ObjectStore, options: RemoteOptions) -> StorageDriver:
    """A driver over *store* that asks it as seldom as *options* allow, and reads ahead.

    Raises MountRefused for a directory that cannot be a cache.
    """
    cached = store if options.cache is None else CachedDriver.opened(store, options.cache)
    return ListedDriver(
        ReadAheadDriver(cached, options.read_ahead),
        store,
        name_ttl_s=options.name_ttl_s,
        content_ttl_s=options.content_ttl_s,
    )

"""The protocol of a metadata cache, as the stores of a registry use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from blobfs.drivers.base import FileInfo, StorageDriver
from blobfs.drivers.objectstore import ObjectStore


@runtime_checkable
class MetadataCache(Protocol):
    """Attributes of files from a cache, and from the storage itself. Thread-safe."""

    def stat_now(self, path: str) -> FileInfo:
        """``stat`` of a file in the storage itself, never from a cache, for writers.

        Raises PathNotFound, and may raise it for a directory.
        """

    def prefetch(self, paths: Sequence[str]) -> None:
        """Load the attributes of *paths* into the cache, by fewer requests than by ``stat``."""

    def is_known_to_hold(self, path: str, content: bytes) -> bool:
        """True if the cache shows, without a request, that the file's content is *content*."""

    def invalidate(self, path: str) -> None:
        """Invalidate the cached bytes of a file, as they were wrong."""


class _Uncached:
    """The metadata of a driver without a cache."""

    def __init__(self, driver: StorageDriver) -> None:
        self.stat_now = driver.stat_now if isinstance(driver, ObjectStore) else driver.stat

    def prefetch(self, paths: Sequence[str]) -> None:
        """Do nothing."""

    def is_known_to_hold(self, path: str, content: bytes) -> bool:
        return False

    def invalidate(self, path: str) -> None:
        """Do nothing."""


def metadata_of(driver: StorageDriver) -> MetadataCache:
    """Return the metadata cache of *driver*; call it once, as the check is slow."""
    return driver if isinstance(driver, MetadataCache) else _Uncached(driver)

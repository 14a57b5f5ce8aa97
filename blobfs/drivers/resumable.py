"""Resumable uploads: the files that a writer has begun, and that ``append`` continues."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

from blobfs.drivers.base import FileInfo, StorageDriver


class Unfinished(NamedTuple):
    """An unfinished file: a multipart upload of an object store, or a temporary file.

    *began* is in seconds since the epoch.
    """

    path: str
    token: str
    began: float


@runtime_checkable
class ResumableUploads(Protocol):
    """Finds unfinished files, and removes them. Thread-safe."""

    def stat_unfinished(self, path: str, token: str = "") -> FileInfo:
        """The attributes of the file that ``append`` would continue; raises PathNotFound."""

    def unfinished(self, path: str) -> Iterator[Unfinished]:
        """List the unfinished files, hidden elsewhere, whose paths begin with *path*."""

    def abandon(self, unfinished: Unfinished) -> None:
        """Remove a file that ``unfinished`` listed; a missing one is no error."""


class _VisibleUploads:
    """The unfinished files of a driver that hides none: they are files like the others."""

    def __init__(self, driver: StorageDriver) -> None:
        self._driver = driver

    def stat_unfinished(self, path: str, token: str = "") -> FileInfo:
        return self._driver.stat(path)

    def unfinished(self, path: str) -> Iterator[Unfinished]:
        return iter(())

    def abandon(self, unfinished: Unfinished) -> None:
        """Do nothing: ``unfinished`` lists no file."""


def uploads_of(driver: StorageDriver) -> ResumableUploads:
    """Return the resumable uploads of *driver*; call it once, as the check is slow."""
    return driver if isinstance(driver, ResumableUploads) else _VisibleUploads(driver)

"""The protocol of drivers that copy a file of another driver without reading it here."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from blobfs.drivers.base import StorageDriver


@runtime_checkable
class Copying(Protocol):
    """A driver of the same server or file system as another one may copy from that."""

    def copy_from(self, other: StorageDriver, source: str, path: str, size: int) -> bool:
        """Create or replace *path* by the file at *source* of *other*, which has *size* bytes.

        It is atomic and durable. False, with nothing changed, if only reading copies it.
        """

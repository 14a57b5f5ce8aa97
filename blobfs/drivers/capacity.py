"""The capacity of a driver's storage."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final, Protocol, Self, runtime_checkable

from blobfs.drivers.base import StorageDriver


@dataclass(frozen=True, slots=True)
class Capacity:
    """The capacity of a backend, in bytes and in files."""

    size: int
    free: int
    available: int
    files: int
    files_free: int

    @classmethod
    def of(cls, found: os.statvfs_result) -> Self:
        """Return the capacity of a file system."""
        return cls(
            size=found.f_blocks * found.f_frsize,
            free=found.f_bfree * found.f_frsize,
            available=found.f_bavail * found.f_frsize,
            files=found.f_files,
            files_free=found.f_ffree,
        )


UNBOUNDED: Final = Capacity(2**60, 2**60, 2**60, 2**40, 2**40)
"""The capacity that programs are told of a storage without a known bound."""


@runtime_checkable
class Bounded(Protocol):
    """A driver whose storage may have a known bound."""

    def capacity(self) -> Capacity | None:
        """The storage's capacity; None if it has no known bound."""


def capacity_of(driver: StorageDriver) -> Capacity | None:
    """The capacity of a driver's storage; None if it has no known bound."""
    return driver.capacity() if isinstance(driver, Bounded) else None

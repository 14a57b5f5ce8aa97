"""How much of what is being uploaded may be in memory, all uploads of the process together."""

from __future__ import annotations

from threading import RLock
from typing import Final


class MemoryBudget:
    """Bytes that may be held. Thread-safe."""

    def __init__(self, size: int) -> None:
        self._lock = RLock()  # also taken while garbage is collected
        self._left = size

    def has(self, size: int) -> bool:
        """Whether there is room for *size* more bytes, at this moment."""
        return size <= self._left

    def take(self, size: int) -> bool:
        """Whether *size* more bytes may be held; they are then, until they are given back."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def give_back(self, size: int) -> None:
        """Let go of bytes that were taken."""
        with self._lock:
            self._left += size


UPLOADS: Final = MemoryBudget(64 * 2**20)
"""What many small uploads share; one more goes to the storage at once."""


class MemoryReservation:
    """What one upload holds of ``UPLOADS``, until it lets go or is lost itself."""

    def __init__(self) -> None:
        self._size = 0

    def grow(self, size: int) -> bool:
        """Whether it may hold *size* bytes in all; then it does."""
        more = max(0, size - self._size)
        if not UPLOADS.take(more):
            return False
        self._size += more
        return True

    def let_go(self) -> None:
        """Give all of it back."""
        size, self._size = self._size, 0
        UPLOADS.give_back(size)

    def __del__(self) -> None:
        self.let_go()  # of somebody who had stopped waiting

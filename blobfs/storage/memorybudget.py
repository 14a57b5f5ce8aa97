"""How much of what is being uploaded may be in memory, all uploads of the process together."""

from __future__ import annotations

from threading import RLock
from typing import Final


class MemoryBudget:
    """Bytes that may be held. Thread-safe."""

    def __init__(self, size: int) -> None:
        self._lock = RLock()  # also taken while garbage is collected
        self._left = size

    def take(self, size: int) -> bool:
        """Whether *size* more bytes may be held; they are then, until they are given back."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def has(self, size: int) -> bool:
        """Whether there is room for *size* more bytes, at this moment."""
        return size <= self._left

    def give_back(self, size: int) -> None:
        """Let go of bytes that were taken."""
        with self._lock:
            self._left += size


UPLOADS: Final = MemoryBudget(64 * 2**20)
"""What many small uploads share; one more goes to the storage at once."""

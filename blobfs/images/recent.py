"""The values that were used last."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from blobfs.concurrency import guard

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """The *limit* values that were used last. Thread-safe by its lock."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = guard()
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Return the value of *key*, or None."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key]

    def put(self, key: K, value: V) -> V:
        """Keep and return *value*."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            dropped = self._values.popitem(last=False) if len(self._values) > self._limit else None
        del dropped  # a finalizer may do I/O
        return value

    def discard(self, key: K) -> None:
        """Keep the value of *key* no longer."""
        with self._lock:
            dropped = self._values.pop(key, None)
        del dropped  # as in put

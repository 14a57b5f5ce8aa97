"""Calls that each wait for a remote storage, made side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Final, TypeVar

from blobfs.drivers.base import StorageDriver

A = TypeVar("A")
T = TypeVar("T")

_BATCH: Final = 128
"""Calls that are queued at once, so that two callers of thousands take turns."""

_POOL: Final = ThreadPoolExecutor(32, thread_name_prefix="blobfs-parallel")


def map_parallel(driver: StorageDriver, call: Callable[[A], T], items: Iterable[A]) -> Iterator[T]:
    """The results of *call*, which asks *driver*, for each of *items*, in their order.

    All callers share 32 threads; a local driver is asked in the caller's thread. *call* must not
    use this function. Raises what *call* raises.
    """
    if driver.is_local:
        yield from map(call, items)
        return
    left = iter(items)
    while batch := list(islice(left, _BATCH)):
        yield from _POOL.map(call, batch)

"""Concurrent calls to a remote storage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Final, TypeVar

from blobfs.drivers.base import StorageDriver

A = TypeVar("A")
T = TypeVar("T")

_BATCH: Final = 128
"""Calls that one caller queues at once, so that two callers of thousands alternate."""

_POOL: Final = ThreadPoolExecutor(32, thread_name_prefix="blobfs-parallel")


def map_parallel(driver: StorageDriver, call: Callable[[A], T], items: Iterable[A]) -> Iterator[T]:
    """Yield the results of *call*, which uses *driver*, for each of *items* in order.

    All callers share 32 threads; for a local driver *call* runs in the caller's thread. *call*
    must not use this function. Errors of *call* are raised.
    """
    if driver.is_local:
        yield from map(call, items)
        return
    left = iter(items)
    while batch := list(islice(left, _BATCH)):
        yield from _POOL.map(call, batch)

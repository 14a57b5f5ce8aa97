"""Threads for the storage calls of HTTP, apart from those of the mount."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar, TypeVarTuple

from blobfs.concurrency import ThreadPool
from blobfs.errors import StorageTimeout

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Workers:
    """Runs storage calls that only read, at most *limit* at a time."""

    def __init__(self, *, limit: int = 16, deadline_s: float = 50.0) -> None:
        self._threads = ThreadPool("http", limit)
        self._deadline_s = deadline_s
        self.submit = self._threads.submit
        self.close = self._threads.close

    async def run(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        """Return ``call(*args)``; raises StorageTimeout after the deadline.

        After a timeout or a cancellation the call goes on, and counts until it ends.
        """
        future = asyncio.wrap_future(self.submit(partial(call, *args)))
        try:
            await asyncio.wait((future,), timeout=self._deadline_s)
            if future.done():
                return future.result()
        finally:
            future.cancel()
        raise StorageTimeout(f"the storage did not answer within {self._deadline_s:g} s")

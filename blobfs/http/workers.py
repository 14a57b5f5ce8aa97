"""Threads for the storage calls of HTTP, apart from those of the mount."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import anyio
import anyio.to_thread

from blobfs.errors import StorageTimeout

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Workers:
    """Runs storage calls that only read, at most *limit* at a time. Used on the event loop only."""

    def __init__(self, *, limit: int = 16, deadline_s: float = 50.0) -> None:
        self._limiter = anyio.CapacityLimiter(limit)
        self._deadline_s = deadline_s

    async def run(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        """Return ``call(*args)``; raises StorageTimeout after the deadline.

        After a timeout or a cancellation the call goes on, and counts until it ends.
        """
        with anyio.move_on_after(self._deadline_s):
            return await anyio.to_thread.run_sync(
                call, *args, limiter=self._limiter, abandon_on_cancel=True
            )
        raise StorageTimeout(f"the storage did not answer within {self._deadline_s:g} s")

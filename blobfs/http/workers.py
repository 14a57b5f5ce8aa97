"""Where HTTP meets blocking storage: threads of its own, so that it takes none from the mount."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import anyio
import anyio.to_thread

from blobfs.errors import StorageTimeout

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Workers:
    """Runs storage calls, which change nothing, at most *limit* at a time."""

    def __init__(self, *, limit: int = 16, deadline_s: float = 50.0) -> None:
        self._limiter = anyio.CapacityLimiter(limit)
        self._deadline_s = deadline_s

    async def run(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        """The result of ``call(*args)``.

        Raises StorageTimeout after the deadline. Then, or once nobody waits for it any more, the
        call is left to itself, and keeps its place among the *limit* until it ends.
        """
        with anyio.move_on_after(self._deadline_s):
            return await anyio.to_thread.run_sync(
                call, *args, limiter=self._limiter, abandon_on_cancel=True
            )
        raise StorageTimeout(f"the storage did not answer within {self._deadline_s:g} s")

"""The limit of the event loop's time for HTTP, so that the mount does not wait for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar, TypeVarTuple

import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_REQUEST_S: Final = 0.0005
"""The approximate cost of HTTP itself for a request."""


class RateLimiter:
    """Delays requests, so that together they use at most *share* of the event loop's time.

    A single request does not wait. Used on the event loop only.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._turns = trio.Lock()  # first come, first served
        self._free_at = 0.0

    async def turn(self) -> None:
        """Wait until a request may begin."""
        async with self._turns:
            await trio.sleep_until(self._free_at)
            self._charge(_REQUEST_S)

    async def run(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        """Return ``work(*args)``, after ``turn``; its time on the event loop is charged."""
        await self.turn()
        began = trio.current_time()
        result = work(*args)
        self._charge(trio.current_time() - began)
        return result

    def _charge(self, seconds: float) -> None:
        self._free_at = max(self._free_at, trio.current_time()) + seconds / self._share

"""How much of the event loop HTTP may have: who asks without end waits, and the mount does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar, TypeVarTuple

import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_REQUEST_S: Final = 0.0005
"""What HTTP itself takes for a request, about."""


class RateLimiter:
    """Gives requests their turns, so that together they hold the loop for *share* of the time.

    One that comes alone does not wait. Used on the event loop only.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._turns = trio.Lock()  # first come, first served
        self._free_at = 0.0

    async def turn(self) -> None:
        """Wait until a request may be answered."""
        async with self._turns:
            await trio.sleep_until(self._free_at)
            self._charge(_REQUEST_S)

    async def run(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        """The result of ``work(*args)``, which holds the loop, in turn."""
        await self.turn()
        began = trio.current_time()
        result = work(*args)
        self._charge(trio.current_time() - began)
        return result

    def _charge(self, seconds: float) -> None:
        self._free_at = max(self._free_at, trio.current_time()) + seconds / self._share

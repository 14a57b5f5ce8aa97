"""pyfuse3's session with the kernel, whose reads of requests never block the event loop.

pyfuse3 waits until the device is readable, and then reads a request. In between the kernel may
withdraw the request: its program was killed, or the request that it would interrupt was answered.
The read then blocks until the next request. It holds the GIL, so no thread runs either.

Two functions of pyfuse3 are wrapped. One looks at the device, right before the read. The
kernel may still withdraw the request after that look, so the device does not block, and the other
function repeats the read. That is rare, and costs a buffer of 1 MiB, which pyfuse3 does not free.
"""

from __future__ import annotations

import os
import select
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

import pyfuse3

_FUSE_DEVICE: Final = os.makedev(10, 229)

BURST: Final = 8
"""Requests that are read before other tasks run (about 80 µs each)."""


class Device(Protocol):
    """The session's device, as a ``select.poll`` object."""

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        """Return the events of the device."""


def mount(operations: pyfuse3.Operations, mountpoint: str, options: set[str]) -> None:
    """Mount like ``pyfuse3.init``; ``pyfuse3.main`` then serves without blocking reads."""
    before = _devices()
    pyfuse3.init(operations, mountpoint, options)
    device = select.poll()
    for descriptor in _devices() - before:
        os.set_blocking(descriptor, False)
        device.register(descriptor, select.POLLIN)
    internals = vars(pyfuse3)
    internals["_wait_fuse_readable"] = RequestWaiter(internals["_wait_fuse_readable"], device)
    internals["_session_loop"] = partial(serve_again, internals["_session_loop"])


class RequestWaiter:
    """Waits for a request that still exists; False at the end of the session.

    A request that is there already is read at once, because a wait by epoll costs 15 µs. Before
    each ``BURST``-th request other tasks run. Used on the event loop only.
    """

    def __init__(self, wait: Callable[[], Awaitable[bool]], device: Device) -> None:
        self._wait = wait
        self._device = device
        self._calls = 0

    async def __call__(self) -> bool:
        self._calls += 1
        if self._calls % BURST and self._device.poll(0):
            return True
        while await self._wait():
            if self._device.poll(0):
                return True
        return False


async def serve_again(serve: Callable[..., Awaitable[None]], *args: object) -> None:
    """Serve requests; serve again after a read for which no request was left."""
    while True:
        with suppress(BlockingIOError):
            return await serve(*args)


def _devices() -> set[int]:
    """Return the descriptors of this process that are open on ``/dev/fuse``."""
    found = set()
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # the one that has listed them is closed
            if os.fstat(descriptor).st_rdev == _FUSE_DEVICE:
                found.add(descriptor)
    return found

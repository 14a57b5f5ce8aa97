"""Where async meets blocking: the one bridge from handlers to storage.

A hop to a worker thread and back costs about 140 µs, a local stat 2 µs. So what touches only
local storage runs on the event loop, and what may block runs in a worker; which of them it
is, the storage says, and handlers do not know. The inode and handle tables belong to the
event loop and need no locks; nodes, stores and drivers may run in either place, and do not
touch those tables.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, TypeVar, TypeVarTuple, cast

import trio

from blobfs.errors import BlobfsError, StorageTimeout
from blobfs.eventloop import TakesLong, waiting
from blobfs.fuse.waiting import Admission, ThreadPlaces

A = TypeVar("A")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_MANY_BLOCKS: Final = 64
"""Disk blocks of 512 bytes that one call may read before the next go to threads."""

_ITEMS: Final = 1024
"""Items of an iterator taken between two checkpoints (about 2 µs each)."""

_SLOW_FOR_S: Final = 0.5
"""How long the next calls are taken to need the disk too, before one is tried inline."""


class StorageThreads:
    """Runs storage calls: at once if *inline*, else in threads, of which some read, some write.

    A request that waits for a thread, or in one, is subject to *admission*.
    """

    def __init__(
        self,
        *,
        inline: bool,
        limit: int = 40,
        deadline_s: float = 60.0,
        admission: Admission | None = None,
    ) -> None:
        self.inline = inline
        self.admission = admission or Admission()
        self._readers = ThreadPlaces(limit)
        self._writers = ThreadPlaces(limit)
        self._deadline_s = deadline_s
        self._shared: dict[object, _Shared] = {}
        self._slow_until = 0.0  # as time.monotonic() has it

    async def run(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        """The result of ``call(*args)``, which changes nothing.

        A call that raises TakesLong on the event loop is made again in a thread. Raises
        StorageTimeout after the deadline, when the call is left to itself, and StorageOverloaded
        if too many requests wait.
        """
        if self.inline:
            try:
                with waiting:
                    return call(*args)
            except TakesLong:
                pass
        return await self.run_in_thread(call, *args)

    async def collect(self, iterate: Callable[[], Iterator[T]]) -> list[T]:
        """All that ``iterate()`` yields; like ``run``, begun anew in a thread where it takes long.

        An iterator that has raised TakesLong is over, and would seem to be at its end.
        """
        if self.inline:
            try:
                return await self._collect_inline(iterate)
            except TakesLong:
                pass
        return await self.collect_in_threads(iterate)

    async def _collect_inline(self, iterate: Callable[[], Iterator[T]]) -> list[T]:
        with waiting:
            remaining = iterate()
        found: list[T] = []
        while True:
            with waiting:
                found += (batch := _take(remaining))
            if len(batch) < _ITEMS:
                return found
            await trio.lowlevel.checkpoint()

    async def collect_in_threads(self, iterate: Callable[[], Iterator[T]]) -> list[T]:
        """Like ``collect``, but never on the event loop; each step has the deadline."""
        remaining = await self.run_in_thread(iterate)
        found: list[T] = []
        while batch := await self.run_in_thread(_take, remaining):
            found += batch
            if len(batch) < _ITEMS:
                break
        return found

    async def run_each(self, call: Callable[[A], T], arguments: Sequence[A]) -> list[T]:
        """The results of ``call`` for each of *arguments*, in their order.

        Those that may block run side by side. So do the calls to local storage that are left
        once one of them had to wait for its disk, which gains from being asked more at once.
        Raises what a call raised, StorageTimeout.
        """
        results: list[T] = []
        for argument in arguments:
            if not self.inline or time.monotonic() < self._slow_until:
                break
            if results:
                await trio.lowlevel.checkpoint()
            read_before = _blocks_read()
            try:
                with waiting:
                    results.append(call(argument))
            except TakesLong:
                break
            if _blocks_read() - read_before > _MANY_BLOCKS:
                self._slow_until = time.monotonic() + _SLOW_FOR_S
        left = arguments[len(results) :]
        return results + await self.run_each_in_threads(call, left) if left else results

    async def run_each_in_threads(self, call: Callable[[A], T], arguments: Sequence[A]) -> list[T]:
        """Like ``run_each``, but never on the event loop."""
        results: dict[int, T] = {}
        failures: list[BlobfsError] = []

        async def run_one(index: int, argument: A) -> None:
            try:
                results[index] = await self.run_in_thread(call, argument)
            except BlobfsError as exc:
                failures.append(exc)

        async with trio.open_nursery() as nursery:
            for index, argument in enumerate(arguments):
                nursery.start_soon(run_one, index, argument)
        if failures:
            raise failures[0]
        return [results[index] for index in range(len(arguments))]

    async def run_in_thread(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        """Like ``run``, but never on the event loop."""
        return await self._run_within(self._deadline_s, self._readers, call, *args)

    async def run_shared(self, key: object, call: Callable[[], T]) -> T:
        """Like ``run_in_thread``, but one call at a time of a *key*: others get its result."""
        while (shared := self._shared.get(key)) is not None:
            with self.admission.waiting():
                await shared.over.wait()
            if shared.has_result:
                return cast(T, shared.result)  # a key has one type
        shared = self._shared[key] = _Shared()
        try:
            shared.result = result = await self.run_in_thread(call)
            shared.has_result = True
        finally:
            del self._shared[key]
            shared.over.set()
        return result

    async def run_write(
        self, call: Callable[[*Ts], T], *args: *Ts, deadline_s: float | None = None
    ) -> T:
        """The result of ``call(*args)``, which writes: in a thread, as it may wait for a disk.

        Raises StorageTimeout after *deadline_s*; the call goes on to its end all the same.
        """
        return await self._run_within(deadline_s or self._deadline_s, self._writers, call, *args)

    async def _run_within(
        self, deadline_s: float, places: ThreadPlaces, call: Callable[[*Ts], T], *args: *Ts
    ) -> T:
        limiter = cast(trio.CapacityLimiter, places)  # trio takes what has two of its methods
        with self.admission.waiting(), trio.move_on_after(deadline_s):
            return await trio.to_thread.run_sync(
                call, *args, limiter=limiter, abandon_on_cancel=True
            )
        raise StorageTimeout(f"the storage did not answer within {deadline_s:g} s")


class _Shared:
    """A call whose result several tasks wait for."""

    def __init__(self) -> None:
        self.over = trio.Event()
        self.has_result = False
        self.result: Any = None


def _take(items: Iterator[T]) -> list[T]:
    return list(islice(items, _ITEMS))


def _blocks_read() -> int:
    """Blocks that this thread has had read from a disk, and so has waited for."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_inblock

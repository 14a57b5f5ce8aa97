"""The bridge from asynchronous handlers to blocking storage calls.

A switch to a worker thread and back costs about 140 µs, a local stat 2 µs. So calls to local
storage run on the event loop, and calls that may block run in a worker thread. Handlers do not
know which. Only the event loop uses the tables of inodes and handles, so they need no locks.
Nodes, stores and drivers run in either place, and do not use those tables.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, TypeVar, TypeVarTuple, cast

import trio

from blobfs.concurrency import TakesLong, call_began, waiting
from blobfs.errors import BlobfsError, StorageTimeout
from blobfs.fuse.waiting import Admission, ThreadPlaces

A = TypeVar("A")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_MANY_BLOCKS: Final = 64
"""Disk blocks of 512 bytes; after a call that reads more, the next calls go to threads."""

_ITEMS: Final = 1024
"""Items of an iterator taken between two checkpoints (about 2 µs each)."""

_SLOW_FOR_S: Final = 0.5
"""Time in which calls go to threads after a call that had to wait for the disk."""


class SlowPeriod:
    """The time after a slow call on the event loop, in which the next calls go to threads."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until = 0.0

    def includes(self, now: float) -> bool:
        """True if *now* (monotonic) is in the period."""
        return now < self._until

    def begin(self) -> None:
        """Begin the period now."""
        self._until = time.monotonic() + _SLOW_FOR_S


class StorageThreads:
    """Runs storage calls: on the event loop if *inline*, else in threads.

    Readers and writers have separate limits of threads. *admission* bounds the requests that wait
    for a thread or in one. Used on the event loop only, so it takes no lock.
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
        self._slow = SlowPeriod()

    async def run(self, call: Callable[[*Ts], T], *args: *Ts) -> T:
        """Return ``call(*args)``, which changes nothing.

        A call that raises TakesLong on the event loop is made again in a thread. Raises
        StorageTimeout after the deadline, though the call goes on; raises StorageOverloaded if too
        many requests wait.
        """
        if self.inline:
            try:
                with waiting:
                    return call(*args)
            except TakesLong:
                pass
        return await self.run_in_thread(call, *args)

    async def collect(self, iterate: Callable[[], Iterator[T]]) -> list[T]:
        """Return all items of ``iterate()``; after TakesLong it is called again in a thread.

        An iterator that has raised TakesLong is exhausted, so it cannot be continued.
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
        """Return the results of ``call`` for each of *arguments*, in their order.

        Calls that may block run concurrently. Once a call to local storage has waited for the disk,
        the remaining calls run concurrently too: a disk is faster with several requests at once.
        Raises the error of a call, and StorageTimeout.
        """
        results: list[T] = []
        for argument in arguments:
            if not self.inline or self._slow.includes(time.monotonic()):
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
                self._slow.begin()
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

    async def run_in_thread(
        self, call: Callable[[*Ts], T], *args: *Ts, deadline_s: float | None = None
    ) -> T:
        """Like ``run``, but never on the event loop."""
        outer = call_began.set(time.monotonic())
        try:
            deadline_s = deadline_s or self._deadline_s
            return await self._run_within(deadline_s, self._readers, call, *args)
        finally:
            call_began.reset(outer)

    async def run_shared(
        self, key: object, call: Callable[[], T], *, deadline_s: float | None = None
    ) -> T:
        """Like ``run_in_thread``, but with one call at a time for a *key*, whose result all get."""
        while (shared := self._shared.get(key)) is not None:
            with self.admission.waiting():
                await shared.over.wait()
            if shared.has_result:
                return cast(T, shared.result)  # a key has one type
        shared = self._shared[key] = _Shared()
        try:
            result = await self.run_in_thread(call, deadline_s=deadline_s)
            shared.result = result
            shared.has_result = True
        finally:
            del self._shared[key]
            shared.over.set()
        return result

    async def run_write(
        self, call: Callable[[*Ts], T], *args: *Ts, deadline_s: float | None = None
    ) -> T:
        """Return ``call(*args)``, which writes; it runs in a thread, as it may wait for a disk.

        Raises StorageTimeout after *deadline_s*, though the call goes on to its end.
        """
        return await self._run_within(deadline_s or self._deadline_s, self._writers, call, *args)

    async def _run_within(
        self, deadline_s: float, places: ThreadPlaces, call: Callable[[*Ts], T], *args: *Ts
    ) -> T:
        limiter = cast(trio.CapacityLimiter, places)  # trio needs only two of its methods
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
    """Return the number of disk blocks that this thread has waited for."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_inblock

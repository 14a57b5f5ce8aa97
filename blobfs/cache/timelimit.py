"""Calls that may hang, made so that nobody waits for them longer than is agreed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TypeVar

from blobfs.errors import StorageTimeout, StorageUnavailable

T = TypeVar("T")


class TimeLimit:
    """Makes calls on threads of its own, and waits *limit_s* seconds for each. Thread-safe.

    A time limit on a socket is one for each packet, and none for a name to be resolved. A call
    that takes longer goes on without anybody waiting. The threads begin with the first call,
    after a daemon has forked, and one that hangs keeps no program from ending.
    """

    def __init__(self, limit_s: float, *, threads: int) -> None:
        self._limit_s = limit_s
        self._threads = threads
        self._begun = False
        self._lock = Lock()
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def run(self, call: Callable[[], T], undo: Callable[[], object] | None = None) -> T:
        """What *call* gives or raises; raises StorageTimeout, StorageUnavailable.

        *undo* is called once a *call* has ended late, whether it succeeded or not; nobody is told
        whether *undo* does.
        """
        if not self._begun:
            self._begin()
        future = self._queued(call)
        try:
            return future.result(self._limit_s)
        except TimeoutError:
            if not future.cancel():  # it has begun
                if future.done():  # it is the call's own, or just in time
                    return future.result()
                if undo is not None:
                    future.add_done_callback(lambda _: self._queued(undo))
            raise StorageTimeout(f"no answer in {self._limit_s * 1000:.0f} ms") from None

    def _queued(self, call: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        self._calls.put(partial(settle, future, call))
        return future

    def _begin(self) -> None:
        with self._lock:
            if self._begun:
                return
            try:
                for _ in range(self._threads):
                    Thread(target=self._work, name="blobfs-cache", daemon=True).start()
                    self._begun = True
            except RuntimeError as exc:  # there may be no more threads; one is enough
                if not self._begun:
                    raise StorageUnavailable(str(exc)) from None

    def _work(self) -> None:
        while call := self._calls.get():
            call()

    def close(self) -> None:
        """End the threads, after the calls that they are in."""
        for _ in range(self._threads):
            self._calls.put(None)


def settle(future: Future[T], call: Callable[[], T]) -> None:
    """Give *future* the result of *call*, or its exception, which is raised where it is awaited."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as exc:  # noqa: BLE001  (raised where it is awaited)
        future.set_exception(exc)
    else:
        future.set_result(result)

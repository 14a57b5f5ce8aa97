"""Time limits for calls that can hang."""

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
    """Runs calls on its own threads and waits *limit_s* seconds for each. Thread-safe.

    The timeout of a socket bounds each packet, not the call, and no name resolution. A call that
    takes longer continues in the background. The daemon threads start with the first call, after
    the fork of a mount; the lock guards their start. A hanging thread does not delay the exit.
    """

    def __init__(self, limit_s: float, *, threads: int) -> None:
        self._limit_s = limit_s
        self._threads = threads
        self._is_started = False
        self._lock = Lock()
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def run(self, call: Callable[[], T], undo: Callable[[], object] | None = None) -> T:
        """Return or raise the result of *call*; raises StorageTimeout, StorageUnavailable.

        *undo* is called after a late end of *call*, on success and on failure. The result of
        *undo* is ignored.
        """
        if not self._is_started:
            self._start()
        future = self._queued(call)
        try:
            return future.result(self._limit_s)
        except TimeoutError:
            if not future.cancel():  # it has begun
                if future.done():  # the call raised TimeoutError, or it ended just now
                    return future.result()
                if undo is not None:
                    future.add_done_callback(lambda _: self._queued(undo))
            raise StorageTimeout(f"no answer in {self._limit_s * 1000:.0f} ms") from None

    def _queued(self, call: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        self._calls.put(partial(complete, future, call))
        return future

    def _start(self) -> None:
        with self._lock:
            if self._is_started:
                return
            try:
                for _ in range(self._threads):
                    Thread(target=self._work, name="blobfs-cache", daemon=True).start()
                    self._is_started = True
            except RuntimeError as exc:  # the limit of threads is reached; one thread is enough
                if not self._is_started:
                    raise StorageUnavailable(str(exc)) from None

    def _work(self) -> None:
        while call := self._calls.get():
            call()

    def close(self) -> None:
        """End the threads after their current calls."""
        for _ in range(self._threads):
            self._calls.put(None)


def complete(future: Future[T], call: Callable[[], T]) -> None:
    """Run *call* and set its result or exception in *future*."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as exc:  # noqa: BLE001  (raised by the reader of the future)
        future.set_exception(exc)
    else:
        future.set_result(result)

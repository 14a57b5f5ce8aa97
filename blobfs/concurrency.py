"""Threads, locks and shared computations, in the few forms that blobfs uses.

- ``start_thread`` starts a daemon thread. ``ThreadCall`` makes one call in its own, with a
  deadline; ``ThreadPool`` makes many calls in a few. The interpreter does not join daemon threads
  at its end, so a storage that hangs cannot hold it.
- ``SingleFlight`` lets one thread compute what several threads need.
- ``guard`` creates a lock of fields. No I/O happens while it is held; the tests check that.
  ``CallLock`` serializes calls, with their I/O. Nothing else creates locks.
- ``waiting`` marks calls on the event loop. A call there that detects a long operation, such as
  reading many files, raises ``TakesLong`` and is repeated in a thread.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextvars import ContextVar
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Final, Generic, NoReturn, TypeVar

from blobfs.errors import StorageTimeout, StorageUnavailable

A = TypeVar("A")
K = TypeVar("K")
T = TypeVar("T")

_LOOK_S: Final = 0.1
"""Interval at which a wait looks at ``stop_check``."""

_QUEUED: Final = 128
"""Calls that one caller of ``map`` queues, so that two callers of thousands alternate."""

new_lock: Callable[[], threading.Lock] = threading.Lock
"""The lock of ``guard``; the tests set one that notices I/O while it is held."""


def guard() -> threading.Lock:
    """Create a lock of fields, which is held for microseconds and never during I/O.

    The event loop may wait for it. It is a plain lock, so it costs no more than one.
    """
    return new_lock()


def reentrant_guard() -> threading.RLock:
    """Create a guard that a finalizer takes too, perhaps in the thread that holds it."""
    return threading.RLock()


class CallLock:
    """Lock that serializes the calls to one object, and is held during their I/O.

    Its owner may be waiting for a storage that hangs. So the event loop never waits for it: there
    ``acquire`` raises TakesLong instead. It is not acquired while a guard is held.
    """

    __slots__ = ("_lock", "locked", "release")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.locked = self._lock.locked
        self.release = self._lock.release

    def acquire(self, *, blocking: bool = True, timeout: float = -1) -> bool:
        """Acquire the lock; False if that is impossible without waiting, or within *timeout* s."""
        if self._lock.acquire(blocking=False):
            return True
        if not blocking:
            return False
        refuse_to_take_long()
        return self._lock.acquire(timeout=timeout)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.release()


class TakesLong(Exception):
    """The call has changed nothing and must be repeated in a thread."""


class _Waiting(threading.local):
    """Context manager that marks the calls of this thread as calls on the event loop."""

    is_waiting = False

    def __enter__(self) -> None:
        self.is_waiting = True

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.is_waiting = False


waiting = _Waiting()


def refuse_to_take_long() -> None:
    """Raise TakesLong if the call runs on the event loop."""
    if waiting.is_waiting:
        raise TakesLong


call_began: ContextVar[float] = ContextVar("call_began", default=math.inf)
"""The begin (monotonic) of a call that only reads, in its thread; later answers suit all of it."""


stop_check: ContextVar[Callable[[], None]] = ContextVar("stop_check", default=lambda: None)
"""Raises an error once another thread has stopped the call that this thread makes."""


def result_unless_stopped(future: Future[T]) -> T:
    """Return or raise the result of *future*; raises the error of ``stop_check`` meanwhile."""
    check = stop_check.get()
    check()
    while not wait((future,), _LOOK_S).done:
        check()
    return future.result()


class SingleFlight(Generic[K, T]):
    """Computations by key that several threads share. Thread-safe.

    The first thread that needs a key computes its result; those that come meanwhile wait for it.
    A key may hold the generation of what is computed, so that later callers do not get a result
    that was begun before a change. The guard is not held during a computation.
    """

    def __init__(self) -> None:
        self._lock = guard()
        self._running: dict[K, Future[T]] = {}

    def run(self, key: K, compute: Callable[[], T], wait_s: float | None = None) -> T:
        """Return the result of *compute*, or of that of another thread; raises its error.

        *compute* keeps its result, and begins with a look at what is kept: another thread may have
        computed it just now. Raises StorageTimeout if another thread takes longer than *wait_s*,
        and TakesLong instead of waiting on the event loop.
        """
        while True:
            ours: Future[T] = Future()
            with self._lock:
                running = self._running.setdefault(key, ours)
            if running is ours:
                return self._compute(key, ours, compute)
            refuse_to_take_long()
            try:
                return _result_within(running, wait_s)
            except TakesLong:
                pass  # it began on the event loop, and is repeated here

    def _compute(self, key: K, ours: Future[T], compute: Callable[[], T]) -> T:
        try:
            result = compute()
        except BaseException as exc:
            self._end(key)
            ours.set_exception(exc)
            raise
        self._end(key)
        ours.set_result(result)
        return result

    def _end(self, key: K) -> None:
        with self._lock:
            del self._running[key]


def _result_within(running: Future[T], wait_s: float | None) -> T:
    try:
        return running.result(wait_s)
    except TimeoutError:
        if running.done():  # its own error, or it ended just now
            return running.result()
        raise StorageTimeout(f"another thread did not get an answer within {wait_s:g} s") from None


def start_thread(name: str, call: Callable[[], object]) -> threading.Thread:
    """Make *call* in the daemon thread ``blobfs-<name>``.

    Raises StorageUnavailable if the limit of threads is reached.
    """
    thread = threading.Thread(target=call, name=f"blobfs-{name}", daemon=True)
    try:
        thread.start()
    except RuntimeError as exc:
        raise StorageUnavailable(str(exc)) from None
    return thread


class ThreadCall(Generic[T]):
    """A call in a daemon thread of its own, as it may hang for ever."""

    def __init__(self, name: str, call: Callable[[], T]) -> None:
        self._future: Future[T] = Future()
        self._thread = start_thread(name, partial(complete, self._future, call))

    def has_ended(self, within_s: float) -> bool:
        """Wait up to *within_s*; True if the thread has ended."""
        self._thread.join(max(0.0, within_s))
        return not self._thread.is_alive()

    def result(self, within_s: float) -> T:
        """Return or raise the result of the call; raises StorageTimeout after *within_s*."""
        if not self.has_ended(within_s):
            raise StorageTimeout(f"no answer within {within_s:g} s")
        return self._future.result()


_Queued = tuple[Future[Any], Callable[[], Any]]


class ThreadPool:
    """Up to *limit* daemon threads that make calls in the order of their submission.

    *reserved* of them make urgent calls only. A thread starts with a call that finds none idle, so
    after the fork of a mount, and ends with ``close``. Thread-safe: the condition guards the queues
    and the counters, and is not held during a call.
    """

    def __init__(self, name: str, limit: int, *, reserved: int = 0) -> None:
        self._name = name
        self._limit = limit
        self._unreserved = limit - reserved
        self._changed = threading.Condition(guard())
        self._urgent: deque[_Queued] = deque()
        self._others: deque[_Queued] = deque()
        self._threads: list[threading.Thread] = []
        self._idle = self._others_running = 0
        self._is_closed = False

    def submit(self, call: Callable[[], T], *, urgent: bool = False) -> Future[T]:
        """Queue *call*, before the others if it is *urgent*.

        Raises StorageUnavailable if no thread can start. In a closed pool the call fails with it.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._is_closed:
                complete(future, _refuse)
                return future
            queue = self._urgent if urgent else self._others
            queue.append((future, call))
            if self._idle < self._ready() and len(self._threads) < self._limit:
                self._start(queue)
            self._changed.notify()
        return future

    def _start(self, queue: deque[_Queued]) -> None:
        try:
            self._threads.append(start_thread(f"{self._name}_{len(self._threads)}", self._work))
        except StorageUnavailable:
            if not self._threads:
                queue.pop()
                raise

    def map(self, call: Callable[[A], T], items: Iterable[A]) -> Iterator[T]:
        """Yield the results of *call* for each of *items* in order; raises its errors.

        *call* must not use this function of the same pool.
        """
        left = iter(items)
        queued = deque(self.submit(partial(call, item)) for item in islice(left, _QUEUED))
        try:
            while queued:
                result = queued.popleft().result()
                queued.extend(self.submit(partial(call, item)) for item in islice(left, 1))
                yield result
        finally:
            for future in queued:
                future.cancel()

    def run_within(
        self, limit_s: float, call: Callable[[], T], undo: Callable[[], object] | None = None
    ) -> T:
        """Return or raise the result of *call*; raises StorageTimeout after *limit_s*.

        A call that takes longer continues in the background. *undo* is called after its late end,
        on success and on failure. The result of *undo* is ignored.
        """
        future = self.submit(call)
        try:
            return future.result(limit_s)
        except TimeoutError:
            if not future.cancel():  # it has begun
                if future.done():  # the call raised TimeoutError, or it ended just now
                    return future.result()
                if undo is not None:
                    future.add_done_callback(lambda _: self.submit(undo))
            raise StorageTimeout(f"no answer in {limit_s * 1000:.0f} ms") from None

    def close(self) -> None:
        """Fail what is queued, and end the threads after their current calls."""
        with self._changed:
            self._is_closed = True
            queued = [*self._urgent, *self._others]
            self._urgent.clear()
            self._others.clear()
            self._changed.notify_all()
        for future, _ in queued:
            complete(future, _refuse)

    def has_ended(self, within_s: float) -> bool:
        """Wait up to *within_s* after ``close``; True if all threads have ended."""
        end_s = time.monotonic() + within_s
        for thread in self._threads:
            thread.join(max(0.0, end_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        with self._changed:
            if not self._wait_for_call():
                return False
            urgent = bool(self._urgent)
            future, call = (self._urgent if urgent else self._others).popleft()
            self._others_running += not urgent
        try:
            complete(future, call)
        finally:
            with self._changed:
                self._others_running -= not urgent
        return True

    def _wait_for_call(self) -> bool:
        """Wait for a queued call that may start; False once the pool is closed."""
        while not (self._is_closed or self._ready()):
            self._idle += 1
            self._changed.wait()
            self._idle -= 1
        return not self._is_closed

    def _ready(self) -> int:
        """The number of queued calls that may start, with those of threads just notified."""
        return len(self._urgent) + min(len(self._others), self._unreserved - self._others_running)


def complete(future: Future[T], call: Callable[[], T]) -> None:
    """Make *call* and set its result or exception in *future*; raises nothing."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as exc:  # noqa: BLE001  (raised by the reader of the future)
        future.set_exception(exc)
        del future, call  # the traceback holds this frame: no cycle
    else:
        future.set_result(result)


def _refuse() -> NoReturn:
    raise StorageUnavailable("it is closed, because the mount ends")


PARALLEL: Final = ThreadPool("parallel", 32)
"""Threads for calls to a remote storage side by side, shared by all callers."""

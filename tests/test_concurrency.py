"""Threads, locks and shared computations: deadlines, order, errors, and the end."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from copy import copy
from pathlib import Path
from textwrap import dedent
from typing import TypeVar

import pytest

from blobfs.concurrency import (
    CallLock,
    SingleFlight,
    TakesLong,
    ThreadCall,
    ThreadPool,
    guard,
    start_thread,
    waiting,
)
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.errors import StorageTimeout, StorageUnavailable

T = TypeVar("T")


class Limited:
    """Calls in a pool, with one time limit."""

    def __init__(self, limit_s: float, *, threads: int) -> None:
        self._limit_s = limit_s
        self._pool = ThreadPool("test", threads)
        self.close = self._pool.close

    def run(self, call: Callable[[], T], undo: Callable[[], object] | None = None) -> T:
        return self._pool.run_within(self._limit_s, call, undo)


@pytest.fixture
def limit() -> Iterator[Limited]:
    with closing(Limited(0.05, threads=2)) as limit:
        yield limit


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    with closing(ThreadPool("test", 2)) as pool:
        yield pool


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """For calls to wait on; set after the test."""
    event = threading.Event()
    yield event
    event.set()


def test_result_is_that_of_the_call(limit: Limited) -> None:
    assert limit.run(lambda: 17) == 17


def _missing() -> None:
    raise KeyError("missing")


def _late() -> None:
    raise TimeoutError("of its own")


def test_error_is_that_of_the_call(limit: Limited) -> None:
    with pytest.raises(KeyError, match="missing"):
        limit.run(_missing)


def test_call_may_have_a_time_limit_of_its_own(limit: Limited) -> None:
    with pytest.raises(TimeoutError, match="of its own"):
        limit.run(_late)


def test_call_that_hangs_is_not_waited_for(limit: Limited, hanging: threading.Event) -> None:
    start_s = time.monotonic()
    with pytest.raises(StorageTimeout, match="no answer in 50 ms"):
        limit.run(hanging.wait)
    assert 0.05 <= time.monotonic() - start_s < 2


def test_others_are_made_while_one_hangs(limit: Limited, hanging: threading.Event) -> None:
    with pytest.raises(StorageTimeout):
        limit.run(hanging.wait)
    assert limit.run(lambda: 17) == 17


def test_call_that_nobody_waits_for_any_more_is_not_begun(hanging: threading.Event) -> None:
    made = []
    with closing(Limited(0.05, threads=1)) as limit:
        with pytest.raises(StorageTimeout):
            limit.run(hanging.wait)
        with pytest.raises(StorageTimeout):
            limit.run(lambda: made.append("late"))
        hanging.set()
        limit.run(lambda: made.append("in time"))
    assert made == ["in time"]


def test_call_that_ends_late_is_undone(limit: Limited, hanging: threading.Event) -> None:
    done: list[str] = []
    undone = threading.Event()

    def call() -> None:
        hanging.wait()
        done.append("late")

    def undo() -> None:
        done.append("undone")
        undone.set()

    with pytest.raises(StorageTimeout):
        limit.run(call, undo)
    hanging.set()
    assert undone.wait(10)
    assert done == ["late", "undone"]


def test_call_that_ends_in_time_is_not_undone() -> None:
    undone: list[str] = []
    with closing(Limited(10, threads=1)) as limit:
        limit.run(lambda: 17, lambda: undone.append("undone"))
        with pytest.raises(KeyError):
            limit.run(_missing, lambda: undone.append("undone"))
        limit.run(lambda: 17)
    assert undone == []


def test_undoing_may_fail(hanging: threading.Event) -> None:
    with closing(Limited(0.2, threads=1)) as limit:
        with pytest.raises(StorageTimeout):
            limit.run(hanging.wait, _missing)
        hanging.set()
        assert [limit.run(lambda: 17), limit.run(lambda: 18)] == [17, 18], "the thread goes on"


def test_nothing_is_begun_before_it_is_used() -> None:
    before = threading.active_count()
    ThreadPool("test", 2).close()
    assert threading.active_count() == before


def test_threads_of_a_pool_are_named_daemons_and_no_more_than_are_needed(pool: ThreadPool) -> None:
    names = set()
    for _ in range(3):
        thread = pool.submit(threading.current_thread).result(10)
        assert thread.daemon
        names.add(thread.name)
    assert names <= {"blobfs-test_0", "blobfs-test_1"}
    barrier = threading.Barrier(2)
    both = [pool.submit(barrier.wait) for _ in range(2)]
    assert {call.result(10) for call in both} == {0, 1}


def test_pool_of_hanging_threads_does_not_delay_the_exit() -> None:
    code = """
        from threading import Event
        from blobfs.concurrency import ThreadPool, start_thread
        began = Event()
        ThreadPool("test", 1).submit(lambda: began.set() or Event().wait())
        began.wait()
        start_thread("test", Event().wait)
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], check=False, timeout=20)
    assert done.returncode == 0


def test_urgent_call_is_made_before_others_and_in_reserved_threads(
    hanging: threading.Event,
) -> None:
    made: list[str] = []
    with closing(ThreadPool("test", 2, reserved=1)) as pool:
        begun = threading.Barrier(2)
        first = pool.submit(lambda: begun.wait() + hanging.wait())
        other = pool.submit(lambda: made.append("other"))
        begun.wait(10)
        pool.submit(lambda: made.append("urgent"), urgent=True).result(10)
        assert not other.done(), "the second thread is reserved"
        hanging.set()
        first.result(10)
        other.result(10)
    assert made == ["urgent", "other"]


def test_closed_pool_fails_what_is_queued_and_what_comes_later(hanging: threading.Event) -> None:
    pool = ThreadPool("test", 1)
    began = threading.Barrier(2)
    running = pool.submit(lambda: began.wait() + hanging.wait())
    queued = pool.submit(lambda: 17)
    began.wait(10)
    pool.close()
    for call in (queued, pool.submit(lambda: 17)):
        with pytest.raises(StorageUnavailable, match="closed"):
            call.result(10)
    assert not pool.has_ended(0.0)
    hanging.set()
    running.result(10)
    assert pool.has_ended(10)


def test_map_keeps_the_order_and_raises_the_first_error(pool: ThreadPool) -> None:
    assert list(pool.map(str, range(300))) == list(map(str, range(300)))
    results = pool.map(lambda number: 1 // (5 - number), range(300))
    with pytest.raises(ZeroDivisionError):
        list(results)


def _no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_without_a_thread_the_storage_is_unavailable(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", _no_thread)
        for call in (pool.submit, lambda call: start_thread("test", call)):
            with pytest.raises(StorageUnavailable, match="can't start"):
                call(_missing)
    assert pool.submit(lambda: 17).result(10) == 17


def test_limit_of_threads_does_not_stop_a_pool_that_has_one(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch, hanging: threading.Event
) -> None:
    first = pool.submit(hanging.wait)
    monkeypatch.setattr(threading.Thread, "start", _no_thread)
    second = pool.submit(lambda: 17)
    hanging.set()
    assert (first.result(10), second.result(10)) == (True, 17)


def test_call_in_a_thread_has_a_deadline_and_an_error(hanging: threading.Event) -> None:
    assert ThreadCall("test", lambda: 17).result(10) == 17
    with pytest.raises(KeyError, match="missing"):
        ThreadCall("test", _missing).result(10)
    call = ThreadCall("test", hanging.wait)
    with pytest.raises(StorageTimeout, match=r"within 0\.01 s"):
        call.result(0.01)
    assert not call.has_ended(-1)
    hanging.set()
    assert call.has_ended(10)


class Key:
    """A key that notices that a second thread has come for it."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.is_shared = threading.Event()

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        self.is_shared.set()
        return True

    def compute(self) -> int:
        """Wait for the second thread."""
        self.began.set()
        return 17 * self.is_shared.wait(10)

    def fail(self) -> int:
        """Fail after the second thread has come."""
        self.compute()
        raise StorageUnavailable("no answer")

    def take_long(self) -> int:
        """Raise TakesLong after the second thread has come."""
        self.compute()
        raise TakesLong


def _never() -> int:
    pytest.fail("computed twice")


def test_threads_share_one_computation_of_a_key(pool: ThreadPool) -> None:
    flight, key = SingleFlight[Key, int](), Key()
    first = pool.submit(lambda: flight.run(key, key.compute))
    assert key.began.wait(10)
    assert flight.run(copy(key), _never) == 17
    assert first.result(10) == 17
    assert flight.run(key, lambda: 18) == 18, "a result is not kept"


def test_error_of_a_shared_computation_is_that_of_all_and_is_not_kept(pool: ThreadPool) -> None:
    flight, key = SingleFlight[Key, int](), Key()
    first = pool.submit(lambda: flight.run(key, key.fail))
    assert key.began.wait(10)
    with pytest.raises(StorageUnavailable, match="no answer"):
        flight.run(copy(key), _never)
    with pytest.raises(StorageUnavailable, match="no answer"):
        first.result(10)
    assert flight.run(key, lambda: 18) == 18


def test_computation_that_the_event_loop_gave_up_is_repeated_in_the_thread_that_waits(
    pool: ThreadPool,
) -> None:
    flight, key = SingleFlight[Key, int](), Key()
    first = pool.submit(lambda: flight.run(key, key.take_long))
    assert key.began.wait(10)
    assert flight.run(copy(key), lambda: 18) == 18
    with pytest.raises(TakesLong):
        first.result(10)


def test_shared_computation_is_waited_for_within_a_limit_and_not_on_the_event_loop(
    pool: ThreadPool, hanging: threading.Event
) -> None:
    flight: SingleFlight[str, int] = SingleFlight()
    began = threading.Barrier(2)
    first = pool.submit(lambda: flight.run("a", lambda: began.wait() + hanging.wait()))
    began.wait(10)
    assert flight.run("b", lambda: 18) == 18, "another key is not waited for"
    with pytest.raises(TakesLong), waiting:
        flight.run("a", _never)
    with pytest.raises(StorageTimeout, match=r"within 0\.01 s"):
        flight.run("a", _never, wait_s=0.01)
    hanging.set()
    assert first.result(10) > 0


def test_tests_notice_io_while_a_guard_is_held(tmp_path: Path) -> None:
    driver = InMemoryDriver()
    with guard():
        for call in (
            lambda: driver.stat("/"),
            tmp_path.exists,
            CallLock().acquire,
            lambda: SingleFlight[str, int]().run("a", lambda: 17),
        ):
            with pytest.raises(AssertionError, match="while a guard is held"):
                call()
    assert tmp_path.exists()


def test_event_loop_does_not_wait_for_a_call_lock() -> None:
    lock = CallLock()
    with waiting, lock:
        assert lock.locked()
        assert not lock.acquire(blocking=False)
        with pytest.raises(TakesLong):
            lock.acquire()
    assert not lock.locked()
    with lock:
        assert not lock.acquire(timeout=0.01)

"""Nobody waits for a call longer than is agreed."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from blobfs.cache.timelimit import TimeLimit
from blobfs.errors import StorageTimeout


@pytest.fixture
def limit() -> Iterator[TimeLimit]:
    with closing(TimeLimit(0.05, threads=2)) as limit:
        yield limit


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """For calls to wait on; set after the test."""
    event = threading.Event()
    yield event
    event.set()


def test_result_is_that_of_the_call(limit: TimeLimit) -> None:
    assert limit.run(lambda: 17) == 17


def _missing() -> None:
    raise KeyError("missing")


def _late() -> None:
    raise TimeoutError("of its own")


def test_error_is_that_of_the_call(limit: TimeLimit) -> None:
    with pytest.raises(KeyError, match="missing"):
        limit.run(_missing)


def test_call_may_have_a_time_limit_of_its_own(limit: TimeLimit) -> None:
    with pytest.raises(TimeoutError, match="of its own"):
        limit.run(_late)


def test_call_that_hangs_is_not_waited_for(limit: TimeLimit, hanging: threading.Event) -> None:
    start_s = time.monotonic()
    with pytest.raises(StorageTimeout, match="no answer in 50 ms"):
        limit.run(hanging.wait)
    assert 0.05 <= time.monotonic() - start_s < 2


def test_others_are_made_while_one_hangs(limit: TimeLimit, hanging: threading.Event) -> None:
    with pytest.raises(StorageTimeout):
        limit.run(hanging.wait)
    assert limit.run(lambda: 17) == 17


def test_call_that_nobody_waits_for_any_more_is_not_begun(hanging: threading.Event) -> None:
    made = []
    with closing(TimeLimit(0.05, threads=1)) as limit:
        with pytest.raises(StorageTimeout):
            limit.run(hanging.wait)
        with pytest.raises(StorageTimeout):
            limit.run(lambda: made.append("late"))
        hanging.set()
        limit.run(lambda: made.append("in time"))
    assert made == ["in time"]


def test_call_that_ends_late_is_undone(limit: TimeLimit, hanging: threading.Event) -> None:
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
    with closing(TimeLimit(10, threads=1)) as limit:
        limit.run(lambda: 17, lambda: undone.append("undone"))
        with pytest.raises(KeyError):
            limit.run(_missing, lambda: undone.append("undone"))
        limit.run(lambda: 17)
    assert undone == []


def test_undoing_may_fail(hanging: threading.Event) -> None:
    with closing(TimeLimit(0.2, threads=1)) as limit:
        with pytest.raises(StorageTimeout):
            limit.run(hanging.wait, _missing)
        hanging.set()
        assert [limit.run(lambda: 17), limit.run(lambda: 18)] == [17, 18], "the thread goes on"


def test_nothing_is_begun_before_it_is_used() -> None:
    before = threading.active_count()
    TimeLimit(0.05, threads=2).close()
    assert threading.active_count() == before

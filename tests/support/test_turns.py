"""Who may run beside whom."""

import fcntl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.mounts import eventually
from tests.support.turns import Turns


@pytest.fixture
def turns(tmp_path: Path) -> Iterator[Turns]:
    with closing(Turns(tmp_path)) as turns:
        yield turns


def may_begin(directory: Path, *, alone: bool) -> bool:
    """Whether a test of another worker would begin now."""
    with (directory / "turn").open("wb") as turn:
        try:
            fcntl.flock(turn, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_most_tests_run_side_by_side_and_keep_out_one_that_is_alone(
    turns: Turns, tmp_path: Path
) -> None:
    turns.take(alone=False)
    assert may_begin(tmp_path, alone=False)
    assert not may_begin(tmp_path, alone=True)
    turns.leave(next_is_alone=True)
    assert may_begin(tmp_path, alone=True)


def test_nothing_begins_beside_tests_in_a_row_that_are_alone(turns: Turns, tmp_path: Path) -> None:
    for is_last in False, True:
        turns.take(alone=True)
        assert not may_begin(tmp_path, alone=False)
        turns.leave(next_is_alone=not is_last)
        assert may_begin(tmp_path, alone=False) is is_last


def test_test_after_one_that_was_alone_runs_beside_others(turns: Turns, tmp_path: Path) -> None:
    turns.take(alone=True)
    turns.leave(next_is_alone=False)
    turns.take(alone=False)
    assert may_begin(tmp_path, alone=False)
    turns.leave(next_is_alone=False)
    assert may_begin(tmp_path, alone=True)


def test_turn_that_a_skipped_test_would_have_kept_is_left_before_another_is_waited_for(
    turns: Turns, tmp_path: Path
) -> None:
    """Else this worker and one that waits for the turn would wait for each other."""
    turns.take(alone=True)
    turns.leave(next_is_alone=True)
    with ThreadPoolExecutor(1) as pool:
        with (tmp_path / "gate").open("wb") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            taken = pool.submit(turns.take, alone=False)
            eventually(lambda: may_begin(tmp_path, alone=True))
        taken.result(10)

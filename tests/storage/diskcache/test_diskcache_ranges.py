"""Ranges of a sparse file, beside a set of its bytes."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from blobfs.storage.diskcache.entries import Ranges, on_disk

PAIR = st.tuples(st.integers(0, 30_000), st.integers(1, 9_000))


@given(st.lists(PAIR, max_size=20), PAIR)
def test_what_is_missing_was_not_added(
    added: list[tuple[int, int]], asked: tuple[int, int]
) -> None:
    ranges = Ranges()
    there: set[int] = set()
    for start, size in added:
        ranges.add(start, start + size)
        there.update(range(start, start + size))
    start, end = asked[0], asked[0] + asked[1]
    missing = ranges.missing(start, end)
    assert {n for one in missing for n in range(*one)} == set(range(start, end)) - there
    assert ranges.allocated >= 4096 * len({n // 4096 for n in there})
    assert all(one.end < other.start for one, other in pairwise(missing))


@given(st.lists(PAIR, max_size=20))
def test_adding_takes_no_more_than_the_room_of_what_is_added(added: list[tuple[int, int]]) -> None:
    ranges = Ranges()
    for start, size in added:
        before = ranges.allocated
        ranges.add(start, start + size)
        assert ranges.allocated - before <= on_disk(start, start + size)


def test_touching_ranges_are_one() -> None:
    ranges = Ranges()
    for start in (0, 20, 10, 40, 30):
        ranges.add(start, start + 10)
    assert (len(ranges), ranges.missing(0, 50), ranges.allocated) == (1, [], 4096)

"""Which bytes of a sparse file are there, and the room that they take."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final, NamedTuple

_PAGE: Final = 4096
"""What a file system gives at a time; some give more at once."""


def on_disk(start: int, end: int) -> int:
    """The bytes that a file system takes for what is from *start* to *end* of a file."""
    return (-(-end // _PAGE) - start // _PAGE) * _PAGE


class Range(NamedTuple):
    """The bytes from *start* up to *end*."""

    start: int
    end: int


class Ranges:
    """Ranges of bytes that do not touch each other, in order; *allocated* is their room."""

    def __init__(self) -> None:
        self.allocated = 0
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __len__(self) -> int:
        return len(self._starts)

    def missing(self, start: int, end: int) -> list[Range]:
        """What is not there of the bytes from *start* to *end*."""
        found = []
        index = bisect_right(self._ends, start)
        while start < end and index < len(self._starts) and self._starts[index] < end:
            if start < self._starts[index]:
                found.append(Range(start, self._starts[index]))
            start = self._ends[index]
            index += 1
        if start < end:
            found.append(Range(start, end))
        return found

    def add(self, start: int, end: int) -> None:
        """Have the bytes from *start* to *end*, one at least."""
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        bounds = zip(self._starts[first:last], self._ends[first:last], strict=True)
        joined = [Range(*both) for both in bounds]
        if joined:
            start = min(start, joined[0].start)
            end = max(end, joined[-1].end)
        self.allocated += on_disk(start, end) - sum(on_disk(*range_) for range_ in joined)
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

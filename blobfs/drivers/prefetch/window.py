"""How far ahead of its reader a file is fetched, and in which pieces: numbers only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from blobfs.drivers.prefetch.part_store import Part

_GROWTH: Final = 3
"""What is fetched ahead, as a multiple of what was read in order so far."""

_NEAR_READS: Final = 8
_NEAR: Final = 2 * 2**20
"""How far from where it should be a read is still taken for the next one, in reads and bytes.

After the first read anywhere but at the start it is one read, as it may be a random one.
"""

_BEHIND: Final = 16 * 2**20
"""How late reads may come: the kernel has several under way, and they arrive in any order."""

_RUNS: Final = 4
"""Places of one open file that can be read in order at a time."""


@dataclass(frozen=True, slots=True)
class PartSizer:
    """Where parts end: the first bytes are to come soon, all of them with few requests.

    A run begins with *first* bytes, and each request reaches four times as far as the one
    before, until they are of *part* bytes. Near the start of a file some parts are twice as
    large, so that a file read from there takes no more requests than it has parts.
    """

    first: int
    part: int

    def end(self, offset: int, start: int, limit: int) -> int:
        """The end of the part at *offset*, in a run from *start* that may hold *limit* bytes."""
        size = min(max(self.first, _GROWTH * (offset - start)), max(self.first, limit))
        return min(offset + size, self._boundary(offset))

    def _boundary(self, offset: int) -> int:
        doubled = 2 * self.part <= offset < 2 * self.part * (1 + self._extra())
        size = 2 * self.part if doubled else self.part
        return (offset // size + 1) * size

    def _extra(self) -> int:
        """Requests that the first part takes, beyond one."""
        extra, reach = 0, self.first
        while reach < self.part:
            extra, reach = extra + 1, reach * (1 + _GROWTH)
        return extra


class SequentialStream:
    """Reads that follow each other, more or less in order; *planned* is how far parts go."""

    __slots__ = ("_reads", "planned", "reached", "start", "wanted")

    def __init__(self, offset: int, end: int) -> None:
        self.start = offset
        self.reached = end
        self.planned = end
        self.wanted: dict[Part, int] = {}  # the bytes of each that were not read yet
        self._reads = 0

    def takes(self, offset: int, end: int, part: Part | None) -> bool:
        """Whether a read, of what *part* may hold, is one of this run."""
        reads = 1 if self._reads == 1 else _NEAR_READS
        near = min(reads * (end - offset), _NEAR)
        if self.reached - near <= offset <= max(self.reached + near, self.planned):
            return True
        return part in self.wanted

    def note(self, offset: int, end: int) -> None:
        """Count a read."""
        self._reads += 1
        self.start = min(self.start, offset)
        self.reached = max(self.reached, end)

    def target(self, limit: int) -> int:
        """How far to fetch; one read makes no run yet."""
        if self._reads < 2:
            return self.reached
        return self.reached + min(limit, _GROWTH * (self.reached - self.start))

    def passed(self, offset: int) -> list[Part]:
        """The parts that a reader at *offset* has left behind without reading all of them."""
        return [part for part in self.wanted if part.end < offset - _BEHIND]


class Cursor:
    """The runs of one open file, the last read first."""

    def __init__(self) -> None:
        self.runs = [SequentialStream(0, 0)]

    def run_of(self, offset: int, end: int, part: Part | None) -> SequentialStream:
        """The run of a read, of what *part* may hold, begun by it if need be."""
        for run in self.runs:
            if run.takes(offset, end, part):
                self.runs.remove(run)
                break
        else:
            # From the start most files are read to their end.
            run = SequentialStream(offset, end if offset else 0)
        self.runs.insert(0, run)
        return run

    def ended(self) -> SequentialStream | None:
        """A run to give up, as there are newer ones."""
        return self.runs.pop() if len(self.runs) > _RUNS else None

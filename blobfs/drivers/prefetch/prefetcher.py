"""What to fetch with each read, and what is not wanted any more."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final

from blobfs.drivers.prefetch.fetcher import Fetcher
from blobfs.drivers.prefetch.part_store import Part, PartStore, SharedFile, Source

_RECENT: Final = 64
"""Reads that tell which runs go on at present, and have to share the memory."""


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


@dataclass(frozen=True, slots=True)
class Handle:
    """An open file: what it shares with others, its own reader, and where it is read."""

    file: SharedFile
    source: Source
    cursor: Cursor


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """The *parts* that a read of *offset* to *end* uses, up to where they go."""

    run: SequentialStream
    offset: int
    end: int
    parts: list[Part]


class Planner:
    """Follows the reads of all open files. Thread-safe."""

    def __init__(self, store: PartStore, fetcher: Fetcher, cuts: PartSizer, streams: int) -> None:
        self.hits = 0
        self.waits = 0
        self._store = store
        self._fetcher = fetcher
        self._cuts = cuts
        self._widest = streams * cuts.part
        self._runs: OrderedDict[SequentialStream, None] = OrderedDict()  # the last read last
        self._recent: deque[SequentialStream] = deque(maxlen=_RECENT)

    def claim(self, handle: Handle, offset: int, end: int) -> ReadPlan:
        """Pin what a read can use, and begin to fetch what it lacks and what may be next."""
        with self._store.lock:
            return self._claim(handle, offset, end)

    def claim_held(self, handle: Handle, offset: int, end: int) -> ReadPlan | None:
        """``claim``, if all that is read is held already."""
        with self._store.lock:
            parts = handle.file.covering(offset, end)
            if not parts or parts[-1].end < end or any(part.data is None for part in parts):
                return None
            for part in parts:
                self._store.pin(part)  # lest what is planned next takes their place
            try:
                return self._claim(handle, offset, end)
            finally:
                for part in parts:
                    part.pins -= 1

    def _claim(self, handle: Handle, offset: int, end: int) -> ReadPlan:
        run = self._run_of(handle, offset, end)
        self._plan(handle, run, end)
        parts = handle.file.covering(offset, end)
        covered = parts[-1].end if parts else offset
        if covered < end:
            parts += self._passing(handle, covered, end)
            run.planned = max(run.planned, end)
        for part in parts:
            self._store.pin(part)
            self._fetcher.prioritize(part)
        self._count(parts)
        return ReadPlan(run, offset, end, parts)

    def release(self, claim: ReadPlan) -> None:
        """Unpin what a read has used."""
        with self._store.lock:
            for part in claim.parts:
                size = min(claim.end, part.end) - max(claim.offset, part.start)
                part.read += size
                part.pins -= 1
                self._consume(claim.run, part, size)
                self._store.settle(part)
            for part in claim.run.passed(claim.offset):
                self._unwant(claim.run, part)

    def leave(self, handle: Handle) -> None:
        """Want nothing more for *handle*, which is being closed."""
        with self._store.lock:
            for run in handle.cursor.runs:
                self._end(run)
            self._store.leave(handle.file)
            handle.source.users -= 1
        handle.source.close_if_unused()

    def _run_of(self, handle: Handle, offset: int, end: int) -> SequentialStream:
        part = handle.file.part_at(offset)
        run = handle.cursor.run_of(offset, end, part)
        if part is None and run.reached <= offset < run.planned:
            run.planned = offset  # it failed, or had to go
        run.note(offset, end)
        self._recent.append(run)
        self._runs[run] = None
        self._runs.move_to_end(run)
        if (ended := handle.cursor.ended()) is not None:
            self._end(ended)
        return run

    def _plan(self, handle: Handle, run: SequentialStream, end: int) -> None:
        limit = min(self._widest, self._store.memory // 2 // len(set(self._recent)))
        target = min(handle.file.size, run.target(limit))
        while run.planned < target:
            part = handle.file.part_at(run.planned)
            if part is None:
                part = self._new_part(handle, run, limit, ahead=run.planned >= end)
            if part is None:
                return
            if part not in run.wanted:
                run.wanted[part] = part.end - run.planned
                self._store.want(part)
            run.planned = part.end

    def _new_part(
        self, handle: Handle, run: SequentialStream, limit: int, *, ahead: bool
    ) -> Part | None:
        start = run.planned
        end = self._cuts.end(start, run.start, limit)
        if handle.file.size - end < self._cuts.first:
            end = handle.file.size
        end = min(end, handle.file.gap_end(start))
        if not self._reserve(end - start):
            return None
        part = Part(handle.file, handle.source, start, end)
        part.ahead = ahead
        self._store.add(part)
        self._fetcher.start(part)
        return part

    def _passing(self, handle: Handle, start: int, end: int) -> list[Part]:
        """A part for one read only; none where there is no memory for it."""
        if not self._reserve(end - start):
            return []
        part = Part(handle.file, handle.source, start, end)
        part.dropped = True
        self._fetcher.start(part)
        return [part]

    def _reserve(self, size: int) -> bool:
        while not self._store.reserve(size):
            oldest = next(iter(self._runs))
            if size > self._store.memory or oldest in self._recent:
                return False
            self._end(oldest)
        return True

    def _end(self, run: SequentialStream) -> None:
        self._runs.pop(run, None)
        for part in list(run.wanted):
            self._unwant(run, part)

    def _consume(self, run: SequentialStream, part: Part, size: int) -> None:
        if part in run.wanted:
            run.wanted[part] -= size
            if run.wanted[part] <= 0:
                self._unwant(run, part)

    def _unwant(self, run: SequentialStream, part: Part) -> None:
        del run.wanted[part]
        part.wanted -= 1
        self._store.settle(part)

    def _count(self, parts: list[Part]) -> None:
        ready = bool(parts) and all(part.data is not None for part in parts)
        self.hits += ready
        self.waits += not ready

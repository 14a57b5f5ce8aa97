"""Detection of sequential streams, and the parts to fetch and to keep for them."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final

from blobfs.drivers.prefetch.fetcher import Fetcher
from blobfs.drivers.prefetch.part_store import Part, PartStore, SharedFile, Source

_RECENT: Final = 64
"""The number of last reads whose streams count as active, and share the memory."""


_GROWTH: Final = 3
"""The distance ahead, as a multiple of the bytes that the stream has read."""

_NEAR_READS: Final = 8
_NEAR: Final = 2 * 2**20
"""The distance from its expected offset, in reads and in bytes, at which a read still belongs to a
stream. After the first read of a stream it is one read, as that may be a random one.
"""

_BEHIND: Final = 16 * 2**20
"""Bytes by which a read may be late: the kernel sends several reads at once, in any order."""

_MAX_STREAMS: Final = 4
"""The number of streams of one open file."""


@dataclass(frozen=True, slots=True)
class PartSizer:
    """Decides the ends of parts; immutable.

    The first bytes of a stream must arrive soon, and all of them with few requests. So a stream
    begins with a part of *first* bytes, and each request reaches four times as far as the one
    before, until the parts have *part* bytes. Near the start of a file some parts are twice as
    large: a file read from its start takes no more requests than its size divided by *part*.
    """

    first: int
    part: int

    def end(self, offset: int, start: int, limit: int) -> int:
        """The end of the part at *offset*, in a stream from *start* that may hold *limit* bytes."""
        size = min(max(self.first, _GROWTH * (offset - start)), max(self.first, limit))
        return min(offset + size, self._boundary(offset))

    def _boundary(self, offset: int) -> int:
        doubled = 2 * self.part <= offset < 2 * self.part * (1 + self._extra())
        size = 2 * self.part if doubled else self.part
        return (offset // size + 1) * size

    def _extra(self) -> int:
        """The number of requests, beyond one, for the first *part* bytes of a file."""
        extra, reach = 0, self.first
        while reach < self.part:
            extra, reach = extra + 1, reach * (1 + _GROWTH)
        return extra


class SequentialStream:
    """Reads that follow each other approximately in order.

    Parts are planned up to *planned*. The lock of the ``PartStore`` guards it.
    """

    __slots__ = ("_reads", "planned", "reached", "start", "wanted")

    def __init__(self, offset: int, end: int) -> None:
        self.start = offset
        self.reached = end
        self.planned = end
        self.wanted: dict[Part, int] = {}  # the unread bytes of each part
        self._reads = 0

    def takes(self, offset: int, end: int, part: Part | None) -> bool:
        """True if a read belongs to this stream; *part* has its first byte, if there is one."""
        reads = 1 if self._reads == 1 else _NEAR_READS
        near = min(reads * (end - offset), _NEAR)
        if self.reached - near <= offset <= max(self.reached + near, self.planned):
            return True
        return part in self.wanted

    def note(self, offset: int, end: int) -> None:
        """Record a read."""
        self._reads += 1
        self.start = min(self.start, offset)
        self.reached = max(self.reached, end)

    def target(self, limit: int) -> int:
        """The offset up to which to fetch: no further than read so far after only one read."""
        if self._reads < 2:
            return self.reached
        return self.reached + min(limit, _GROWTH * (self.reached - self.start))

    def skipped(self, offset: int) -> list[Part]:
        """The parts far before *offset* that were not read completely."""
        return [part for part in self.wanted if part.end < offset - _BEHIND]


class Cursor:
    """The streams of one open file, the most recent first. The PartStore's lock guards it."""

    def __init__(self) -> None:
        self.streams = [SequentialStream(0, 0)]

    def stream_of(self, offset: int, end: int, part: Part | None) -> SequentialStream:
        """The stream of a read, new if none takes it; *part* has its first byte if there is one."""
        for stream in self.streams:
            if stream.takes(offset, end, part):
                self.streams.remove(stream)
                break
        else:
            # A read at offset 0 counts as sequential at once: most files are read completely.
            stream = SequentialStream(offset, end if offset else 0)
        self.streams.insert(0, stream)
        return stream

    def ended(self) -> SequentialStream | None:
        """Remove and return the oldest stream if there are too many."""
        return self.streams.pop() if len(self.streams) > _MAX_STREAMS else None


@dataclass(frozen=True, slots=True)
class Handle:
    """An open file: the shared file, its own reader, and its streams."""

    file: SharedFile
    source: Source
    cursor: Cursor


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """The pinned *parts* that a read from *offset* to *end* uses; they may end before *end*."""

    stream: SequentialStream
    offset: int
    end: int
    parts: list[Part]


class Prefetcher:
    """Plans the reads of all open files, and what is fetched ahead for them.

    Thread-safe: the lock of the ``PartStore`` guards all state.
    """

    def __init__(self, store: PartStore, fetcher: Fetcher, sizer: PartSizer, streams: int) -> None:
        self.hits = 0
        self.waits = 0
        self._store = store
        self._fetcher = fetcher
        self._sizer = sizer
        self._max_ahead = streams * sizer.part
        self._streams: OrderedDict[SequentialStream, None] = OrderedDict()  # the last read last
        self._recent: deque[SequentialStream] = deque(maxlen=_RECENT)

    def plan_read(self, handle: Handle, offset: int, end: int) -> ReadPlan:
        """Pin the parts of a read, and start to fetch the missing ones and those ahead."""
        with self._store.lock:
            return self._plan_read(handle, offset, end)

    def plan_cached(self, handle: Handle, offset: int, end: int) -> ReadPlan | None:
        """``plan_read`` if all the bytes are in memory; else None, without a change."""
        with self._store.lock:
            parts = handle.file.covering(offset, end)
            if not parts or parts[-1].end < end or any(part.data is None for part in parts):
                return None
            for part in parts:
                self._store.pin(part)  # so that fetching ahead does not drop them
            try:
                return self._plan_read(handle, offset, end)
            finally:
                for part in parts:
                    part.pins -= 1

    def _plan_read(self, handle: Handle, offset: int, end: int) -> ReadPlan:
        stream = self._stream_of(handle, offset, end)
        self._fetch_ahead(handle, stream, end)
        parts = handle.file.covering(offset, end)
        covered = parts[-1].end if parts else offset
        if covered < end:
            parts += self._one_off_part(handle, covered, end)
            stream.planned = max(stream.planned, end)
        for part in parts:
            self._store.pin(part)
            self._fetcher.prioritize(part)
        self._count(parts)
        return ReadPlan(stream, offset, end, parts)

    def release(self, plan: ReadPlan) -> None:
        """Unpin the parts of a read, and count their bytes as read."""
        with self._store.lock:
            for part in plan.parts:
                size = min(plan.end, part.end) - max(plan.offset, part.start)
                part.read += size
                part.pins -= 1
                self._consume(plan.stream, part, size)
                self._store.release(part)
            for part in plan.stream.skipped(plan.offset):
                self._stop_wanting(plan.stream, part)

    def leave(self, handle: Handle) -> None:
        """End the streams of *handle*, which is being closed."""
        with self._store.lock:
            for stream in handle.cursor.streams:
                self._end_stream(stream)
            self._store.leave(handle.file)
            handle.source.users -= 1
        handle.source.close_if_unused()

    def _stream_of(self, handle: Handle, offset: int, end: int) -> SequentialStream:
        part = handle.file.part_at(offset)
        stream = handle.cursor.stream_of(offset, end, part)
        if part is None and stream.reached <= offset < stream.planned:
            stream.planned = offset  # its part failed or was dropped
        stream.note(offset, end)
        self._recent.append(stream)
        self._streams[stream] = None
        self._streams.move_to_end(stream)
        if (ended := handle.cursor.ended()) is not None:
            self._end_stream(ended)
        return stream

    def _fetch_ahead(self, handle: Handle, stream: SequentialStream, end: int) -> None:
        limit = min(self._max_ahead, self._store.memory // 2 // len(set(self._recent)))
        target = min(handle.file.size, stream.target(limit))
        while stream.planned < target:
            part = handle.file.part_at(stream.planned)
            if part is None:
                part = self._new_part(handle, stream, limit, ahead=stream.planned >= end)
            if part is None:
                return
            if part not in stream.wanted:
                stream.wanted[part] = part.end - stream.planned
                self._store.want(part)
            stream.planned = part.end

    def _new_part(
        self, handle: Handle, stream: SequentialStream, limit: int, *, ahead: bool
    ) -> Part | None:
        start = stream.planned
        end = self._sizer.end(start, stream.start, limit)
        if handle.file.size - end < self._sizer.first:
            end = handle.file.size
        end = min(end, handle.file.gap_end(start))
        if not self._reserve(end - start):
            return None
        part = Part(handle.file, handle.source, start, end)
        part.ahead = ahead
        self._store.add(part)
        self._fetcher.start(part)
        return part

    def _one_off_part(self, handle: Handle, start: int, end: int) -> list[Part]:
        """Start to fetch a part for one read only; an empty list if there is no memory for it."""
        if not self._reserve(end - start):
            return []
        part = Part(handle.file, handle.source, start, end)
        part.dropped = True
        self._fetcher.start(part)
        return [part]

    def _reserve(self, size: int) -> bool:
        while not self._store.reserve(size):
            oldest = next(iter(self._streams))
            if size > self._store.memory or oldest in self._recent:
                return False
            self._end_stream(oldest)
        return True

    def _end_stream(self, stream: SequentialStream) -> None:
        self._streams.pop(stream, None)
        for part in list(stream.wanted):
            self._stop_wanting(stream, part)

    def _consume(self, stream: SequentialStream, part: Part, size: int) -> None:
        if part in stream.wanted:
            stream.wanted[part] -= size
            if stream.wanted[part] <= 0:
                self._stop_wanting(stream, part)

    def _stop_wanting(self, stream: SequentialStream, part: Part) -> None:
        del stream.wanted[part]
        part.wanted -= 1
        self._store.release(part)

    def _count(self, parts: list[Part]) -> None:
        ready = bool(parts) and all(part.data is not None for part in parts)
        self.hits += ready
        self.waits += not ready

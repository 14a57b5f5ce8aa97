"""The parts of files that are in memory or being fetched, within a bound of memory."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Iterator
from operator import attrgetter
from threading import Event
from typing import Final

from blobfs.concurrency import guard
from blobfs.drivers.base import FileReader, is_below
from blobfs.errors import BlobfsError

_UNUSED_SHARE: Final = 4
"""The divisor of the memory that gives the bound of unused parts."""

_start_of = attrgetter("start")


class Source:
    """A reader of the wrapped driver, which is closed after its last user.

    The lock of the ``PartStore`` guards the count of users.
    """

    __slots__ = ("reader", "users")

    def __init__(self, reader: FileReader) -> None:
        self.reader = reader
        self.users = 1

    def close_if_unused(self) -> None:
        """Close the reader if it has no user; idempotent."""
        if self.users == 0:
            self.reader.close()


class SharedFile:
    """The parts, sorted by offset, that the open files of one path and size share."""

    __slots__ = ("detached", "handles", "parts", "path", "size")

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self.size = size
        self.handles = 0
        self.detached = False  # True after a change of the path: no further handle shares it
        self.parts: list[Part] = []

    def part_at(self, offset: int) -> Part | None:
        """The part with the byte at *offset*; None if there is none."""
        index = bisect_right(self.parts, offset, key=_start_of)
        if index and offset < self.parts[index - 1].end:
            return self.parts[index - 1]
        return None

    def gap_end(self, offset: int) -> int:
        """The offset of the next part after *offset*; the file's end if there is none."""
        index = bisect_right(self.parts, offset, key=_start_of)
        return self.parts[index].start if index < len(self.parts) else self.size

    def covering(self, offset: int, end: int) -> list[Part]:
        """The contiguous parts from *offset* on, up to *end* or the first gap."""
        parts = []
        while offset < end and (part := self.part_at(offset)):
            parts.append(part)
            offset = part.end
        return parts


class Part:
    """A range of a file: queued, being fetched, in memory, or failed.

    *running* counts its requests, *pins* the current reads that use it, and *wanted* the streams
    that will read it. No new read finds a part that is *dropped*. The lock of the ``PartStore``
    guards all of it.
    """

    __slots__ = (
        "ahead",
        "data",
        "done",
        "dropped",
        "end",
        "error",
        "file",
        "hedged",
        "held",
        "pins",
        "queued",
        "read",
        "running",
        "source",
        "start",
        "started_s",
        "wanted",
    )

    def __init__(self, file: SharedFile, source: Source, start: int, end: int) -> None:
        self.file = file
        self.source = source
        self.start = start
        self.end = end
        self.ahead = False
        self.data: bytes | None = None
        self.error: BlobfsError | None = None
        self.done = Event()
        self.queued = self.hedged = self.dropped = False
        self.held = True
        self.pins = self.running = self.wanted = self.read = 0
        self.started_s = 0.0

    @property
    def size(self) -> int:
        return self.end - self.start


class PartStore:
    """The parts of all files, in at most *memory* bytes, including those being fetched.

    Unused parts, which no stream wants and no read pins, are dropped first, the least recently used
    before the others. The caller of every method holds ``lock``, which guards all state.
    """

    def __init__(self, memory: int) -> None:
        self.lock = guard()
        self.memory = memory
        self.held_bytes = 0
        self.wasted_bytes = 0
        self._files: dict[tuple[str, int], SharedFile] = {}
        self._unused: OrderedDict[Part, None] = OrderedDict()
        self._unused_bytes = 0

    def join(self, path: str, size: int, *, shared: bool) -> SharedFile:
        """Add a handle to the file, or to a file of its own if not *shared*."""
        file = SharedFile(path, size)
        if shared:
            file = self._files.setdefault((path, size), file)
        file.detached = not shared
        file.handles += 1
        return file

    def leave(self, file: SharedFile) -> None:
        """Remove a handle from *file*."""
        file.handles -= 1
        if file.handles == 0 and file.detached:
            for part in list(file.parts):
                self.drop(part)
        self._remove_if_empty(file)

    def invalidate(self, path: str) -> None:
        """Detach the files at *path* and below it."""
        for file in list(self._files.values()):
            if is_below(file.path, path):
                self.detach(file)

    def detach(self, file: SharedFile) -> None:
        """Drop the parts of *file*, and do not share it with further handles."""
        file.detached = True
        if self._files.get((file.path, file.size)) is file:
            del self._files[file.path, file.size]
        for part in list(file.parts):
            self.drop(part)

    def reserve(self, size: int) -> bool:
        """Reserve *size* bytes, dropping unused parts; False if there is not enough memory."""
        if size > self.memory - self.held_bytes + self._unused_bytes:
            return False
        while self.held_bytes + size > self.memory:
            self.drop(next(iter(self._unused)))
        self.held_bytes += size
        return True

    def unreserve(self, size: int) -> None:
        """Return *size* reserved bytes."""
        self.held_bytes -= size

    def add(self, part: Part) -> None:
        """Add *part*, whose memory is reserved, to the parts of its file."""
        insort(part.file.parts, part, key=_start_of)

    def drop(self, part: Part) -> None:
        """Remove *part* from its file; its memory is freed after its last use."""
        if not part.dropped:
            part.dropped = True
            part.file.parts.remove(part)
            self._remove_if_empty(part.file)
        self.release(part)

    def pin(self, part: Part) -> None:
        """Keep *part* for a current read."""
        part.pins += 1
        self._reuse(part)

    def want(self, part: Part) -> None:
        """Keep *part* for a stream that will read it."""
        part.wanted += 1
        self._reuse(part)

    def release(self, part: Part) -> None:
        """Free *part*, drop it, or mark it as unused, if no read, request or stream needs it."""
        if part.pins or part.running:
            return
        if part.dropped:
            self._free(part)
        elif part.queued and not part.wanted:
            self.drop(part)
        elif not part.wanted and part.data is not None:
            self._set_unused(part)

    def _set_unused(self, part: Part) -> None:
        if part not in self._unused:
            self._unused_bytes += part.size
        self._unused[part] = None
        self._unused.move_to_end(part)
        for oldest in self._over_share():
            self.drop(oldest)

    def _over_share(self) -> Iterator[Part]:
        while self._unused_bytes > self.memory // _UNUSED_SHARE and len(self._unused) > 1:
            yield next(iter(self._unused))

    def _reuse(self, part: Part) -> None:
        if part in self._unused:
            del self._unused[part]
            self._unused_bytes -= part.size

    def _free(self, part: Part) -> None:
        self._reuse(part)
        if not part.held:
            return
        part.held = part.queued = False
        if part.data is not None:
            self.wasted_bytes += max(0, part.size - part.read)
            part.data = None
        self.unreserve(part.size)

    def _remove_if_empty(self, file: SharedFile) -> None:
        if not file.handles and not file.parts and not file.detached:
            self._files.pop((file.path, file.size), None)

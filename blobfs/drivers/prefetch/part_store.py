"""The parts of files that are in memory or on their way there, and how much that may be."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Iterator
from operator import attrgetter
from threading import Event, Lock
from typing import Final

from blobfs.drivers.base import FileReader
from blobfs.errors import BlobfsError

_SPENT_SHARE: Final = 4
"""The share of the memory, as a divisor, that what nobody wants any more may take."""

_start_of = attrgetter("start")


class Source:
    """A reader of the wrapped driver, closed when the last of its users lets go.

    Users are counted under the lock of the ``PartStore``.
    """

    __slots__ = ("reader", "users")

    def __init__(self, reader: FileReader) -> None:
        self.reader = reader
        self.users = 1

    def close_if_unused(self) -> None:
        """Close it after the last user; more than once does no harm."""
        if self.users == 0:
            self.reader.close()


class SharedFile:
    """What the open files of one path and size have in common: their *parts*, in order."""

    __slots__ = ("detached", "handles", "parts", "path", "size")

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self.size = size
        self.handles = 0
        self.detached = False  # the path was changed since
        self.parts: list[Part] = []

    def part_at(self, offset: int) -> Part | None:
        """The part that holds the byte at *offset*."""
        index = bisect_right(self.parts, offset, key=_start_of)
        if index and offset < self.parts[index - 1].end:
            return self.parts[index - 1]
        return None

    def gap_end(self, offset: int) -> int:
        """Where the next part begins, or the file ends."""
        index = bisect_right(self.parts, offset, key=_start_of)
        return self.parts[index].start if index < len(self.parts) else self.size

    def covering(self, offset: int, end: int) -> list[Part]:
        """The parts from *offset* towards *end*, up to the first byte that is in none."""
        parts = []
        while offset < end and (part := self.part_at(offset)):
            parts.append(part)
            offset = part.end
        return parts


class Part:
    """A range of a file: queued, being fetched, in memory, or failed.

    *running* counts the requests for it, *pins* the reads under way that use it, and *wanted*
    the runs that are to come by. One that is *dropped* is found by nobody new.
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
    """The parts of all files, in at most *memory* bytes, those on their way included.

    What nobody wants any more, the spent parts, goes first, the least recently used before
    the others. Everything is called under ``lock``.
    """

    def __init__(self, memory: int) -> None:
        self.lock = Lock()
        self.memory = memory
        self.held_bytes = 0
        self.wasted_bytes = 0
        self._files: dict[tuple[str, int], SharedFile] = {}
        self._spent: OrderedDict[Part, None] = OrderedDict()
        self._spent_bytes = 0

    def join(self, path: str, size: int, *, shared: bool) -> SharedFile:
        """The file for one more handle, for none but it if not *shared*."""
        file = SharedFile(path, size)
        if shared:
            file = self._files.setdefault((path, size), file)
        file.detached = not shared
        file.handles += 1
        return file

    def leave(self, file: SharedFile) -> None:
        """One handle less."""
        file.handles -= 1
        if file.handles == 0 and file.detached:
            for part in list(file.parts):
                self.drop(part)
        self._lose_if_empty(file)

    def forget(self, path: str) -> None:
        """Let nobody new see what is held of *path* and below it."""
        below = path.rstrip("/") + "/"
        for file in list(self._files.values()):
            if file.path == path or file.path.startswith(below):
                self.detach(file)

    def detach(self, file: SharedFile) -> None:
        """Drop the parts of *file*, and share it with no further handle."""
        file.detached = True
        if self._files.get((file.path, file.size)) is file:
            del self._files[file.path, file.size]
        for part in list(file.parts):
            self.drop(part)

    def reserve(self, size: int) -> bool:
        """Whether *size* more bytes can be held; they are then."""
        if size > self.memory - self.held_bytes + self._spent_bytes:
            return False
        while self.held_bytes + size > self.memory:
            self.drop(next(iter(self._spent)))
        self.held_bytes += size
        return True

    def give_back(self, size: int) -> None:
        """Let go of bytes that were reserved."""
        self.held_bytes -= size

    def add(self, part: Part) -> None:
        """Let others find *part*, for which there is memory reserved."""
        insort(part.file.parts, part, key=_start_of)

    def drop(self, part: Part) -> None:
        """Let nobody find *part* any more; its memory goes when nobody uses it."""
        if not part.dropped:
            part.dropped = True
            part.file.parts.remove(part)
            self._lose_if_empty(part.file)
        self.settle(part)

    def pin(self, part: Part) -> None:
        """Keep *part* for a read that is under way."""
        part.pins += 1
        self._unspend(part)

    def want(self, part: Part) -> None:
        """Keep *part* for a run that will come by."""
        part.wanted += 1
        self._unspend(part)

    def settle(self, part: Part) -> None:
        """Decide what becomes of *part* after somebody has finished with it."""
        if part.pins or part.running:
            return
        if part.dropped:
            self._free(part)
        elif part.queued and not part.wanted:
            self.drop(part)
        elif not part.wanted and part.data is not None:
            self._spend(part)

    def _spend(self, part: Part) -> None:
        if part not in self._spent:
            self._spent_bytes += part.size
        self._spent[part] = None
        self._spent.move_to_end(part)
        for oldest in self._surplus():
            self.drop(oldest)

    def _surplus(self) -> Iterator[Part]:
        while self._spent_bytes > self.memory // _SPENT_SHARE and len(self._spent) > 1:
            yield next(iter(self._spent))

    def _unspend(self, part: Part) -> None:
        if part in self._spent:
            del self._spent[part]
            self._spent_bytes -= part.size

    def _free(self, part: Part) -> None:
        self._unspend(part)
        if not part.held:
            return
        part.held = part.queued = False
        if part.data is not None:
            self.wasted_bytes += max(0, part.size - part.read)
            part.data = None
        self.give_back(part.size)

    def _lose_if_empty(self, file: SharedFile) -> None:
        if not file.handles and not file.parts and not file.detached:
            self._files.pop((file.path, file.size), None)

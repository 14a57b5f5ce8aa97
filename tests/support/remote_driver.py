"""A driver in memory whose reads are requests: noted, and held up, refused or cut by a test."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition, Event

from blobfs.drivers.base import FileReader
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.drivers.prefetch.driver import ReadAheadDriver, ReadAheadOptions

KIB = 2**10
MIB = 2**20
PATIENCE_S = 30.0

CONTENT = random.Random(1).randbytes(8 * MIB)

SMALL = ReadAheadOptions(memory=2 * MIB, part=64 * KIB, first=2 * KIB, hedge_after_s=60)
"""The default options, on another scale, and without second requests."""

Answer = Callable[[int, bytes], bytes]


class RemoteDriver(InMemoryDriver):
    """Each read of a reader is a request, and *answer* makes of the data what it returns."""

    is_local = False

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[tuple[int, int]] = []  # offset and size
        self.running = 0  # bytes that were asked for, and are not answered yet
        self.most_running = 0
        self.closed = 0
        self.answer: Answer = lambda _offset, data: data
        self._changed = Condition()

    def open(self, path: str, size: int | None = None) -> FileReader:
        return _RemoteReader(self, super().open(path, size))

    def offsets(self) -> list[int]:
        """Where requests were made, the first first."""
        return [offset for offset, _ in self.requests]

    def requested(self, offset: int, size: int, data: bytes) -> bytes:
        """The answer to a request."""
        with self._changed:
            self.requests.append((offset, size))
            self.running += size
            self.most_running = max(self.most_running, self.running)
            self._changed.notify_all()
        try:
            return self.answer(offset, data)
        finally:
            with self._changed:
                self.running -= size
                self._changed.notify_all()

    def reader_closed(self) -> None:
        """Count a reader."""
        with self._changed:
            self.closed += 1
            self._changed.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for *condition*, that requests, and what is done with their answers, lead to."""
        deadline = time.monotonic() + PATIENCE_S
        with self._changed:
            while not condition():
                assert time.monotonic() < deadline, f"it never came: {self.requests}"
                self._changed.wait(0.005)


class _RemoteReader(FileReader):
    def __init__(self, driver: RemoteDriver, reader: FileReader) -> None:
        self._driver = driver
        self._reader = reader
        self._closed = False

    @property
    def size(self) -> int:
        return self._reader.size

    def read_at(self, offset: int, size: int) -> bytes:
        assert not self._closed, "a closed reader was read"
        return self._driver.requested(offset, size, self._reader.read_at(offset, size))

    def close(self) -> None:
        assert not self._closed, "a reader was closed twice"
        self._closed = True
        self._driver.reader_closed()


class Gate:
    """Holds up the answers from some offsets on until it is opened; *times* of each at most."""

    def __init__(self, is_held: Callable[[int], bool], times: int = 2**30) -> None:
        self._is_held = is_held
        self._times = times
        self._seen: dict[int, int] = {}
        self._opened = Event()

    def __call__(self, offset: int, data: bytes) -> bytes:
        self._seen[offset] = self._seen.get(offset, 0) + 1
        if self._is_held(offset) and self._seen[offset] <= self._times:
            assert self._opened.wait(PATIENCE_S), "the gate stayed shut"
        return data

    def open(self) -> None:
        """Let all answers through, those that wait first."""
        self._opened.set()


@contextmanager
def reading_ahead(remote: RemoteDriver, options: ReadAheadOptions) -> Iterator[ReadAheadDriver]:
    """A driver over *remote*."""
    driver = ReadAheadDriver(remote, options)
    yield driver
    driver.close()


def read_checked(reader: FileReader, start: int, end: int, size: int = KIB) -> None:
    """Read from *start* to *end* of a file that holds CONTENT, *size* bytes at a time."""
    for offset in range(start, end, size):
        assert reader.read_at(offset, size) == CONTENT[offset : offset + size]

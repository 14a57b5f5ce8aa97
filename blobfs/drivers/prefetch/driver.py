"""The driver wrapper that fetches ahead, and its readers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from blobfs import metrics
from blobfs.concurrency import ThreadPool
from blobfs.drivers.base import FileReader, FileWriter, StorageDriver
from blobfs.drivers.prefetch.fetcher import Fetcher
from blobfs.drivers.prefetch.part_store import Part, PartStore, Source
from blobfs.drivers.prefetch.prefetcher import Cursor, Handle, PartSizer, Prefetcher, ReadPlan
from blobfs.drivers.wrapper import ChangingWrapper


@dataclass(frozen=True, slots=True)
class ReadAheadOptions:
    """Bounds of the prefetching; sizes are in bytes.

    *memory* bounds the bytes that are held or being fetched, *streams* the parallel requests.
    The first request of a file is for *first* bytes, later ones are for up to *part*. A request
    that a reader waits for is made a second time after *hedge_after_s*, or later if requests of
    its size usually take long.
    """

    memory: int = 256 * 2**20
    part: int = 16 * 2**20
    streams: int = 16
    hedge_after_s: float = 2.0
    first: int = 256 * 2**10


class ReadAheadDriver(ChangingWrapper):
    """Fetches files that are read in order ahead, in bounded memory, and shares it among handles.

    Handles share a file by its path and size until the path, or one above it, is changed through
    this driver. While a writer of a path exists, each handle of it fetches for itself.
    ``read_at`` goes to the wrapped driver. Owns the threads of the fetcher.
    Thread-safe: the lock of the ``PartStore`` guards all state.
    """

    def __init__(self, driver: StorageDriver, options: ReadAheadOptions) -> None:
        super().__init__(driver)
        self._workers = ThreadPool("readahead", 2 * options.streams, reserved=options.streams)
        self._store = PartStore(options.memory)
        self._fetcher = Fetcher(self._store, self._workers, options.hedge_after_s)
        sizer = PartSizer(options.first, options.part)
        self._prefetcher = Prefetcher(self._store, self._fetcher, sizer, options.streams)
        self._changes = 0
        self._writers: WeakKeyDictionary[FileWriter, str] = WeakKeyDictionary()
        metrics.READ_AHEAD.watch(self)

    def stats(self) -> dict[str, int]:
        """Counters since the start, and the bytes that are held or being fetched."""
        with self._store.lock:
            return {
                "hits": self._prefetcher.hits,
                "waits": self._prefetcher.waits,
                "requests": self._fetcher.requests,
                "hedged": self._fetcher.hedged,
                "wasted_bytes": self._store.wasted_bytes,
                "held_bytes": self._store.held_bytes,
            }

    def open(self, path: str, size: int | None = None) -> FileReader:
        changes = self._changes
        reader = self._driver.open(path, size)
        with self._store.lock:
            is_shared = changes == self._changes and path not in self._writers.values()
            file = self._store.join(path, reader.size, shared=is_shared)
        return _Reader(self._prefetcher, self._fetcher, Handle(file, Source(reader), Cursor()))

    def invalidate(self, path: str) -> None:
        """Discard the fetched bytes of *path* and of all below it."""
        with self._store.lock:
            self._changes += 1
            self._store.invalidate(path)

    def create(self, path: str) -> FileWriter:
        with self.changing(path):  # a handle that was opened before the registration is not shared
            return self._registered(path, super().create(path))

    def append(self, path: str, token: str = "") -> FileWriter:
        with self.changing(path):
            return self._registered(path, super().append(path, token))

    def _registered(self, path: str, writer: FileWriter) -> FileWriter:
        with self._store.lock:
            self._writers[writer] = path
        return writer

    def close(self) -> None:
        self._workers.close()
        super().close()

    @contextmanager
    def changing(self, path: str) -> Iterator[None]:
        """Drop the parts of *path* and below it, before the block and after it."""
        self.invalidate(path)
        try:
            yield
        finally:
            self.invalidate(path)


class _Reader(FileReader):
    def __init__(self, prefetcher: Prefetcher, fetcher: Fetcher, handle: Handle) -> None:
        self._prefetcher = prefetcher
        self._fetcher = fetcher
        self._handle = handle
        self._closed = False

    @property
    def size(self) -> int:
        return self._handle.file.size

    def read_at(self, offset: int, size: int) -> bytes:
        end = min(offset + size, self.size)
        if offset >= end:
            return b""
        return self._read(self._prefetcher.plan_read(self._handle, offset, end))

    def read_nowait(self, offset: int, size: int) -> bytes | memoryview | None:
        end = min(offset + size, self.size)
        if offset >= end:
            return b""
        plan = self._prefetcher.plan_cached(self._handle, offset, end)
        if plan is None:
            return None
        [part, *more] = plan.parts
        if more or part.data is None:
            return self._read(plan)
        self._prefetcher.release(plan)
        return memoryview(part.data)[offset - part.start : end - part.start]  # no copy

    def _read(self, plan: ReadPlan) -> bytes:
        try:
            return self._bytes(plan)
        finally:
            self._prefetcher.release(plan)

    def _bytes(self, plan: ReadPlan) -> bytes:
        pieces = []
        position = plan.offset
        for part in plan.parts:
            end = min(plan.end, part.end)
            pieces.append(self._bytes_of(part, position, end))
            position = end
        if position < plan.end:
            pieces.append(self._direct(position, plan.end))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _bytes_of(self, part: Part, start: int, end: int) -> bytes:
        data = self._fetcher.wait(part)
        if data is not None:
            return data[start - part.start : end - part.start]
        if part.error is not None and not part.ahead:
            raise part.error
        return self._direct(start, end)

    def _direct(self, start: int, end: int) -> bytes:
        return self._fetcher.direct(self._handle.source, start, end)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._prefetcher.leave(self._handle)

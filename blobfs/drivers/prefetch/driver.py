"""Reading ahead, for drivers whose every read is a request that takes milliseconds.

A file read in order is fetched by several requests side by side, well before its reader comes
by; what is read here and there is asked for as it is. ``prefetcher`` decides with each
read, ``window`` how far and in which pieces, ``part_store`` keeps them, and
``fetcher`` gets them. There is one lock, that of the ``PartStore``, and no request is
made while it is held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from blobfs import metrics
from blobfs.drivers.base import FileReader, FileWriter, StorageDriver
from blobfs.drivers.prefetch.fetcher import Fetcher, Workers
from blobfs.drivers.prefetch.part_store import Part, PartStore, Source
from blobfs.drivers.prefetch.prefetcher import Cursor, Handle, PartSizer, Planner, ReadPlan
from blobfs.drivers.wrapper import DriverWrapper


@dataclass(frozen=True, slots=True)
class ReadAheadOptions:
    """*memory* bounds all that is held or on its way; *streams* requests fetch it.

    The first request of a file is for *first* bytes, the later ones for up to *part*. One that
    is waited for is made a second time after *patience_s*, or later where that is usual.
    """

    memory: int = 256 * 2**20
    part: int = 16 * 2**20
    streams: int = 16
    patience_s: float = 2.0
    first: int = 256 * 2**10


class ReadAheadDriver(DriverWrapper):
    """Fetches ahead what is read in order, in bounded memory, and shares it among handles.

    A path and a size tell a file, until the path, or one above it, is changed here; as long as
    there is a writer of it, each handle fetches for itself. ``get_content`` and ``read_at`` ask the
    wrapped driver.
    """

    def __init__(self, driver: StorageDriver, options: ReadAheadOptions) -> None:
        super().__init__(driver)
        self._workers = Workers(options.streams)
        self._store = PartStore(options.memory)
        self._fetcher = Fetcher(self._store, self._workers, options.patience_s)
        cuts = PartSizer(options.first, options.part)
        self._planner = Planner(self._store, self._fetcher, cuts, options.streams)
        self._changes = 0
        self._writers: WeakKeyDictionary[FileWriter, str] = WeakKeyDictionary()
        metrics.READ_AHEAD.watch(self)

    def stats(self) -> dict[str, int]:
        """Counters since the start, and the bytes that are held or on their way."""
        with self._store.lock:
            return {
                "hits": self._planner.hits,
                "waits": self._planner.waits,
                "requests": self._fetcher.requests,
                "hedged": self._fetcher.hedged,
                "wasted_bytes": self._store.wasted_bytes,
                "held_bytes": self._store.held_bytes,
            }

    def open(self, path: str) -> FileReader:
        changes = self._changes
        return self._reader(path, self._driver.open(path), changes)

    def open_of_size(self, path: str, size: int) -> FileReader:
        changes = self._changes
        return self._reader(path, self._driver.open_of_size(path, size), changes)

    def _reader(self, path: str, reader: FileReader, changes: int) -> FileReader:
        with self._store.lock:
            settled = changes == self._changes and path not in self._writers.values()
            file = self._store.join(path, reader.size, shared=settled)
        return _Reader(self._planner, self._fetcher, Handle(file, Source(reader), Cursor()))

    def forget(self, path: str) -> None:
        self._forget(path)
        super().forget(path)

    def put_content(self, path: str, content: bytes) -> None:
        with self._changing(path):
            self._driver.put_content(path, content)

    def put_immutable(self, path: str, chunks: Iterable[bytes]) -> None:
        with self._changing(path):
            self._driver.put_immutable(path, chunks)

    def create(self, path: str) -> FileWriter:
        with self._changing(path):
            return self._noted(path, self._driver.create(path))

    def append(self, path: str, token: str = "") -> FileWriter:
        with self._changing(path):
            return self._noted(path, self._driver.append(path, token))

    def _noted(self, path: str, writer: FileWriter) -> FileWriter:
        with self._store.lock:
            self._writers[writer] = path
        return writer

    def move(self, source: str, target: str) -> None:
        with self._changing(source), self._changing(target):
            self._driver.move(source, target)

    def delete(self, path: str) -> None:
        with self._changing(path):
            self._driver.delete(path)

    def delete_files(self, paths: Sequence[str]) -> None:
        with ExitStack() as changing:
            for path in paths:
                changing.enter_context(self._changing(path))
            self._driver.delete_files(paths)

    def close(self) -> None:
        self._workers.close()
        super().close()

    @contextmanager
    def _changing(self, path: str) -> Iterator[None]:
        """Drop what is held of *path* and below it, and what is fetched of it meanwhile."""
        self._forget(path)
        try:
            yield
        finally:
            self._forget(path)

    def _forget(self, path: str) -> None:
        with self._store.lock:
            self._changes += 1
            self._store.forget(path)


class _Reader(FileReader):
    def __init__(self, planner: Planner, fetcher: Fetcher, handle: Handle) -> None:
        self._planner = planner
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
        return self._read(self._planner.claim(self._handle, offset, end))

    def read_nowait(self, offset: int, size: int) -> bytes | memoryview | None:
        end = min(offset + size, self.size)
        if offset >= end:
            return b""
        claim = self._planner.claim_held(self._handle, offset, end)
        if claim is None:
            return None
        [part, *more] = claim.parts
        if more or part.data is None:
            return self._read(claim)
        self._planner.release(claim)
        return memoryview(part.data)[offset - part.start : end - part.start]  # no copy

    def _read(self, claim: ReadPlan) -> bytes:
        try:
            return self._bytes(claim)
        finally:
            self._planner.release(claim)

    def _bytes(self, claim: ReadPlan) -> bytes:
        pieces = []
        position = claim.offset
        for part in claim.parts:
            end = min(claim.end, part.end)
            pieces.append(self._bytes_of(part, position, end))
            position = end
        if position < claim.end:
            pieces.append(self._direct(position, claim.end))
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
            self._planner.leave(self._handle)

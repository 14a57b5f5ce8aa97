"""Fetching of parts by a bounded number of threads, with second requests for late answers."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from functools import partial
from typing import Final

from blobfs.concurrency import ThreadPool
from blobfs.drivers.prefetch.part_store import Part, PartStore, Source
from blobfs.errors import BlobfsError, FileChanged, PathNotFound, StorageUnavailable

_SLOW: Final = 4
"""The multiple of the usual time after which a request is made a second time."""

_REMEMBERED: Final = 32
"""The number of recent requests of about one size whose median is the usual time."""


class Times:
    """The durations of recent requests, by their size in bits. The PartStore's lock guards it."""

    def __init__(self) -> None:
        self._seconds: defaultdict[int, deque[float]] = defaultdict(
            lambda: deque(maxlen=_REMEMBERED)
        )

    def note(self, size: int, seconds: float) -> None:
        """Record the duration of an answered request."""
        self._seconds[size.bit_length()].append(seconds)

    def usual_s(self, size: int) -> float:
        """The median duration in seconds; 0 if none is known."""
        seconds = sorted(self._seconds.get(size.bit_length()) or [0.0])
        return seconds[len(seconds) // 2]


class Fetcher:
    """Requests the bytes of parts, in the threads of *workers* or in the caller's.

    Thread-safe: the lock of the ``PartStore`` guards the parts, the times and the counters.
    """

    def __init__(self, store: PartStore, workers: ThreadPool, hedge_after_s: float) -> None:
        self.requests = 0
        self.hedged = 0
        self._store = store
        self._workers = workers
        self._hedge_after_s = hedge_after_s
        self._times = Times()

    def start(self, part: Part) -> None:
        """Queue *part*; the caller holds the lock of the ``PartStore``."""
        part.queued = True
        part.source.users += 1
        self._workers.submit(partial(self._run, part), urgent=not part.ahead)

    def prioritize(self, part: Part) -> None:
        """Move a queued *part* to the front, as a reader waits; the caller holds the lock."""
        if part.queued and part.ahead:
            part.source.users += 1
            self._workers.submit(partial(self._run, part), urgent=True)

    def wait(self, part: Part) -> bytes | None:
        """Wait for the bytes of a pinned part; None if it failed or has not started in time."""
        if part.data is None and not part.done.wait(self._hedge_wait_s(part)) and self._hedge(part):
            part.done.wait()
        return part.data

    def direct(self, source: Source, start: int, end: int) -> bytes:
        """Read a range by one request in this thread."""
        with self._store.lock:
            self.requests += 1
        data = source.reader.read_at(start, end - start)
        if len(data) != end - start:
            raise _short(start, end, len(data))
        return data

    def _hedge_wait_s(self, part: Part) -> float:
        """Seconds from now after which *part* is requested a second time."""
        now = time.monotonic()
        with self._store.lock:
            usual = self._times.usual_s(part.size)
            return max(self._hedge_after_s, _SLOW * usual) - now + (part.started_s or now)

    def _hedge(self, part: Part) -> bool:
        """Make a second request; False if *part* is not worth waiting for."""
        with self._store.lock:
            if part.hedged or part.done.is_set():
                return True
            if not part.running or not self._store.reserve(part.size):
                return False
            part.hedged = True
            part.running += 1
            part.source.users += 1
            self.hedged += 1
        self._workers.submit(partial(self._attempt, part), urgent=True)
        return True

    def _run(self, part: Part) -> None:
        with self._store.lock:
            begins = part.queued
            part.queued = False
            part.running += begins
            part.source.users -= not begins
            part.started_s = part.started_s or time.monotonic()
        if begins:
            self._attempt(part)
        else:
            part.source.close_if_unused()

    def _attempt(self, part: Part) -> None:
        """Make one request for *part* and record its result."""
        started_s = time.monotonic()
        data = b""
        error: BlobfsError | None = StorageUnavailable(f"{part.file.path}: reading it failed")
        with self._store.lock:
            self.requests += 1
        try:
            data = part.source.reader.read_at(part.start, part.size)
            error = None if len(data) == part.size else _short(part.start, part.end, len(data))
        except BlobfsError as exc:
            error = exc
        finally:
            with self._store.lock:
                self._finish(part, data, error, time.monotonic() - started_s)
            part.source.close_if_unused()

    def _finish(self, part: Part, data: bytes, error: BlobfsError | None, seconds: float) -> None:
        part.running -= 1
        part.source.users -= 1
        if part.done.is_set():  # by the other request
            self._store.wasted_bytes += len(data)
            self._store.unreserve(part.size)
        elif error is None:
            self._times.note(part.size, seconds)
            part.data = data
            part.done.set()
        elif part.running:  # the other request may succeed
            self._store.unreserve(part.size)
        else:
            self._fail(part, error)
        self._store.release(part)

    def _fail(self, part: Part, error: BlobfsError) -> None:
        part.error = error
        if isinstance(error, FileChanged | PathNotFound):
            self._store.detach(part.file)
        self._store.drop(part)
        part.done.set()


def _short(start: int, end: int, size: int) -> FileChanged:
    return FileChanged(f"{size} bytes were read at {start}, but {end - start} were expected")

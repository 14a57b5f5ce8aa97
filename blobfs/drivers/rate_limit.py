"""Limits of the bytes and the requests per second of a storage, for commands that read all of it.

The limits are a part of the ``Location``, so they hold for every driver that is made of it. All
drivers of a process that have the same limits share them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple

from blobfs.concurrency import guard, refuse_to_take_long
from blobfs.drivers.base import DirEntry, FileInfo, FileReader, FileWriter, NewFile, StorageDriver
from blobfs.drivers.capacity import Bounded, Capacity, capacity_of
from blobfs.drivers.objectstore import ObjectStore, Page
from blobfs.drivers.resumable import Unfinished
from blobfs.drivers.wrapper import ReaderWrapper, RemoteWrapper, ResumableWrapper, WriterWrapper

_PAGE: Final = 1000
"""Entries of a listing that an object store returns at most by one request."""


@dataclass(frozen=True, slots=True)
class RateLimits:
    """The bytes and the requests per second; 0 is no limit."""

    bytes_per_s: int = 0
    requests_per_s: int = 0


class Pacer:
    """Spaces calls in time, so that their amounts do not exceed a rate. Thread-safe.

    The guard has the time at which all earlier amounts are within the rate. A call waits for that
    time, so the first one waits for nothing, and there are no bursts after a pause.
    """

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._lock = guard()
        self._free_at = 0.0

    def wait(self, amount: int = 1) -> None:
        """Wait until earlier amounts are within the rate, and count *amount*."""
        if not self._per_second:
            return
        refuse_to_take_long()
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._free_at)
            self._free_at = begin + amount / self._per_second
        if begin > now:
            time.sleep(begin - now)


class _Pacers(NamedTuple):
    """The pacers of a process for the same limits."""

    bytes: Pacer
    requests: Pacer


@cache
def _pacers(limits: RateLimits) -> _Pacers:
    return _Pacers(Pacer(limits.bytes_per_s), Pacer(limits.requests_per_s))


class RateLimitedDriver(ResumableWrapper, Bounded):
    """DriverWrapper whose calls wait until the storage may get another request.

    A call counts as a request, a listing as one for each thousand entries. The bytes that are read
    from files and written to them count too, but not those of listings.
    """

    def __init__(self, driver: StorageDriver, limits: RateLimits) -> None:
        super().__init__(driver)
        self._pacers = _pacers(limits)

    def _request(self, requests: int = 1) -> StorageDriver:
        """Return the driver when it may get so many requests."""
        self._pacers.requests.wait(requests)
        return self._driver

    def stat(self, path: str) -> FileInfo:
        return self._request().stat(path)

    def stat_many(self, paths: Sequence[str]) -> list[FileInfo | None]:
        return self._request(len(paths)).stat_many(paths)

    def listdir(self, path: str) -> Iterator[DirEntry]:
        return self._paced(self._request().listdir(path))

    def _paced(self, entries: Iterator[DirEntry]) -> Iterator[DirEntry]:
        for number, entry in enumerate(entries, 1):
            yield entry
            if number % _PAGE == 0:
                self._request()

    def open(self, path: str, size: int | None = None) -> FileReader:
        return _Reader(self._request().open(path, size), self._pacers)

    def read_at(self, path: str, offset: int, size: int) -> bytes:
        content = self._request().read_at(path, offset, size)
        self._pacers.bytes.wait(len(content))
        return content

    def put_content(self, path: str, content: bytes) -> None:
        self._pacers.bytes.wait(len(content))
        self._request().put_content(path, content)

    def put_immutable(self, path: str, chunks: Iterable[bytes], size: int | None = None) -> None:
        self._request().put_immutable(path, self._counted(chunks), size)

    def put_files(self, files: Iterable[NewFile]) -> None:
        listed = list(files)
        self._pacers.bytes.wait(sum(len(file.content) for file in listed))
        self._request(len(listed)).put_files(listed)

    def _counted(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._pacers.bytes.wait(len(chunk))
            yield chunk

    def sync(self, path: str) -> None:
        self._request().sync(path)

    def create(self, path: str) -> FileWriter:
        return _Writer(self._request().create(path), self._pacers)

    def append(self, path: str, token: str = "") -> FileWriter:
        return _Writer(self._request().append(path, token), self._pacers)

    def move(self, source: str, target: str) -> None:
        self._request().move(source, target)

    def delete(self, path: str) -> None:
        self._request().delete(path)

    def prune(self, path: str) -> None:
        self._request().prune(path)

    def capacity(self) -> Capacity | None:
        return capacity_of(self._driver)

    def stat_unfinished(self, path: str, token: str = "") -> FileInfo:
        self._request()
        return super().stat_unfinished(path, token)

    def unfinished(self, path: str) -> Iterator[Unfinished]:
        self._request()
        return super().unfinished(path)

    def abandon(self, unfinished: Unfinished) -> None:
        self._request()
        super().abandon(unfinished)


class RateLimitedObjectStore(RateLimitedDriver, RemoteWrapper, ObjectStore):
    """``RateLimitedDriver`` of an object store."""

    def __init__(self, store: ObjectStore, limits: RateLimits) -> None:
        super().__init__(store, limits)
        self._store = store

    def pages(self, path: str, *, limit: int = 1000, after: str = "") -> Iterator[Page]:
        self._request()
        for page in self._store.pages(path, limit=limit, after=after):
            yield page
            if not page.is_last:
                self._request()

    def stat_now(self, path: str) -> FileInfo:
        self._request()
        return self._store.stat_now(path)

    def stat_files(self, paths: Sequence[str]) -> list[FileInfo | None]:
        self._request(len(paths))
        return self._store.stat_files(paths)


class _Reader(ReaderWrapper):
    def __init__(self, reader: FileReader, pacers: _Pacers) -> None:
        super().__init__(reader)
        self._pacers = pacers

    def read_at(self, offset: int, size: int) -> bytes:
        self._pacers.requests.wait()
        content = self._reader.read_at(offset, size)
        self._pacers.bytes.wait(len(content))
        return content

    def read_nowait(self, offset: int, size: int) -> None:
        return None


class _Writer(WriterWrapper):
    def __init__(self, writer: FileWriter, pacers: _Pacers) -> None:
        super().__init__(writer)
        self._pacers = pacers

    def write(self, data: bytes) -> None:
        self._pacers.bytes.wait(len(data))
        self._writer.write(data)

    def can_write_nowait(self, size: int) -> bool:
        return False


def with_limits(driver: StorageDriver, limits: RateLimits) -> StorageDriver:
    """Wrap a concrete driver, so that it keeps within *limits*."""
    if isinstance(driver, ObjectStore):
        return RateLimitedObjectStore(driver, limits)
    return RateLimitedDriver(driver, limits)

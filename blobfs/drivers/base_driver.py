"""The innermost wrapper of every driver: it checks paths and offsets, and measures each call.

It has the place of distribution's ``registry/storage/driver/base/base.go``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import perf_counter
from typing import Final, ParamSpec, TypeVar

from blobfs import metrics
from blobfs.drivers.base import DirEntry, FileInfo, FileReader, FileWriter, NewFile, StorageDriver
from blobfs.drivers.capacity import Bounded, Capacity, capacity_of
from blobfs.drivers.objectstore import ObjectStore, Page
from blobfs.drivers.resumable import ResumableUploads, Unfinished, uploads_of
from blobfs.drivers.wrapper import ReaderWrapper, WriterWrapper
from blobfs.errors import BlobfsError, OffsetInvalid, PathInvalid

P = ParamSpec("P")
T = TypeVar("T")

_NAME: Final = re.compile(r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+")
_PATH: Final = re.compile(rf"(?:/{_NAME.pattern})+")


class CallTimer:
    """Makes calls of one driver, and records their durations by action. Thread-safe."""

    def __init__(self, driver: str) -> None:
        self._took = metrics.Children(
            lambda action: metrics.STORAGE_SECONDS.labels(driver, action).observe
        )

    def run(self, action: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of *call*."""
        began = perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            self._took[action](perf_counter() - began)

    def run_if_ready(
        self, action: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return the result of *call*; it is recorded unless it is None."""
        began = perf_counter()
        result = call(*args, **kwargs)
        if result is not None:
            self._took[action](perf_counter() - began)
        return result

    def iterate(
        self, action: str, call: Callable[P, Iterator[T]], *args: P.args, **kwargs: P.kwargs
    ) -> Iterator[T]:
        """Return the iterator of *call*; the total of its steps is recorded at its end."""
        began = perf_counter()
        try:
            found = call(*args, **kwargs)
        except BlobfsError:
            self._took[action](perf_counter() - began)
            raise
        return self._steps(action, found, perf_counter() - began)

    def _steps(self, action: str, found: Iterator[T], seconds: float) -> Iterator[T]:
        try:
            while True:
                began = perf_counter()
                try:
                    item = next(found)
                except StopIteration:
                    return
                finally:
                    seconds += perf_counter() - began
                yield item
        finally:
            self._took[action](seconds)


class BaseDriver(StorageDriver, ResumableUploads, Bounded):
    """Wraps a driver, which it owns and closes.

    Raises PathInvalid and OffsetInvalid, hides stored names that are no valid components, and
    records the duration of each call in ``metrics.STORAGE_SECONDS``.
    """

    def __init__(self, driver: StorageDriver) -> None:
        self.name = driver.name
        self.is_local = driver.is_local
        self.is_object_store = driver.is_object_store
        self._driver = driver
        self._uploads = uploads_of(driver)
        self._timer = CallTimer(driver.name)

    def stat(self, path: str) -> FileInfo:
        return self._timer.run("stat", self._driver.stat, _checked_or_root(path))

    def stat_many(self, paths: Sequence[str]) -> list[FileInfo | None]:
        checked = [_checked_or_root(path) for path in paths]
        return self._timer.run("stat_many", self._driver.stat_many, checked)

    def listdir(self, path: str) -> Iterator[DirEntry]:
        entries = self._timer.iterate("listdir", self._driver.listdir, _checked_or_root(path))
        return (entry for entry in entries if _NAME.fullmatch(entry.name))

    def open(self, path: str, size: int | None = None) -> FileReader:
        action = "open" if size is None else "open_of_size"
        reader = self._timer.run(action, self._driver.open, _checked(path), size)
        return _BaseReader(reader, self._timer)

    def read_at(self, path: str, offset: int, size: int) -> bytes:
        if offset < 0:
            raise _negative(offset)
        return self._timer.run("read_at", self._driver.read_at, _checked(path), offset, size)

    def put_content(self, path: str, content: bytes) -> None:
        self._timer.run("put_content", self._driver.put_content, _checked(path), content)

    def put_immutable(self, path: str, chunks: Iterable[bytes], size: int | None = None) -> None:
        self._timer.run("put_immutable", self._driver.put_immutable, _checked(path), chunks, size)

    def put_files(self, files: Iterable[NewFile]) -> None:
        files = [file._replace(path=_checked(file.path)) for file in files]
        self._timer.run("put_files", self._driver.put_files, files)

    def sync(self, path: str) -> None:
        self._timer.run("sync", self._driver.sync, _checked(path))

    def set_mtime(self, path: str, mtime_ns: int) -> None:
        self._timer.run("set_mtime", self._driver.set_mtime, _checked(path), mtime_ns)

    def create(self, path: str) -> FileWriter:
        writer = self._timer.run("create", self._driver.create, _checked(path))
        return _BaseWriter(writer, self._timer)

    def append(self, path: str, token: str = "") -> FileWriter:
        writer = self._timer.run("append", self._driver.append, _checked(path), token)
        return _BaseWriter(writer, self._timer)

    def move(self, source: str, target: str) -> None:
        self._timer.run("move", self._driver.move, _checked(source), _checked(target))

    def delete(self, path: str) -> None:
        self._timer.run("delete", self._driver.delete, _checked(path))

    def prune(self, path: str) -> None:
        self._timer.run("prune", self._driver.prune, _checked(path))

    def capacity(self) -> Capacity | None:
        return self._timer.run("capacity", capacity_of, self._driver)

    def close(self) -> None:
        self._driver.close()

    def stat_unfinished(self, path: str, token: str = "") -> FileInfo:
        stat = self._uploads.stat_unfinished
        return self._timer.run("stat_unfinished", stat, _checked(path), token)

    def unfinished(self, path: str) -> Iterator[Unfinished]:
        list_below = self._uploads.unfinished
        return self._timer.iterate("unfinished", list_below, _checked_or_root(path))

    def abandon(self, unfinished: Unfinished) -> None:
        self._timer.run("abandon", self._uploads.abandon, unfinished)


class BaseObjectStore(BaseDriver, ObjectStore):
    """``BaseDriver`` of an object store."""

    is_object_store = True

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self._store = store

    def pages(self, path: str, *, limit: int = 1000, after: str = "") -> Iterator[Page]:
        path, list_pages = _checked_or_root(path), self._store.pages
        for page in self._timer.iterate("pages", list_pages, path, limit=limit, after=after):
            yield Page([file for file in page.files if _PATH.fullmatch(file.path)], page.is_last)

    def stat_now(self, path: str) -> FileInfo:
        return self._timer.run("stat_now", self._store.stat_now, _checked(path))

    def stat_files(self, paths: Sequence[str]) -> list[FileInfo | None]:
        checked = [_checked(path) for path in paths]
        return self._timer.run("stat_files", self._store.stat_files, checked)

    def write_refusal(self, path: str) -> str | None:
        return self._timer.run("write_refusal", self._store.write_refusal, _checked(path))

    def redirect_url(self, path: str) -> str | None:
        return self._timer.run("redirect_url", self._store.redirect_url, _checked(path))

    def watch(self, changed: Callable[[str], None]) -> None:
        self._store.watch(changed)


class _BaseReader(ReaderWrapper):
    def __init__(self, reader: FileReader, timer: CallTimer) -> None:
        super().__init__(reader)
        self._timer = timer

    def read_at(self, offset: int, size: int) -> bytes:
        if offset < 0:
            raise _negative(offset)
        return self._timer.run("reader.read_at", self._reader.read_at, offset, size)

    def read_nowait(self, offset: int, size: int) -> bytes | memoryview | None:
        if offset < 0:
            raise _negative(offset)
        read = self._reader.read_nowait
        return self._timer.run_if_ready("reader.read_at", read, offset, size)


class _BaseWriter(WriterWrapper):
    def __init__(self, writer: FileWriter, timer: CallTimer) -> None:
        super().__init__(writer)
        self._timer = timer

    def write(self, data: bytes) -> None:
        self._timer.run("writer.write", self._writer.write, data)

    def rewrite(self, offset: int, data: bytes) -> None:
        self._timer.run("writer.rewrite", self._writer.rewrite, offset, data)

    def truncate(self, size: int) -> None:
        self._timer.run("writer.truncate", self._writer.truncate, size)

    def go_back(self, size: int) -> None:
        self._timer.run("writer.go_back", self._writer.go_back, size)

    def read_at(self, offset: int, size: int) -> bytes:
        return self._timer.run("writer.read_at", self._writer.read_at, offset, size)

    def is_undisturbed(self) -> bool:
        return self._timer.run("writer.is_undisturbed", self._writer.is_undisturbed)

    def move_to(self, target: str) -> bool:
        return self._timer.run("writer.move_to", self._writer.move_to, target)

    def flush(self) -> None:
        self._timer.run("writer.flush", self._writer.flush)

    def commit(self) -> None:
        self._timer.run("writer.commit", self._writer.commit)

    def cancel(self) -> None:
        self._timer.run("writer.cancel", self._writer.cancel)

    def close(self) -> None:
        self._timer.run("writer.close", self._writer.close)


def with_base(driver: StorageDriver) -> BaseDriver:
    """Wrap a concrete driver with its ``BaseDriver``."""
    return BaseObjectStore(driver) if isinstance(driver, ObjectStore) else BaseDriver(driver)


def _checked(path: str) -> str:
    if _PATH.fullmatch(path) is None:
        raise _refusal(path)
    return path


def _checked_or_root(path: str) -> str:
    if path != "/" and _PATH.fullmatch(path) is None:
        raise _refusal(path)
    return path


def _refusal(path: str) -> PathInvalid:
    return PathInvalid(f"not a driver path: {path[:255]!r}")


def _negative(offset: int) -> OffsetInvalid:
    return OffsetInvalid(f"negative offset: {offset}")

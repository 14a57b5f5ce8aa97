"""The wrapper that measures the duration of a driver's calls, by method."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from blobfs import metrics
from blobfs.drivers.base import FileInfo, FileReader, FileWriter, StorageDriver
from blobfs.drivers.objectstore import ObjectStore, Page
from blobfs.drivers.wrapper import DriverWrapper, ReaderWrapper, WriterWrapper
from blobfs.errors import BlobfsError

P = ParamSpec("P")
T = TypeVar("T")


class _Measured(Protocol):
    """An object whose calls are measured."""

    took: metrics.Children


S = TypeVar("S", bound=_Measured)


def measured(driver: StorageDriver) -> StorageDriver:
    """Wrap *driver* so that ``metrics.STORAGE_SECONDS`` has the durations of its calls."""
    return (
        MeasuredObjectStore(driver) if isinstance(driver, ObjectStore) else MeasuredDriver(driver)
    )


def _timed(
    action: str, method: Callable[Concatenate[Any, P], T]
) -> Callable[Concatenate[Any, P], T]:
    """Wrap *method* so that its duration counts as *action*."""

    @functools.wraps(method)
    def timed(self: _Measured, /, *args: P.args, **kwargs: P.kwargs) -> T:
        began = perf_counter()
        try:
            return method(self, *args, **kwargs)
        finally:
            self.took[action](perf_counter() - began)

    return timed


def _timed_to_the_end(
    action: str, method: Callable[Concatenate[Any, P], Iterator[T]]
) -> Callable[Concatenate[Any, P], Iterator[T]]:
    """Wrap *method* so that its duration and that of its iterator's steps count as *action*."""

    @functools.wraps(method)
    def timed(self: _Measured, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        began = perf_counter()
        try:
            found = method(self, *args, **kwargs)
        except BlobfsError:
            self.took[action](perf_counter() - began)
            raise
        return _timed_steps(found, self.took[action], perf_counter() - began)

    return timed


def _timed_steps(found: Iterator[T], took: Callable[[float], None], seconds: float) -> Iterator[T]:
    """Yield from *found*, and pass the total of its steps' durations and *seconds* to *took*."""
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
        took(seconds)


class MeasuredDriver(DriverWrapper):
    """Forwards every call to the wrapped driver, and measures it."""

    def __init__(self, driver: StorageDriver) -> None:
        super().__init__(driver)
        self.took = metrics.Children(
            lambda action: metrics.STORAGE_SECONDS.labels(driver.name, action).observe
        )

    def open(self, path: str) -> FileReader:
        return _MeasuredReader(self._open(path), self.took)

    def open_of_size(self, path: str, size: int) -> FileReader:
        return _MeasuredReader(self._open_of_size(path, size), self.took)

    def create(self, path: str) -> FileWriter:
        return _MeasuredWriter(self._create(path), self.took)

    def append(self, path: str, token: str = "") -> FileWriter:
        return _MeasuredWriter(self._append(path, token), self.took)

    _open = _timed("open", DriverWrapper.open)
    _open_of_size = _timed("open_of_size", DriverWrapper.open_of_size)
    _create = _timed("create", DriverWrapper.create)
    _append = _timed("append", DriverWrapper.append)
    confirm = _timed("confirm", DriverWrapper.confirm)
    write_refusal = _timed("write_refusal", DriverWrapper.write_refusal)
    identity = _timed("identity", DriverWrapper.identity)
    stat = _timed("stat", DriverWrapper.stat)
    stat_now = _timed("stat_now", DriverWrapper.stat_now)
    stat_many = _timed("stat_many", DriverWrapper.stat_many)
    listdir = _timed_to_the_end("listdir", DriverWrapper.listdir)
    walk = _timed_to_the_end("walk", DriverWrapper.walk)
    get_content = _timed("get_content", DriverWrapper.get_content)
    read_at = _timed("read_at", DriverWrapper.read_at)
    put_content = _timed("put_content", DriverWrapper.put_content)
    put_immutable = _timed("put_immutable", DriverWrapper.put_immutable)
    sync = _timed("sync", DriverWrapper.sync)
    stat_unfinished = _timed("stat_unfinished", DriverWrapper.stat_unfinished)
    unfinished = _timed_to_the_end("unfinished", DriverWrapper.unfinished)
    abandon = _timed("abandon", DriverWrapper.abandon)
    move = _timed("move", DriverWrapper.move)
    delete = _timed("delete", DriverWrapper.delete)
    prune = _timed("prune", DriverWrapper.prune)
    capacity = _timed("capacity", DriverWrapper.capacity)
    redirect_url = _timed("redirect_url", DriverWrapper.redirect_url)


class MeasuredObjectStore(MeasuredDriver, ObjectStore):
    """Forwards every call to the wrapped object store, and measures it."""

    is_object_store = True

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self._store = store

    def _pages(self, path: str, *, limit: int = 1000, after: str = "") -> Iterator[Page]:
        return self._store.pages(path, limit=limit, after=after)

    def _stat_files(self, paths: Sequence[str]) -> list[FileInfo | None]:
        return self._store.stat_files(paths)

    pages = _timed_to_the_end("pages", _pages)
    stat_files = _timed("stat_files", _stat_files)


class _MeasuredReader(ReaderWrapper):
    def __init__(self, reader: FileReader, took: metrics.Children) -> None:
        super().__init__(reader)
        self.took = took

    def read_nowait(self, offset: int, size: int) -> bytes | memoryview | None:
        began = perf_counter()
        data = super().read_nowait(offset, size)
        if data is not None:
            self.took["reader.read_at"](perf_counter() - began)
        return data

    read_at = _timed("reader.read_at", ReaderWrapper.read_at)


class _MeasuredWriter(WriterWrapper):
    def __init__(self, writer: FileWriter, took: metrics.Children) -> None:
        super().__init__(writer)
        self.took = took

    write = _timed("writer.write", WriterWrapper.write)
    rewrite = _timed("writer.rewrite", WriterWrapper.rewrite)
    truncate = _timed("writer.truncate", WriterWrapper.truncate)
    go_back = _timed("writer.go_back", WriterWrapper.go_back)
    read_at = _timed("writer.read_at", WriterWrapper.read_at)
    is_undisturbed = _timed("writer.is_undisturbed", WriterWrapper.is_undisturbed)
    move_to = _timed("writer.move_to", WriterWrapper.move_to)
    flush = _timed("writer.flush", WriterWrapper.flush)
    commit = _timed("writer.commit", WriterWrapper.commit)
    cancel = _timed("writer.cancel", WriterWrapper.cancel)
    close = _timed("writer.close", WriterWrapper.close)

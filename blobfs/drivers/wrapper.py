"""Base classes of wrappers, which forward every call to the wrapped object."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence

from blobfs.drivers.base import (
    Capacity,
    DirEntry,
    FileInfo,
    FileReader,
    FileWriter,
    StorageDriver,
    Unfinished,
)


class DriverWrapper(StorageDriver):
    """Forwards every call to the wrapped driver, which it owns and closes."""

    def __init__(self, driver: StorageDriver) -> None:
        self.name = driver.name
        self.is_object_store = driver.is_object_store
        self._driver = driver

    @property
    def is_local(self) -> bool:
        return self._driver.is_local

    def confirm(self) -> None:
        self._driver.confirm()

    def write_refusal(self, path: str) -> str | None:
        return self._driver.write_refusal(path)

    def identity(self, path: str) -> object:
        return self._driver.identity(path)

    def stat(self, path: str) -> FileInfo:
        return self._driver.stat(path)

    def stat_now(self, path: str) -> FileInfo:
        return self._driver.stat_now(path)

    def stat_many(self, paths: Sequence[str]) -> list[FileInfo | None]:
        return self._driver.stat_many(paths)

    def prefetch(self, paths: Sequence[str]) -> None:
        self._driver.prefetch(paths)

    def is_known_to_hold(self, path: str, content: bytes) -> bool:
        return self._driver.is_known_to_hold(path, content)

    def listdir(self, path: str) -> Iterator[DirEntry]:
        return self._driver.listdir(path)

    def walk(self, path: str) -> Iterator[FileInfo]:
        return self._driver.walk(path)

    def open(self, path: str) -> FileReader:
        return self._driver.open(path)

    def open_of_size(self, path: str, size: int) -> FileReader:
        return self._driver.open_of_size(path, size)

    def redirect_url(self, path: str) -> str | None:
        return self._driver.redirect_url(path)

    def invalidate(self, path: str) -> None:
        self._driver.invalidate(path)

    def get_content(self, path: str) -> bytes:
        return self._driver.get_content(path)

    def read_at(self, path: str, offset: int, size: int) -> bytes:
        return self._driver.read_at(path, offset, size)

    def put_content(self, path: str, content: bytes) -> None:
        self._driver.put_content(path, content)

    def put_immutable(self, path: str, chunks: Iterable[bytes]) -> None:
        self._driver.put_immutable(path, chunks)

    def sync(self, path: str) -> None:
        self._driver.sync(path)

    def create(self, path: str) -> FileWriter:
        return self._driver.create(path)

    def append(self, path: str, token: str = "") -> FileWriter:
        return self._driver.append(path, token)

    def stat_unfinished(self, path: str, token: str = "") -> FileInfo:
        return self._driver.stat_unfinished(path, token)

    def unfinished(self, path: str) -> Iterator[Unfinished]:
        return self._driver.unfinished(path)

    def abandon(self, unfinished: Unfinished) -> None:
        self._driver.abandon(unfinished)

    def move(self, source: str, target: str) -> None:
        self._driver.move(source, target)

    def delete(self, path: str) -> None:
        self._driver.delete(path)

    def prune(self, path: str) -> None:
        self._driver.prune(path)

    def capacity(self) -> Capacity | None:
        return self._driver.capacity()

    def close(self) -> None:
        self._driver.close()


class InvalidatingDriver(DriverWrapper):
    """Base of wrappers that cache an object store's metadata: reports every change of a path."""

    @abstractmethod
    def changed(self, path: str) -> None:
        """Invalidate the cached state of *path* and of all below it, which may have changed."""

    def put_content(self, path: str, content: bytes) -> None:
        try:
            super().put_content(path, content)
        finally:
            self.changed(path)

    def put_immutable(self, path: str, chunks: Iterable[bytes]) -> None:
        try:
            super().put_immutable(path, chunks)
        finally:
            self.changed(path)

    def create(self, path: str) -> FileWriter:
        writer = super().create(path)
        self.changed(path)
        return _InvalidatingWriter(writer, lambda: self.changed(path))

    def append(self, path: str, token: str = "") -> FileWriter:
        writer = super().append(path, token)
        self.changed(path)
        return _InvalidatingWriter(writer, lambda: self.changed(path))

    def move(self, source: str, target: str) -> None:
        try:
            super().move(source, target)
        finally:
            self.changed(source)
            self.changed(target)

    def delete(self, path: str) -> None:
        try:
            super().delete(path)
        finally:
            self.changed(path)

    def prune(self, path: str) -> None:
        try:
            super().prune(path)
        finally:
            self.changed(path)


class ReaderWrapper(FileReader):
    """Forwards every call to the wrapped reader, which it owns and closes."""

    def __init__(self, reader: FileReader) -> None:
        self._reader = reader

    @property
    def size(self) -> int:
        return self._reader.size

    def read_at(self, offset: int, size: int) -> bytes:
        return self._reader.read_at(offset, size)

    def read_nowait(self, offset: int, size: int) -> bytes | memoryview | None:
        return self._reader.read_nowait(offset, size)

    def close(self) -> None:
        self._reader.close()


class WriterWrapper(FileWriter):
    """Forwards every call to the wrapped writer, which it owns and closes."""

    def __init__(self, writer: FileWriter) -> None:
        self._writer = writer

    @property
    def size(self) -> int:
        return self._writer.size

    @property
    def token(self) -> str:
        return self._writer.token

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    def can_write_nowait(self, size: int) -> bool:
        return self._writer.can_write_nowait(size)

    def rewrite(self, offset: int, data: bytes) -> None:
        self._writer.rewrite(offset, data)

    def truncate(self, size: int) -> None:
        self._writer.truncate(size)

    def go_back(self, size: int) -> None:
        self._writer.go_back(size)

    def read_at(self, offset: int, size: int) -> bytes:
        return self._writer.read_at(offset, size)

    def is_undisturbed(self) -> bool:
        return self._writer.is_undisturbed()

    @property
    def fingerprint(self) -> str:
        return self._writer.fingerprint

    def move_to(self, target: str) -> bool:
        return self._writer.move_to(target)

    @property
    def undisturbed_size(self) -> int:
        return self._writer.undisturbed_size

    def flush(self) -> None:
        self._writer.flush()

    def commit(self) -> None:
        self._writer.commit()

    def cancel(self) -> None:
        self._writer.cancel()

    def close(self) -> None:
        self._writer.close()


class _InvalidatingWriter(WriterWrapper):
    """Calls *changed* after each call that may change a stored file."""

    def __init__(self, writer: FileWriter, changed: Callable[[], None]) -> None:
        super().__init__(writer)
        self._changed = changed

    def flush(self) -> None:
        try:
            super().flush()
        finally:
            self._changed()

    def commit(self) -> None:
        try:
            super().commit()
        finally:
            self._changed()

    def cancel(self) -> None:
        try:
            super().cancel()
        finally:
            self._changed()

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._changed()

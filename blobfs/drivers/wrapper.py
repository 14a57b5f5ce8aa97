"""Base classes of wrappers, which forward every call to the wrapped object."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager

from blobfs.drivers.base import (
    DirEntry,
    FileInfo,
    FileReader,
    FileWriter,
    StorageDriver,
)
from blobfs.drivers.objectstore import ObjectStore, RemoteStorage
from blobfs.drivers.resumable import ResumableUploads, Unfinished, uploads_of


class DriverWrapper(StorageDriver):
    """Forwards every call to the wrapped driver, which it owns and closes."""

    def __init__(self, driver: StorageDriver) -> None:
        self.name = driver.name
        self.is_local = driver.is_local
        self.is_object_store = driver.is_object_store
        self._driver = driver

    def stat(self, path: str) -> FileInfo:
        return self._driver.stat(path)

    def stat_many(self, paths: Sequence[str]) -> list[FileInfo | None]:
        return self._driver.stat_many(paths)

    def listdir(self, path: str) -> Iterator[DirEntry]:
        return self._driver.listdir(path)

    def open(self, path: str, size: int | None = None) -> FileReader:
        return self._driver.open(path, size)

    def read_at(self, path: str, offset: int, size: int) -> bytes:
        return self._driver.read_at(path, offset, size)

    def put_content(self, path: str, content: bytes) -> None:
        self._driver.put_content(path, content)

    def put_immutable(self, path: str, chunks: Iterable[bytes], size: int | None = None) -> None:
        self._driver.put_immutable(path, chunks, size)

    def sync(self, path: str) -> None:
        self._driver.sync(path)

    def set_mtime(self, path: str, mtime_ns: int) -> None:
        self._driver.set_mtime(path, mtime_ns)

    def create(self, path: str) -> FileWriter:
        return self._driver.create(path)

    def append(self, path: str, token: str = "") -> FileWriter:
        return self._driver.append(path, token)

    def move(self, source: str, target: str) -> None:
        self._driver.move(source, target)

    def delete(self, path: str) -> None:
        self._driver.delete(path)

    def prune(self, path: str) -> None:
        self._driver.prune(path)

    def close(self) -> None:
        self._driver.close()


class ResumableWrapper(DriverWrapper, ResumableUploads):
    """DriverWrapper that forwards the resumable uploads of the wrapped driver too."""

    def __init__(self, driver: StorageDriver) -> None:
        super().__init__(driver)
        self._uploads = uploads_of(driver)

    def stat_unfinished(self, path: str, token: str = "") -> FileInfo:
        return self._uploads.stat_unfinished(path, token)

    def unfinished(self, path: str) -> Iterator[Unfinished]:
        return self._uploads.unfinished(path)

    def abandon(self, unfinished: Unfinished) -> None:
        self._uploads.abandon(unfinished)


class ChangingWrapper(DriverWrapper):
    """DriverWrapper that makes each change of a path within ``changing``."""

    @abstractmethod
    def changing(self, path: str) -> AbstractContextManager[None]:
        """Return a context manager for a change of *path*, or of what is below it."""

    def put_content(self, path: str, content: bytes) -> None:
        with self.changing(path):
            self._driver.put_content(path, content)

    def put_immutable(self, path: str, chunks: Iterable[bytes], size: int | None = None) -> None:
        with self.changing(path):
            self._driver.put_immutable(path, chunks, size)

    def create(self, path: str) -> FileWriter:
        with self.changing(path):
            return self._driver.create(path)

    def append(self, path: str, token: str = "") -> FileWriter:
        with self.changing(path):
            return self._driver.append(path, token)

    def move(self, source: str, target: str) -> None:
        with self.changing(source), self.changing(target):
            self._driver.move(source, target)

    def delete(self, path: str) -> None:
        with self.changing(path):
            self._driver.delete(path)

    def prune(self, path: str) -> None:
        with self.changing(path):
            self._driver.prune(path)


class RemoteWrapper(RemoteStorage):
    """Base class of drivers that forward the facilities of a server to their object store."""

    _store: ObjectStore

    def write_refusal(self, path: str) -> str | None:
        return self._store.write_refusal(path)

    def redirect_url(self, path: str) -> str | None:
        return self._store.redirect_url(path)

    def watch(self, changed: Callable[[str], None]) -> None:
        self._store.watch(changed)


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

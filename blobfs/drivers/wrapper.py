"""What wrappers of drivers are made from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from blobfs.drivers.base import (
    Capacity,
    DirEntry,
    FileInfo,
    FileReader,
    FileWriter,
    StorageDriver,
)


class DriverWrapper(StorageDriver):
    """Does everything as the driver it wraps, and closes it."""

    def __init__(self, driver: StorageDriver) -> None:
        self.name = driver.name
        self.is_object_store = driver.is_object_store
        self._driver = driver

    @property
    def is_local(self) -> bool:
        return self._driver.is_local

    def stat(self, path: str) -> FileInfo:
        return self._driver.stat(path)

    def stat_many(self, paths: Sequence[str]) -> list[FileInfo | None]:
        return self._driver.stat_many(paths)

    def listdir(self, path: str) -> Iterator[DirEntry]:
        return self._driver.listdir(path)

    def walk(self, path: str) -> Iterator[FileInfo]:
        return self._driver.walk(path)

    def open(self, path: str) -> FileReader:
        return self._driver.open(path)

    def open_of_size(self, path: str, size: int) -> FileReader:
        return self._driver.open_of_size(path, size)

    def get_content(self, path: str) -> bytes:
        return self._driver.get_content(path)

    def read_at(self, path: str, offset: int, size: int) -> bytes:
        return self._driver.read_at(path, offset, size)

    def put_content(self, path: str, content: bytes) -> None:
        self._driver.put_content(path, content)

    def sync(self, path: str) -> None:
        self._driver.sync(path)

    def create(self, path: str) -> FileWriter:
        return self._driver.create(path)

    def append(self, path: str, token: str = "") -> FileWriter:
        return self._driver.append(path, token)

    def stat_unfinished(self, path: str, token: str = "") -> FileInfo:
        return self._driver.stat_unfinished(path, token)

    def delete_files(self, paths: Sequence[str]) -> None:
        self._driver.delete_files(paths)

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

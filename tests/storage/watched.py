"""A driver that tells a test of each file before it is opened."""

from collections.abc import Callable, Iterator, Sequence

from blobfs.drivers.base import (
    Capacity,
    DirEntry,
    FileInfo,
    FileReader,
    FileWriter,
    StorageDriver,
)


class WatchedDriver(StorageDriver):
    """Calls *on_open* with a path before the file is read; what that raises, the reader gets.

    To count what is read, give it a list's ``append``.
    """

    def __init__(self, driver: StorageDriver, on_open: Callable[[str], object]) -> None:
        self.name = driver.name
        self.on_open = on_open
        self.closed = False
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
        self.on_open(path)
        return self._driver.open(path)

    def get_content(self, path: str) -> bytes:
        self.on_open(path)
        return self._driver.get_content(path)

    def read_at(self, path: str, offset: int, size: int) -> bytes:
        self.on_open(path)
        return self._driver.read_at(path, offset, size)

    def put_content(self, path: str, content: bytes) -> None:
        self._driver.put_content(path, content)

    def create(self, path: str) -> FileWriter:
        return self._driver.create(path)

    def append(self, path: str, token: str = "") -> FileWriter:
        return self._driver.append(path, token)

    def move(self, source: str, target: str) -> None:
        self._driver.move(source, target)

    def delete(self, path: str) -> None:
        self._driver.delete(path)

    def capacity(self) -> Capacity | None:
        return self._driver.capacity()

    def close(self) -> None:
        self.closed = True
        self._driver.close()

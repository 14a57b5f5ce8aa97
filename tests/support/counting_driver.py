"""A driver that tells a test what the storage is asked."""

from collections.abc import Callable, Sequence

from blobfs.drivers.base import FileInfo, FileReader, StorageDriver
from blobfs.drivers.wrapper import DriverWrapper


def nothing(path: str) -> None:
    """When nothing is to happen meanwhile."""


class AskedDriver(DriverWrapper):
    """Notes the paths that are looked at, and calls *meanwhile* with each before it answers."""

    def __init__(self, driver: StorageDriver) -> None:
        super().__init__(driver)
        self.asked: list[str] = []
        self.meanwhile: Callable[[str], object] = nothing

    def _note(self, path: str) -> None:
        self.asked.append(path)
        self.meanwhile(path)

    def stat(self, path: str) -> FileInfo:
        self._note(path)
        return super().stat(path)

    def stat_many(self, paths: Sequence[str]) -> list[FileInfo | None]:
        for path in paths:
            self._note(path)
        return super().stat_many(paths)

    def open(self, path: str, size: int | None = None) -> FileReader:
        self._note(path)
        return super().open(path, size)

    def read_at(self, path: str, offset: int, size: int) -> bytes:
        self._note(path)
        return super().read_at(path, offset, size)

    def put_content(self, path: str, content: bytes) -> None:
        self._note(path)
        super().put_content(path, content)

    def delete(self, path: str) -> None:
        self._note(path)
        super().delete(path)

"""A driver that tells a test of each file before it is opened."""

from collections.abc import Callable

from blobfs.drivers.base import FileReader, StorageDriver
from blobfs.drivers.wrapper import DriverWrapper


class WatchedDriver(DriverWrapper):
    """Calls *on_open* with a path before the file is read; what that raises, the reader gets.

    To count what is read, give it a list's ``append``.
    """

    def __init__(self, driver: StorageDriver, on_open: Callable[[str], object]) -> None:
        super().__init__(driver)
        self.on_open = on_open
        self.closed = False

    def open(self, path: str, size: int | None = None) -> FileReader:
        self.on_open(path)
        return super().open(path, size)

    def read_at(self, path: str, offset: int, size: int) -> bytes:
        self.on_open(path)
        return super().read_at(path, offset, size)

    def close(self) -> None:
        self.closed = True
        super().close()

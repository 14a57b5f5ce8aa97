"""A reader of what was only remembered to be there."""

from __future__ import annotations

from collections.abc import Callable

from blobfs.drivers.base import FileReader
from blobfs.errors import FileChanged, PathNotFound


class DoubtingReader(FileReader):
    """Calls *forget* where a file turns out to be another, or gone, when it is read."""

    def __init__(self, reader: FileReader, forget: Callable[[], None]) -> None:
        self._reader = reader
        self._forget = forget

    @property
    def size(self) -> int:
        return self._reader.size

    def read_at(self, offset: int, size: int) -> bytes:
        try:
            return self._reader.read_at(offset, size)
        except (FileChanged, PathNotFound):
            self._forget()
            raise

    def read_now(self, offset: int, size: int) -> bytes | memoryview | None:
        return self._reader.read_now(offset, size)  # what is held was good when it came

    def close(self) -> None:
        self._reader.close()

"""A reader of what was only remembered to be there."""

from __future__ import annotations

from collections.abc import Callable

from blobfs.drivers.base import FileReader
from blobfs.drivers.wrapper import ReaderWrapper
from blobfs.errors import FileChanged, PathNotFound


class DoubtingReader(ReaderWrapper):
    """Calls *forget* where a file turns out to be another, or gone, when it is read.

    What ``read_nowait`` has of it was good when it came.
    """

    def __init__(self, reader: FileReader, forget: Callable[[], None]) -> None:
        super().__init__(reader)
        self._forget = forget

    def read_at(self, offset: int, size: int) -> bytes:
        try:
            return super().read_at(offset, size)
        except (FileChanged, PathNotFound):
            self._forget()
            raise

"""A reader that reports a changed or missing file."""

from __future__ import annotations

from collections.abc import Callable

from blobfs.drivers.base import FileReader
from blobfs.drivers.wrapper import ReaderWrapper
from blobfs.errors import FileChanged, PathNotFound


class InvalidatingReader(ReaderWrapper):
    """FileReader that invalidates cached metadata when the object has changed or is gone.

    ``read_nowait`` needs no check: its bytes were valid when they were fetched.
    """

    def __init__(self, reader: FileReader, invalidate: Callable[[], None]) -> None:
        super().__init__(reader)
        self._invalidate = invalidate

    def read_at(self, offset: int, size: int) -> bytes:
        try:
            return super().read_at(offset, size)
        except (FileChanged, PathNotFound):
            self._invalidate()
            raise

"""What each file handle that the kernel holds stands for."""

from __future__ import annotations

from itertools import count
from typing import Final, Generic, TypeVar

from pyfuse3 import FileHandleT

T = TypeVar("T")

_NUMBERS: Final = count(1)
"""Of all tables: a handle stands for one thing in the whole mount."""


class HandleTable(Generic[T]):
    """Open things by handle. Used on the event loop only, so it takes no lock."""

    def __init__(self) -> None:
        self._open: dict[FileHandleT, T] = {}

    def add(self, thing: T) -> FileHandleT:
        """A handle for *thing*, good until ``pop``."""
        fh = FileHandleT(next(_NUMBERS))
        self._open[fh] = thing
        return fh

    def __getitem__(self, fh: FileHandleT) -> T:
        return self._open[fh]

    def get(self, fh: FileHandleT) -> T | None:
        """What *fh* stands for, if the kernel holds it."""
        return self._open.get(fh)

    def __len__(self) -> int:
        return len(self._open)

    def replace(self, fh: FileHandleT, thing: T) -> None:
        """Let *fh* stand for *thing* from now on."""
        self._open[fh] = thing

    def pop(self, fh: FileHandleT) -> T:
        """Give the thing back; the kernel will not use *fh* again."""
        return self._open.pop(fh)

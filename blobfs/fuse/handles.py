"""What each file handle that the kernel holds stands for."""

from __future__ import annotations

from itertools import count
from typing import Generic, TypeVar

from pyfuse3 import FileHandleT

T = TypeVar("T")


class HandleTable(Generic[T]):
    """Open things by handle. Used on the event loop only, so it takes no lock."""

    def __init__(self) -> None:
        self._open: dict[FileHandleT, T] = {}
        self._next = count(1)

    def add(self, thing: T) -> FileHandleT:
        """A handle for *thing*, good until ``pop``."""
        fh = FileHandleT(next(self._next))
        self._open[fh] = thing
        return fh

    def __getitem__(self, fh: FileHandleT) -> T:
        return self._open[fh]

    def __len__(self) -> int:
        return len(self._open)

    def replace(self, fh: FileHandleT, thing: T) -> None:
        """Let *fh* stand for *thing* from now on."""
        self._open[fh] = thing

    def pop(self, fh: FileHandleT) -> T:
        """Give the thing back; the kernel will not use *fh* again."""
        return self._open.pop(fh)

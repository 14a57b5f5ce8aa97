"""Readers of files in the uncompressed archive of a layer."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate

from blobfs.drivers.base import FileReader
from blobfs.errors import LayerInvalid
from blobfs.images.sparse import Extents

Ask = Callable[[int, int], bytes]
"""Returns the bytes at an offset, up to a size."""


class AskingReader(FileReader):
    """A content of *size* bytes that *ask* returns."""

    def __init__(self, ask: Ask, size: int) -> None:
        self._ask = ask
        self._size = size

    @property
    def size(self) -> int:
        return self._size

    def read_at(self, offset: int, size: int) -> bytes:
        return self._ask(offset, size)

    def close(self) -> None:
        """Do nothing: the other side closes the content."""


class RangeReader(FileReader):
    """The content of a file, which is one range of *layer*; this reader closes *layer*."""

    def __init__(self, layer: FileReader, offset: int, size: int) -> None:
        self._layer = layer
        self._offset = offset
        self._size = size

    @property
    def size(self) -> int:
        return self._size

    def read_at(self, offset: int, size: int) -> bytes:
        wanted = max(0, min(size, self._size - offset))
        data = self._layer.read_at(self._offset + offset, wanted) if wanted else b""
        if len(data) < wanted:
            raise LayerInvalid(f"a layer has {len(data)} bytes of {wanted} that a file needs")
        return data

    def read_nowait(self, offset: int, size: int) -> bytes | memoryview | None:
        wanted = max(0, min(size, self._size - offset))
        data = self._layer.read_nowait(self._offset + offset, wanted) if wanted else b""
        return None if data is None or len(data) < wanted else data

    def close(self) -> None:
        self._layer.close()


class SparseReader(FileReader):
    """The content of a sparse file, whose ranges *stored* has one after the other."""

    def __init__(self, stored: FileReader, size: int, extents: Extents) -> None:
        self._stored = stored
        self._size = size
        self._extents = extents
        self._starts = [start for start, _ in extents]
        lengths = [length for _, length in extents]
        self._positions = list(accumulate(lengths, initial=0))

    @property
    def size(self) -> int:
        return self._size

    def read_at(self, offset: int, size: int) -> bytes:
        end = min(offset + size, self._size)
        ranges = list(self._ranges(offset, end))
        content = bytearray(max(0, end - offset))
        if ranges:
            first, last = ranges[0][0], sum(ranges[-1][::2])
            data = self._stored.read_at(first, last - first)
            for position, start, length in ranges:
                content[start - offset : start - offset + length] = data[
                    position - first : position - first + length
                ]
        return bytes(content)

    def _ranges(self, offset: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield the stored ranges: position in *stored*, start in the file, length."""
        index = max(0, bisect_right(self._starts, offset) - 1)
        while index < len(self._extents) and self._starts[index] < end:
            start, length = self._extents[index]
            first, last = max(start, offset), min(start + length, end)
            if first < last:
                yield self._positions[index] + first - start, first, last - first
            index += 1

    def close(self) -> None:
        self._stored.close()

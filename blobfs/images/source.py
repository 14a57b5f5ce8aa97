"""Compressed bytes in order, and the points at which their decompression can begin."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from blobfs.errors import LayerInvalid

SPACING: Final = 4 * 2**20
"""The least distance between two points, in bytes of the archive."""

PIECE: Final = 256 * 2**10
"""The largest piece of a decompressed archive, in bytes."""


class Point(NamedTuple):
    """A place at which decompression can begin.

    The byte *offset* of the archive follows from the bytes of the blob from *position* on. *window*
    are the bytes of the archive before it that the compression refers to, and *bits* is the number
    of the highest bits of the first byte that belong to the point, 0 for all. At the start of a
    gzip member or zstd frame *window* is None.
    """

    offset: int
    position: int
    bits: int = 0
    window: bytes | None = None


START: Final = Point(0, 0)


class Source:
    """The bytes of a blob or an archive in order, in chunks of any size.

    *chunk* holds the current chunk, of which the bytes from *at* on are next. Not thread-safe.
    """

    def __init__(self, chunks: Iterable[bytes], position: int = 0, content: str = "layer") -> None:
        self.chunk = b""
        self._content = content
        self.at = 0
        self._chunks = iter(chunks)
        self._end = position  # of the current chunk

    @property
    def position(self) -> int:
        """The position of the next byte in the blob or archive."""
        return self._end - len(self.chunk) + self.at

    def fill(self) -> bool:
        """Get a chunk if the current one is used up; False at the end of the blob."""
        while self.at == len(self.chunk):
            self.chunk = next(self._chunks, b"")
            self.at = 0
            self._end += len(self.chunk)
            if not self.chunk:
                return False
        return True

    def read(self, size: int) -> bytes:
        """Return the next *size* bytes; fewer only at the end of the blob."""
        parts = []
        while size and self.fill():
            part = self.chunk[self.at : self.at + size]
            self.at += len(part)
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def read_exactly(self, size: int) -> bytes:
        """Return the next *size* bytes; raises LayerInvalid at a premature end."""
        data = self.read(size)
        if len(data) < size:
            raise self.truncated()
        return data

    def skip(self, size: int) -> None:
        """Skip the next *size* bytes; raises LayerInvalid at a premature end."""
        while size:
            if not self.fill():
                raise self.truncated()
            step = min(size, len(self.chunk) - self.at)
            self.at += step
            size -= step

    def peek(self, size: int) -> bytes:
        """Return the next *size* bytes without consuming them; fewer only at the end."""
        data = self.chunk[self.at : self.at + size]
        if len(data) < size:
            data = self.read(size)
            self.chunk = data + self.chunk[self.at :]
            self.at = 0
        return data

    def truncated(self) -> LayerInvalid:
        """Return the error for a premature end."""
        return LayerInvalid(f"the {self._content} ends too early, at byte {self.position}")


Piece = bytes | Point
"""A part of the archive, never empty, or the point at which the next part begins."""

Decode = Callable[[Source, Point], Iterator[Piece]]
"""Decompresses a source, which begins at the point's position, up to its end.

Yields points with the distance ``SPACING``, from the second on. Raises LayerInvalid.
"""

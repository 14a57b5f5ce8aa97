"""Decompression of zstd, with points at the starts of frames.

Frames follow each other without a gap, and skippable frames are skipped. The headers of the blocks
lead to the end of a frame, which the library does not report. Source: RFC 8878.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Final, cast

from zstandard import ZstdDecompressor, ZstdError

from blobfs.errors import LayerInvalid
from blobfs.images.source import PIECE, SPACING, Piece, Point, Source

MAGIC: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE: Final = b"\x2a\x4d\x18"
"""The bytes after the first one, which is between 0x50 and 0x5f."""

_MAX_WINDOW: Final = 2**27
"""The largest memory for one frame; ``zstd`` needs an option for frames with more, too."""

_RLE: Final = 1
_RESERVED: Final = 3
_CHECKSUM_SIZE: Final = 4


def is_zstd(magic: bytes) -> bool:
    """True if a frame begins with the four bytes *magic*."""
    return magic == MAGIC or _is_skippable(magic)


def decode(source: Source, start: Point) -> Iterator[Piece]:
    """Decompress zstd; see ``source.Decode``."""
    latest = offset = start.offset
    decompressor = ZstdDecompressor(max_window_size=_MAX_WINDOW)
    while magic := source.peek(len(MAGIC)):
        if _is_skippable(magic):
            size = int.from_bytes(source.read_exactly(8)[4:], "little")
            source.skip(size)
            continue
        if magic != MAGIC:
            raise LayerInvalid(f"the zstd data are followed by others, at byte {source.position}")
        if offset - latest >= SPACING:
            latest = offset
            yield Point(offset, source.position)
        for piece in _frame(decompressor, source):
            offset += len(piece)
            yield piece


def _is_skippable(magic: bytes) -> bool:
    return magic[1:] == _SKIPPABLE and 0x50 <= magic[0] <= 0x5F


def _frame(decompressor: ZstdDecompressor, source: Source) -> Iterator[bytes]:
    """Decompress one frame."""
    frame = _Frame(source)
    try:
        with decompressor.stream_reader(cast("IO[bytes]", frame), closefd=False) as reader:
            while piece := reader.read(PIECE):
                yield piece
    except ZstdError as exc:
        raise LayerInvalid(
            f"the zstd data are invalid before byte {source.position}: {exc}"
        ) from None
    if frame.read(1):
        raise LayerInvalid(f"the zstd data are invalid before byte {source.position}")


class _Frame:
    """A file of the compressed bytes of the next frame of *source*."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._parts = self._read_parts()

    def read(self, size: int) -> bytes:
        """Return the bytes up to the end of a block; they are at most 128 KiB."""
        return next(self._parts, b"")

    def _read_parts(self) -> Iterator[bytes]:
        header = self._source.read_exactly(5)
        descriptor = header[4]
        yield header + self._source.read_exactly(_header_size(descriptor))
        is_last = False
        while not is_last:
            block = self._source.read_exactly(3)
            number = int.from_bytes(block, "little")
            is_last = bool(number & 1)
            kind, size = number >> 1 & 3, number >> 3
            if kind == _RESERVED or size > 2**17:
                raise LayerInvalid(f"the zstd data are invalid at byte {self._source.position}")
            yield block + self._source.read_exactly(1 if kind == _RLE else size)
        if descriptor & 4:
            yield self._source.read_exactly(_CHECKSUM_SIZE)


def _header_size(descriptor: int) -> int:
    """Return the size of a frame header after its descriptor."""
    has_window = not descriptor & 0x20
    content_size = (0 if has_window else 1, 2, 4, 8)[descriptor >> 6]
    return has_window + (0, 1, 2, 4)[descriptor & 3] + content_size

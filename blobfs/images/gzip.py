"""Decompression of gzip, with points at the ends of blocks and at the starts of members.

Several members follow each other without a gap, as in eStargz. Bytes of any other kind after a
member are refused, as Go's gzip does, with which images are unpacked. Source: RFC 1952.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from blobfs.errors import LayerInvalid
from blobfs.images.inflate import Inflater
from blobfs.images.source import SPACING, Piece, Point, Source

MAGIC: Final = b"\x1f\x8b"

_TRAILER: Final = 8


def decode(source: Source, start: Point) -> Iterator[Piece]:
    """Decompress gzip; see ``source.Decode``."""
    latest = offset = start.offset
    with Inflater() as inflater:
        member = _first_member(inflater, source, start)
        while True:
            for piece in member:
                if isinstance(piece, Point):
                    latest = piece.offset
                else:
                    offset += len(piece)
                yield piece
            if not _has_member(source):
                return
            if offset - latest >= SPACING:
                latest = offset
                yield Point(offset, source.position)
            inflater.begin()
            member = _member(inflater, source, offset, latest)


def _first_member(inflater: Inflater, source: Source, start: Point) -> Iterator[Piece]:
    if start.window is None:
        yield from _member(inflater, source, start.offset, start.offset)
        return
    first = source.read_exactly(1)[0] if start.bits else 0
    inflater.begin_at_block(start.window, start.bits, first >> 8 - start.bits)
    yield from _member(inflater, source, start.offset, start.offset)
    source.read_exactly(_TRAILER)


def _member(inflater: Inflater, source: Source, offset: int, latest: int) -> Iterator[Piece]:
    """Decompress up to the end of a member; *latest* is the offset of the latest point."""
    is_full = False
    while True:
        if not source.fill() and not is_full:
            raise source.truncated()
        to_block = offset - latest >= SPACING
        piece = inflater.inflate(source.chunk, source.at, to_block=to_block)
        source.at += inflater.used
        is_full = bool(piece)
        if piece:
            offset += len(piece)
            yield piece
        if inflater.is_at_end:
            return
        if to_block and inflater.bits is not None:
            latest = offset
            position = source.position - (inflater.bits > 0)
            yield Point(offset, position, inflater.bits, inflater.window())


def _has_member(source: Source) -> bool:
    """True if another member follows, False at the end of the blob; else raises LayerInvalid."""
    magic = source.peek(len(MAGIC))
    if magic and magic != MAGIC:
        raise LayerInvalid(f"the gzip data are followed by others, at byte {source.position}")
    return bool(magic)

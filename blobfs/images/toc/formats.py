"""The two formats of tables of contents, which are read from a blob by ranges.

eStargz: the last member of the archive, ``stargz.index.json``, is the table. It is in a gzip member
of its own, and a footer of 51 bytes has the position of that. zstd:chunked: the table is in a
skippable frame, and the manifest has its position. Source: see ``table``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from blobfs.concurrency import stop_check
from blobfs.digest import CANONICAL, Digest
from blobfs.drivers.base import FileReader
from blobfs.errors import LayerInvalid
from blobfs.images.compression import decompress
from blobfs.images.layer_index import MAX_SPAN
from blobfs.images.members import Member
from blobfs.images.source import PIECE, SPACING, Point, Source
from blobfs.images.sparse import BLOCK
from blobfs.images.tar import read_members
from blobfs.images.toc.contents import BASE, Chunk, parse_checksum, read_contents
from blobfs.images.toc.document import read_entries
from blobfs.images.toc.table import Table

_MAX_TABLE: Final = 2**27
"""Bytes of a table, for about 400,000 files."""

_MAX_COMPRESSED: Final = MAX_SPAN

_POSITION: Final = re.compile(r"([0-9]{1,18}):([0-9]{1,18}):[0-9]{1,18}:1")

_FOOTER: Final = re.compile(
    rb"\x1f\x8b\x08\x04.{6}\x1a\0SG\x16\0([0-9a-f]{16})STARGZ\x01\0\0\xff\xff\0{8}", re.DOTALL
)
_FOOTER_SIZE: Final = 51

_NAME: Final = b"stargz.index.json"
_SECOND: Final = 10**9
_SHOWN: Final = 200


@dataclass(slots=True)
class Contents:
    """The members and chunks of a layer by its table. *end* is where the last chunk ends."""

    compression: str
    end: int
    pieces: Iterator[Member | Chunk]


def open_contents(reader: FileReader, table: Table) -> Contents:
    """Read the table of a layer, while its pieces are read.

    Raises LayerInvalid if it cannot be used; DigestMismatch after the last piece if its digest is
    another one.
    """
    digest = Digest(CANONICAL, parse_checksum(table.digest).hex())
    return _open_chunked(reader, table, digest) if table.position else _open_estargz(reader, digest)


def _open_chunked(reader: FileReader, table: Table, digest: Digest) -> Contents:
    found = _POSITION.fullmatch(table.position)
    position, size = map(int, found.groups()) if found else (0, 0)
    if not 0 < size <= _MAX_COMPRESSED or position + size > reader.size:
        raise LayerInvalid(f"its position {table.position!r:.80} is wrong")
    compressed = digest.verified((reader.read_at(position, size),))
    content = Source(decompress("zstd", Source(compressed, position), Point(0, position)))
    return Contents("zstd", position, read_contents(read_entries(_limited(content))))


def _limited(content: Source) -> Iterator[bytes]:
    while piece := content.read(PIECE):
        if content.position > _MAX_TABLE:
            raise _too_large()
        yield piece


def _too_large() -> LayerInvalid:
    return LayerInvalid(f"it has more than {_MAX_TABLE} bytes")


def _open_estargz(reader: FileReader, digest: Digest) -> Contents:
    end = max(0, reader.size - _FOOTER_SIZE)
    footer = _FOOTER.fullmatch(reader.read_at(end, _FOOTER_SIZE))
    position = int(footer[1], 16) if footer else end
    if not 0 < end - position <= _MAX_COMPRESSED:
        raise LayerInvalid("the layer has no footer that leads to it")
    content = _archive((reader.read_at(position, end - position),), position)
    member = next(read_members(content), None)
    if member is None or member.path != _NAME:
        raise LayerInvalid("it is not where the footer leads to")
    if member.size > _MAX_TABLE:
        raise _too_large()
    return Contents("gzip", end, _EStargz(reader, digest, position, end).pieces(content, member))


class _EStargz:
    """The pieces of an eStargz layer, whose gzip member at *position* has the table."""

    def __init__(self, reader: FileReader, digest: Digest, position: int, end: int) -> None:
        self._reader = reader
        self._digest = digest
        self._position = position
        self._end = end
        self._chunks: list[Chunk] = []

    def pieces(self, content: Source, table: Member) -> Iterator[Member | Chunk]:
        """Yield the members and chunks; *content* is at the table's own."""
        skip = content.position
        entries = read_entries(self._digest.verified(self._table(content, table.size, skip)))
        last: Member | None = None
        chunk = Chunk(0, 0, 0, b"")
        for each in read_contents(entries):
            if isinstance(each, Chunk):
                chunk = each
            elif last is None or each.size:
                last = each
            yield each
        self._check_times()
        if self._is_listed(chunk, last.size if last else 0):
            end = last.offset + last.size if last else BASE
            yield replace(table, offset=end)
            yield from self._chunks

    def _table(self, content: Source, size: int, skip: int) -> Iterator[bytes]:
        """Yield the table, and find the chunks of it as a file."""
        hasher, start = hashlib.sha256(), 0
        for at in range(0, size, PIECE):
            piece = content.read_exactly(min(PIECE, size - at))
            yield piece
            hasher.update(piece)
            end = at + len(piece)
            if end - start >= SPACING or end == size:
                chunk = Chunk(self._position, skip + start, end - start, hasher.digest())
                self._chunks.append(chunk)
                hasher, start = hashlib.sha256(), end

    def _check_times(self) -> None:
        """Raise LayerInvalid if the first members have times that the table rounds."""
        for member in read_members(self._archive_from(0)):
            if member.mtime_ns % _SECOND:
                raise LayerInvalid("its times are rounded to seconds")
            if member.size:
                return

    def _is_listed(self, chunk: Chunk, size: int) -> bool:
        """True if the table is a member of the archive: some tools put it behind the end mark.

        *chunk* is the last one, of a file of *size* bytes.
        """
        archive = self._archive_from(chunk.position)
        archive.skip(chunk.skip + chunk.size + -size % BLOCK)
        for member in read_members(archive):
            if member.path == _NAME:
                return True
            if member.size:
                raise LayerInvalid(f"it lacks {member.path[:_SHOWN]!r}")
        return False

    def _archive_from(self, start: int) -> Source:
        return _archive(self._pieces_from(start), start)

    def _pieces_from(self, start: int) -> Iterator[bytes]:
        for position in range(start, self._end, PIECE):
            stop_check.get()()
            yield self._reader.read_at(position, PIECE)


def _archive(compressed: Iterable[bytes], start: int) -> Source:
    """Return the archive of the gzip members *compressed*, which are at *start* of the blob."""
    pieces = decompress("gzip", Source(compressed, start), Point(0, start))
    return Source(pieces, content="archive")

"""The index of a layer from its table of contents.

Chunks that are beside each other make a span, so that reading many small files takes few requests.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from struct import Struct
from typing import Final

from blobfs.concurrency import stop_check
from blobfs.drivers.base import FileReader
from blobfs.errors import Corrupt, LayerInvalid
from blobfs.images import database
from blobfs.images.compression import decompress
from blobfs.images.layer import Layer
from blobfs.images.layer_index import (
    MAX_SPAN,
    SCHEMA,
    Header,
    LayerIndex,
    SpanContent,
    write_members,
)
from blobfs.images.members import Member
from blobfs.images.source import SPACING, Point, Source
from blobfs.images.toc.contents import BASE, Chunk
from blobfs.images.toc.formats import Contents, open_contents

KIND: Final = "table1"
"""The kind of indexes in an IndexStore; the number is the version of their format."""

_CHUNKS: Final = "CREATE TABLE chunks (offset INTEGER PRIMARY KEY, content BLOB);"
"""The chunks of each span, by its offset."""

_CHUNK: Final = Struct("<QQQ32s")

_MAX_CHUNKS: Final = 4096
"""Chunks of a span."""


class TableIndex(LayerIndex):
    """The index of one layer, which its table of contents has made; see ``LayerIndex``."""

    @staticmethod
    def build_by_table(reader: FileReader, layer: Layer, path: Path) -> None:
        """Create the index *path* of a layer with a table, of which a few ranges are read.

        Raises LayerInvalid or DigestMismatch if the table cannot be used; OSError if the file
        cannot be written.
        """
        if layer.table is None:
            raise LayerInvalid("the layer has no table of contents")
        try:
            contents = open_contents(reader, layer.table)
            with database.creating(path, SCHEMA + _CHUNKS) as connection:
                spans = _Spans(connection)
                write_members(connection, spans.members(contents))
                digest, key = str(layer.descriptor.digest), str(layer.index)
                header = Header(digest, key, contents.compression, contents.end, spans.size)
                header.write(connection)
        except Corrupt as exc:
            raise type(exc)(f"its table of contents cannot be used: {exc}") from None

    def chunks(self) -> Iterator[Chunk]:
        """Yield all chunks in their order."""
        with database.reading(self.path):
            for (packed,) in self._connection.execute("SELECT content FROM chunks ORDER BY offset"):
                yield from map(Chunk._make, _CHUNK.iter_unpack(packed))

    def read_span(self, number: int, blob: FileReader) -> SpanContent:
        """Read and decompress a span; chunks with another checksum are damaged."""
        chunks = self._chunks_of(number)
        start, last = chunks[0].position, chunks[-1]
        later = (end for end in self._ends[number:] if end > last.position)
        end = min(next(later, self.blob_size), start + MAX_SPAN, last.position + _most(last))
        data = blob.read_at(start, end - start)
        content = SpanContent(-1, self._span_size(number))
        damaged = []
        for chunk, piece in self._pieces(chunks, data):
            if hashlib.sha256(piece).digest() == chunk.checksum:
                content.write(piece)
            else:
                damaged.append(range(content.tell(), content.tell() + chunk.size))
                content.seek(chunk.size, os.SEEK_CUR)
        content.damaged = damaged
        return content

    def _chunks_of(self, number: int) -> list[Chunk]:
        query = "SELECT content FROM chunks WHERE offset = ?"
        with self._connection_lock, database.reading(self.path):
            ((packed,),) = self._connection.execute(query, (self._offsets[number],))
        return [Chunk._make(fields) for fields in _CHUNK.iter_unpack(packed)]

    def _pieces(self, chunks: list[Chunk], data: bytes) -> Iterator[tuple[Chunk, bytes]]:
        """Yield *chunks* with their bytes, none for one that cannot be decompressed.

        *data* are the bytes of the blob from the first one on.
        """
        first = chunks[0].position
        streams = [(at, list(each)) for at, each in groupby(chunks, attrgetter("position"))]
        ends = [at for at, _ in streams[1:]] + [first + len(data)]
        for (start, parts), end in zip(streams, ends, strict=True):
            compressed = Source((data[start - first : end - first],), start)
            pieces = decompress(self.compression, compressed, Point(0, start))
            archive = Source(pieces, content="archive")
            for chunk in parts:
                piece = b""
                with suppress(LayerInvalid):
                    archive.skip(chunk.skip - archive.position)
                    piece = archive.read_exactly(chunk.size)
                yield chunk, piece

    def _has_short_spans(self, starts: Iterable[int]) -> bool:
        return True


def _most(chunk: Chunk) -> int:
    """Return the bytes that a gzip member or zstd frame needs at most up to the end of a chunk."""
    size = chunk.skip + chunk.size
    return size + size // 16 + 4096


class _Spans:
    """Writer of spans. *size* is the end of the contents so far, as an offset."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.size = BASE
        self._connection = connection
        self._chunks: list[Chunk] = []
        self._start = BASE

    def members(self, contents: Contents) -> Iterator[Member]:
        """Yield the members, and write the spans."""
        for each in contents.pieces:
            stop_check.get()()
            if isinstance(each, Member):
                yield each
            elif each.position >= contents.end:
                raise LayerInvalid(f"a chunk at byte {each.position} is behind the contents")
            else:
                self._add(each)
        self._write()

    def _add(self, chunk: Chunk) -> None:
        size = self.size - self._start
        if self._chunks and (
            size >= SPACING
            or size + chunk.size > MAX_SPAN
            or chunk.position - self._chunks[0].position >= SPACING
            or len(self._chunks) == _MAX_CHUNKS
        ):
            self._write()
        self._chunks.append(chunk)
        self.size += chunk.size

    def _write(self) -> None:
        if self._chunks:
            position = self._chunks[0].position
            packed = b"".join(_CHUNK.pack(*chunk) for chunk in self._chunks)
            row = (self._start, position, 0, None, 0)
            self._connection.execute("INSERT INTO points VALUES (?, ?, ?, ?, ?)", row)
            self._connection.execute("INSERT INTO chunks VALUES (?, ?)", (self._start, packed))
        self._chunks = []
        self._start = self.size

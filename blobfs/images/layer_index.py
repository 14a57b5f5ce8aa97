"""The index of a layer: its members and seek points, from one pass that verifies the layer.

An index is an SQLite file. Members are JSON in compressed rows, with bytes as Latin-1; the windows
of points are compressed, too. The checksum of a span is the CRC-32 of its bytes.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import weakref
import zlib
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

from zstandard import ZstdCompressor, ZstdDecompressor

from blobfs.concurrency import CallLock, stop_check
from blobfs.digest import CANONICAL, Digest
from blobfs.drivers.base import Closing, FileReader
from blobfs.errors import DigestMismatch, LayerInvalid
from blobfs.images import database
from blobfs.images.compression import DECODERS, HEAD, compression_of
from blobfs.images.image import Layer
from blobfs.images.members import Member
from blobfs.images.source import START, Piece, Point, Source
from blobfs.images.tar import read_members

KIND: Final = "layer1"
"""The kind of indexes in an IndexStore; the number is the version of their format."""

MAX_SPAN: Final = 16 * 2**20
"""The longest span of a seekable layer, in bytes of the archive and in bytes of the blob."""

_MAX_SIZE: Final = 2**40
"""The limit of an archive: it bounds the time for a small blob that decompresses to a huge one."""

_MAX_MEMBERS_SIZE: Final = 2**30
"""The limit of names and attributes in an archive, of about 8 million members, for the same reason.

It bounds the size of the index, too.
"""

_ROW: Final = 2**18  # bytes of members before their compression

_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), check_circular=False)

_SCHEMA: Final = """
CREATE TABLE layer (digest TEXT, compression TEXT, blob_size INTEGER, size INTEGER, diff_id TEXT);
CREATE TABLE points (
    offset INTEGER PRIMARY KEY, position INTEGER, bits INTEGER, window BLOB, checksum INTEGER
);
CREATE TABLE members (number INTEGER PRIMARY KEY, content BLOB);
"""


class Span(NamedTuple):
    """The *size* bytes of an archive from *point* on, which need the blob up to *end*."""

    point: Point
    size: int
    end: int
    checksum: int


class LayerIndex(Closing):
    """The index of one layer, in a file that ``build`` has made.

    Memory: 24 bytes for each point. Thread-safe: ``_connection_lock`` serializes the queries.
    """

    compression: str
    blob_size: int
    size: int

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection_lock = CallLock()
        self._connection = database.opened(path)
        weakref.finalize(self, self._connection.close)  # in a cycle with its statements
        with database.reading(path):
            (row,) = self._connection.execute("SELECT * FROM layer")
            digest, self.compression, self.blob_size, self.size, diff_id = row
            self.digest = Digest.parse(digest)
            self.diff_id = Digest.parse(diff_id)
            self._offsets = array("Q")
            self._ends = array("Q")  # of the spans, in the blob
            self._read_points()

    def _read_points(self) -> None:
        points = self._connection.execute("SELECT offset, position, bits FROM points ORDER BY 1")
        starts = array("Q")
        for offset, position, bits in points:
            self._offsets.append(offset)
            starts.append(position)
            self._ends.append(position + (bits > 0))
        del self._ends[0]
        self._ends.append(self.blob_size)
        stops = (*self._offsets[1:], self.size)
        self.is_seekable = all(
            stop - offset <= MAX_SPAN and end - start <= MAX_SPAN
            for offset, stop, start, end in zip(
                self._offsets, stops, starts, self._ends, strict=True
            )
        )
        """False if a span is so long that the layer must be decompressed as a whole."""

    @staticmethod
    def build(reader: FileReader, layer: Layer, path: Path) -> None:
        """Create the index *path* of a layer, whose blob is read once.

        Raises LayerInvalid; DigestMismatch if the blob or the archive has another digest; OSError
        if the file cannot be written.
        """
        digest = layer.descriptor.digest
        chunks = digest.verified(reader.chunks())
        try:
            with database.creating(path, _SCHEMA) as connection:
                _write(connection, Source(chunks), layer)
        except LayerInvalid:
            deque(chunks, maxlen=0)  # a blob with another digest has that fault
            raise

    def members(self) -> Iterator[Member]:
        """Yield the members in the order of the archive."""
        decompressor = ZstdDecompressor()
        with database.reading(self._path), closing(database.opened(self._path)) as connection:
            for (row,) in connection.execute("SELECT content FROM members ORDER BY number"):
                yield from map(_member, json.loads(decompressor.decompress(row)))

    def span_number(self, offset: int) -> int:
        """Return the number of the span that has the byte *offset* of the archive."""
        return bisect_right(self._offsets, offset) - 1

    def span_start(self, number: int) -> int:
        """Return the offset of a span."""
        return self._offsets[number]

    def span(self, number: int) -> Span:
        """Return a span with its window."""
        offset = self._offsets[number]
        is_last = number + 1 == len(self._offsets)
        stop = self.size if is_last else self._offsets[number + 1]
        query = "SELECT position, bits, window, checksum FROM points WHERE offset = ?"
        with self._connection_lock, database.reading(self._path):
            (row,) = self._connection.execute(query, (offset,))
        position, bits, window, checksum = row
        if window is not None:
            window = ZstdDecompressor().decompress(window)
        point = Point(offset, position, bits, window)
        return Span(point, stop - offset, self._ends[number], checksum)

    def close(self) -> None:
        with self._connection_lock:
            self._connection.close()


def _write(connection: sqlite3.Connection, source: Source, layer: Layer) -> None:
    digest, media_type = layer.descriptor.digest, layer.descriptor.media_type
    compression = compression_of(source.peek(HEAD), media_type)
    pieces = DECODERS[compression](source, START)
    archive = _Archive(connection, layer.diff_id.algorithm if layer.diff_id else CANONICAL)
    content = Source(archive.chunks(pieces), content="archive")
    _write_members(connection, read_members(content))
    while content.fill():
        content.skip(len(content.chunk) - content.at)
    diff_id = archive.digest()
    if layer.diff_id not in (None, diff_id):
        raise DigestMismatch(
            f"the archive of layer {digest} has the digest {diff_id}, in the image {layer.diff_id}"
        )
    row = (str(digest), compression, source.position, archive.size, str(diff_id))
    connection.execute("INSERT INTO layer VALUES (?, ?, ?, ?, ?)", row)


class _Archive:
    """Writer of the points of an archive, which hashes it in the same pass."""

    def __init__(self, connection: sqlite3.Connection, algorithm: str) -> None:
        self.size = 0
        self._connection = connection
        self._compressor = ZstdCompressor()
        self._algorithm = algorithm
        self._hasher = hashlib.new(algorithm)
        self._point = START
        self._checksum = 0

    def chunks(self, pieces: Iterable[Piece]) -> Iterator[bytes]:
        """Yield the bytes of the archive."""
        for piece in pieces:
            if isinstance(piece, Point):
                self._write_span()
                self._point, self._checksum = piece, 0
                continue
            stop_check.get()()
            self._hasher.update(piece)
            self._checksum = zlib.crc32(piece, self._checksum)
            self.size += len(piece)
            if self.size > _MAX_SIZE:
                raise LayerInvalid(f"the archive has more than {_MAX_SIZE} bytes")
            yield piece
        self._write_span()

    def digest(self) -> Digest:
        """Return the digest of the archive."""
        return Digest(self._algorithm, self._hasher.hexdigest())

    def _write_span(self) -> None:
        point = self._point
        window = None if point.window is None else self._compressor.compress(point.window)
        row = (point.offset, point.position, point.bits, window, self._checksum)
        self._connection.execute("INSERT INTO points VALUES (?, ?, ?, ?, ?)", row)


def _write_members(connection: sqlite3.Connection, members: Iterable[Member]) -> None:
    compressor = ZstdCompressor()
    for row in _rows(members):
        content = compressor.compress(_ENCODER.encode(row).encode())
        connection.execute("INSERT INTO members (content) VALUES (?)", (content,))


def _rows(members: Iterable[Member]) -> Iterator[list[tuple[object, ...]]]:
    """Yield the fields of members in rows of a bounded size."""
    row = []
    size = total = 0
    for member in members:
        row.append(_fields(member))
        size += member.stored_size
        if size > _ROW:
            yield row
            total += size
            row, size = [], 0
        if total > _MAX_MEMBERS_SIZE:
            raise LayerInvalid(f"the names of the archive have more than {_MAX_MEMBERS_SIZE} bytes")
    if row:
        yield row


def _fields(member: Member) -> tuple[object, ...]:
    return (
        member.path.decode("latin-1"),
        member.mode,
        member.uid,
        member.gid,
        member.size,
        member.mtime_ns,
        member.offset,
        member.link.decode("latin-1"),
        member.is_hard_link,
        member.device,
        member.extents,
        {k.decode("latin-1"): v.decode("latin-1") for k, v in member.xattrs.items()},
        member.fault,
    )


def _member(fields: list[Any]) -> Member:
    path, mode, uid, gid, size, mtime_ns, offset, link, *others = fields
    is_hard_link, device, extents, xattrs, fault = others
    return Member(
        path.encode("latin-1"),
        mode,
        uid,
        gid,
        size,
        mtime_ns,
        offset,
        link.encode("latin-1"),
        is_hard_link,
        tuple(device),
        None if extents is None else tuple(map(tuple, extents)),
        {k.encode("latin-1"): v.encode("latin-1") for k, v in xattrs.items()},
        fault,
    )

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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from mmap import mmap
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from zstandard import ZstdCompressor, ZstdDecompressor

from blobfs.concurrency import CallLock, stop_check
from blobfs.digest import CANONICAL, Digest
from blobfs.drivers.base import Closing, FileReader
from blobfs.errors import DigestMismatch, LayerInvalid
from blobfs.images import database
from blobfs.images.compression import DECODERS, HEAD, compression_of, decompress
from blobfs.images.layer import Layer
from blobfs.images.members import Member
from blobfs.images.source import START, Piece, Point, Source
from blobfs.images.tar import ByteSource, read_members

KIND: Final = "layer2"
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

SCHEMA: Final = """
CREATE TABLE layer (
    digest TEXT, key TEXT, compression TEXT, blob_size INTEGER, size INTEGER, diff_id TEXT,
    fault TEXT
);
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


class SpanContent(mmap):
    """The bytes of a span, which malloc would keep for later ones. *damaged* have other digests."""

    damaged: Sequence[range] = ()


class Header(NamedTuple):
    """The row of an index about its layer.

    *blob_size* is where the last span ends at the latest. *diff_id* is empty in an index that a
    table of contents has made. *fault* says why the layer cannot be shown; it is empty for others.
    """

    digest: str
    key: str
    compression: str
    blob_size: int
    size: int
    diff_id: str = ""
    fault: str = ""

    def write(self, connection: sqlite3.Connection) -> None:
        """Write the row."""
        connection.execute("INSERT INTO layer VALUES (?, ?, ?, ?, ?, ?, ?)", self)


class Watch(Protocol):
    """An observer of the archive that is indexed. *fault* says what is wrong with the layer."""

    fault: str

    def read_members(self, source: ByteSource) -> Iterator[Member]:
        """Yield the members of *source*; see ``tar.read_members``."""


class LayerIndex(Closing):
    """The index of one layer, in a file that ``build`` has made.

    Memory: 24 bytes for each point. Thread-safe: ``_connection_lock`` serializes the queries.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection_lock = CallLock()
        self._connection = database.opened(path)
        weakref.finalize(self, self._connection.close)  # in a cycle with its statements
        with database.reading(path):
            (row,) = self._connection.execute("SELECT * FROM layer")
            header = Header(*row)
            self.digest = Digest.parse(header.digest)
            self.key = Digest.parse(header.key)
            self.diff_id = Digest.parse(header.diff_id) if header.diff_id else None
            self.compression, self.blob_size = header.compression, header.blob_size
            self.size, self.fault = header.size, header.fault
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
        self._ends.append(self.blob_size)
        del self._ends[0]
        self.is_seekable = self._has_short_spans(starts)
        """False if a span is so long that the layer must be decompressed as a whole."""

    def _has_short_spans(self, starts: Iterable[int]) -> bool:
        stops = (*self._offsets[1:], self.size)
        spans = zip(self._offsets, stops, starts, self._ends, strict=True)
        return all(
            stop - offset <= MAX_SPAN and end - start <= MAX_SPAN
            for offset, stop, start, end in spans
        )

    @staticmethod
    def build(reader: FileReader, layer: Layer, path: Path, watch: Watch | None = None) -> None:
        """Create the index *path* of a layer, whose blob is read once, while *watch* observes it.

        Raises LayerInvalid; DigestMismatch if the blob or the archive has another digest; OSError
        if the file cannot be written.
        """
        digest = layer.descriptor.digest
        chunks = digest.verified(reader.chunks())
        try:
            with database.creating(path, SCHEMA) as connection:
                _write(connection, Source(chunks), layer, watch)
        except LayerInvalid:
            deque(chunks, maxlen=0)  # a blob with another digest has that fault
            raise

    def members(self) -> Iterator[Member]:
        """Yield the members in the order of the archive."""
        decompressor = ZstdDecompressor()
        with database.reading(self.path), closing(database.opened(self.path)) as connection:
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
        query = "SELECT position, bits, window, checksum FROM points WHERE offset = ?"
        with self._connection_lock, database.reading(self.path):
            (row,) = self._connection.execute(query, (offset,))
        position, bits, window, checksum = row
        if window is not None:
            window = ZstdDecompressor().decompress(window)
        point = Point(offset, position, bits, window)
        return Span(point, self._span_size(number), self._ends[number], checksum)

    def _span_size(self, number: int) -> int:
        is_last = number + 1 == len(self._offsets)
        return (self.size if is_last else self._offsets[number + 1]) - self._offsets[number]

    def read_span(self, number: int, blob: FileReader) -> SpanContent:
        """Read and decompress a span; raises DigestMismatch if it has another checksum."""
        span = self.span(number)
        start = span.point.position
        # One read: several would look like a stream, for which much is fetched ahead.
        data = blob.read_at(start, span.end - start)
        content = SpanContent(-1, span.size)
        at = 0
        for piece in decompress(self.compression, Source((data,), start), span.point):
            part = piece[: span.size - at]
            content[at : at + len(part)] = part
            at += len(part)
            if at == span.size:
                break
        if at < span.size or zlib.crc32(content) != span.checksum:
            raise self.changed()
        return content

    def changed(self) -> DigestMismatch:
        """Return the error for bytes that do not match the index."""
        return DigestMismatch(
            f"the content of layer {self.digest} has changed since it was indexed"
        )

    def close(self) -> None:
        with self._connection_lock:
            self._connection.close()


def _write(
    connection: sqlite3.Connection, source: Source, layer: Layer, watch: Watch | None
) -> None:
    digest, media_type = layer.descriptor.digest, layer.descriptor.media_type
    compression = compression_of(source.peek(HEAD), media_type)
    pieces = DECODERS[compression](source, START)
    archive = _Archive(connection, layer.diff_id.algorithm if layer.diff_id else CANONICAL)
    content = Source(archive.chunks(pieces), content="archive")
    write_members(connection, watch.read_members(content) if watch else read_members(content))
    while content.fill():
        content.skip(len(content.chunk) - content.at)
    diff_id = archive.digest()
    if layer.diff_id not in (None, diff_id):
        raise DigestMismatch(
            f"the archive of layer {digest} has the digest {diff_id}, in the image {layer.diff_id}"
        )
    key, fault = str(layer.index), watch.fault if watch else ""
    size = archive.size
    Header(str(digest), key, compression, source.position, size, str(diff_id), fault).write(
        connection
    )


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


def write_members(connection: sqlite3.Connection, members: Iterable[Member]) -> None:
    """Write *members*, in their order; raises LayerInvalid if they are too large."""
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

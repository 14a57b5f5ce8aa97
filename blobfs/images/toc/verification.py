"""Indexes of layers by their tables of contents or by their archives, which are compared then."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

from blobfs.drivers.base import FileReader
from blobfs.errors import Corrupt
from blobfs.images.layer import Layer
from blobfs.images.layer_index import LayerIndex
from blobfs.images.members import Member
from blobfs.images.readers import Ask, AskingReader
from blobfs.images.source import PIECE
from blobfs.images.sparse import ByteSource
from blobfs.images.tar import read_members
from blobfs.images.toc.index import TableIndex

log = logging.getLogger(__name__)

_SECOND: Final = 10**9


def build_index(reader: FileReader, layer: Layer, path: Path) -> None:
    """Create the index *path* of a layer, by its table or else by its archive.

    The archive is compared with the table, if there is one that can be used. The file
    ``<path>.table`` is used meanwhile. Raises LayerInvalid, DigestMismatch, OSError.
    """
    if layer.by_table:
        TableIndex.build_by_table(reader, layer, path)
    elif layer.table is None:
        LayerIndex.build(reader, layer, path)
    else:
        _build_compared(reader, layer, path)


def ask_for_index(ask: Ask, size: int, layer: Layer, path: Path) -> None:
    """``build_index`` of a blob of *size* bytes, which are asked for by offset and size."""
    build_index(AskingReader(ask, size), layer, path)


def open_index(path: Path, layer: Layer) -> LayerIndex:
    """Open the index of a layer that ``build_index`` has made."""
    return TableIndex(path) if layer.by_table else LayerIndex(path)


def _build_compared(reader: FileReader, layer: Layer, path: Path) -> None:
    beside = path.with_name(f"{path.name}.table")
    try:
        TableIndex.build_by_table(reader, layer, beside)
    except Corrupt as exc:
        log.warning("layer %s is read in full: %s", layer.descriptor.digest, exc)
        LayerIndex.build(reader, layer, path)
    else:
        with closing(TableIndex(beside)) as index:
            LayerIndex.build(reader, layer, path, Claims(index))
    beside.unlink(missing_ok=True)


class Claims:
    """Comparison of an archive with the index that a table has made. Not thread-safe.

    *fault* names the first difference; it is empty for none.
    """

    def __init__(self, index: TableIndex) -> None:
        self.fault = ""
        self._members = index.members()
        self._chunks = index.chunks()
        self._chunk = next(self._chunks, None)
        self._left = self._chunk.size if self._chunk else 0  # of the chunk
        self._hasher = hashlib.sha256()
        self._source: ByteSource

    def read_members(self, source: ByteSource) -> Iterator[Member]:
        """Yield the members of *source*, while they and their contents are compared."""
        compared = _Compared(source, self)
        for member in read_members(compared):
            compared.left = member.size
            self._compare(next(self._members, None), member)
            yield member
        claimed = next(self._members, None)
        if claimed is not None:
            self._differs(claimed.path)

    def feed(self, data: bytes) -> None:
        """Compare the next bytes of the contents of files."""
        while data and self._chunk is not None and not self.fault:
            part, data = data[: self._left], data[self._left :]
            self._hasher.update(part)
            self._left -= len(part)
            if not self._left:
                if self._hasher.digest() != self._chunk.checksum:
                    self._differs(b"the content of a file")
                self._hasher = hashlib.sha256()
                self._chunk = next(self._chunks, None)
                self._left = self._chunk.size if self._chunk else 0

    def _compare(self, claimed: Member | None, member: Member) -> None:
        if claimed is None or not _is_same(claimed, member):
            self._differs(member.path)

    def _differs(self, name: bytes) -> None:
        self.fault = self.fault or f"its table of contents differs from the archive: {name!r:.200}"


def _is_same(claimed: Member, member: Member) -> bool:
    """True if both are the same member. Its place may differ, and a rounded time by a second."""
    is_rounded = not claimed.mtime_ns % _SECOND
    is_time = abs(claimed.mtime_ns - member.mtime_ns) < (_SECOND if is_rounded else 1)
    return is_time and replace(claimed, offset=0, mtime_ns=0) == replace(
        member, offset=0, mtime_ns=0
    )


class _Compared:
    """The bytes of an archive. The next *left* bytes that are skipped are a file's content."""

    def __init__(self, source: ByteSource, claims: Claims) -> None:
        self.left = 0
        self._source = source
        self._claims = claims

    @property
    def position(self) -> int:
        """The number of bytes that were read or skipped."""
        return self._source.position

    def read(self, size: int) -> bytes:
        """Read *size* bytes, fewer only at the end."""
        return self._source.read(size)

    def skip(self, size: int) -> None:
        """Skip *size* bytes; raises LayerInvalid if the archive ends before."""
        while size and self.left:
            data = self._source.read(min(size, self.left, PIECE))
            if not data:
                break
            self._claims.feed(data)
            self.left -= len(data)
            size -= len(data)
        self._source.skip(size)

"""Members of a tar archive, read in one pass with bounded memory.

``tarfile`` parses the header blocks. Its ``TarFile`` is not used: it keeps all members, recurses
over headers, and takes an invalid header for the end of the archive. The rules are those of Go's
archive/tar, reader.go, which umoci and containerd use.
"""

from __future__ import annotations

import re
import stat
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from blobfs.errors import LayerInvalid
from blobfs.images import pax, sparse
from blobfs.images.members import Member
from blobfs.images.sparse import BLOCK, ByteSource

__all__ = ["ByteSource", "read_members"]

_MAX_EXTENDED: Final = 2**20
"""Bytes of an extended header or of a long name, as in Go 1.19.2 and later."""

_MAX_NUMBER: Final = 2**63 - 1

_PATH_MAX: Final = 4096
"""Linux's limit of a path with its NUL: linux/limits.h."""

_TYPES: Final = {
    tarfile.REGTYPE: stat.S_IFREG, tarfile.AREGTYPE: stat.S_IFREG, tarfile.CONTTYPE: stat.S_IFREG,
    tarfile.GNUTYPE_SPARSE: stat.S_IFREG, tarfile.LNKTYPE: stat.S_IFREG,
    tarfile.SYMTYPE: stat.S_IFLNK, tarfile.DIRTYPE: stat.S_IFDIR, tarfile.FIFOTYPE: stat.S_IFIFO,
    tarfile.CHRTYPE: stat.S_IFCHR, tarfile.BLKTYPE: stat.S_IFBLK,
}  # fmt: skip

_WITHOUT_CONTENT: Final = (
    tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE,
    tarfile.BLKTYPE,
)  # fmt: skip

_ZEROS: Final = bytes(BLOCK)

_GNU_TIME: Final = re.compile(rb"[0-7 \0\x80-\xff]")
"""The first byte of a time, which the GNU format has in the place of the prefix of names."""


@dataclass(slots=True)
class _Extended:
    """The headers in front of a member's own."""

    records: dict[bytes, bytes] = field(default_factory=dict)
    name: bytes = b""
    link: bytes = b""

    def read(self, source: ByteSource, info: tarfile.TarInfo) -> None:
        """Read the header *info* with its content."""
        if info.type == tarfile.XGLTYPE:  # containerd ignores it, too
            source.skip(_padded(info.size))
            return
        content = _content(source, info.size)
        if info.type == tarfile.XHDTYPE:
            self.records = pax.parse_records(content)
        elif info.type == tarfile.GNUTYPE_LONGNAME:
            self.name = content.partition(b"\0")[0]
        else:
            self.link = content.partition(b"\0")[0]


_EXTENDED: Final = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip


def read_members(source: ByteSource) -> Iterator[Member]:
    """Yield the members up to the end mark of the archive, or to its end.

    The content of a member is skipped when the next one is requested. Raises LayerInvalid where
    the archive cannot be read on. Whiteouts are members as all others.
    """
    extended = _Extended()
    while (block := _next_block(source)) is not None:
        info = _parse(block)
        if info.size < 0 or info.size > _MAX_NUMBER:
            raise LayerInvalid(f"a member of the archive has {info.size} bytes")
        if info.type in _EXTENDED:
            extended.read(source, info)
            continue
        yield from _member(source, block, info, extended)
        extended = _Extended()


def _next_block(source: ByteSource) -> bytes | None:
    """Return the next header; None at the end of the archive."""
    block = source.read(BLOCK)
    if not block:
        return None
    if len(block) < BLOCK:
        raise LayerInvalid("the archive ends within a header")
    if block == _ZEROS:
        if source.read(BLOCK).strip(b"\0"):
            raise LayerInvalid("the archive goes on after half an end mark")
        return None
    return block


def _parse(block: bytes) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "latin-1", "strict")  # so text is bytes, one to one
    except (tarfile.HeaderError, ValueError) as exc:
        raise LayerInvalid(f"the archive has an invalid header: {exc}") from None


def _content(source: ByteSource, size: int) -> bytes:
    if size > _MAX_EXTENDED:
        raise LayerInvalid(f"the archive has an extended header of {size} bytes")
    content = source.read(_padded(size))
    if len(content) < size:
        raise LayerInvalid("the archive ends within an extended header")
    return content[:size]


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _member(
    source: ByteSource, block: bytes, info: tarfile.TarInfo, extended: _Extended
) -> Iterator[Member]:
    """Yield the member of a header, and skip its content."""
    name = extended.name or extended.records.get(b"path") or _name(block, info)
    kind = block[156:157]
    if kind == tarfile.AREGTYPE and name.endswith(b"/"):  # as old archives have directories
        kind = tarfile.DIRTYPE
    stored = 0 if kind in _WITHOUT_CONTENT else _stored_size(info, extended.records)
    start = source.position
    try:
        content = _sparse_content(source, block, kind, stored, extended.records)
        member = _described(kind, name, info, extended, content)
    except ValueError as exc:
        member = Member(name, stat.S_IFREG, fault=str(exc))
    if kind == tarfile.GNUTYPE_SPARSE:
        start = source.position  # the map is not a part of the content
    if source.position > start + stored:
        raise LayerInvalid("the map of a sparse file is longer than its content")
    yield member
    source.skip(start + stored - source.position)
    source.read(-stored % BLOCK)  # the last block of an archive may be short


def _name(block: bytes, info: tarfile.TarInfo) -> bytes:
    """Return the name of the header itself.

    The GNU format has no prefix of names, but Go wrote one before its version 1.8.
    """
    magic, prefix = block[257:265], block[345:500].partition(b"\0")[0]
    if prefix and magic.startswith(b"ustar") and (
        not magic.startswith(b"ustar ") or not _GNU_TIME.match(prefix)
    ):  # fmt: skip
        return prefix + b"/" + block[:100].partition(b"\0")[0]
    return block[:100].partition(b"\0")[0]


def _stored_size(info: tarfile.TarInfo, records: Mapping[bytes, bytes]) -> int:
    try:
        size = pax.parse_number(records[b"size"]) if b"size" in records else info.size
    except ValueError as exc:
        raise LayerInvalid(f"the archive has an invalid size: {exc}") from None
    if not 0 <= size <= _MAX_NUMBER:
        raise LayerInvalid(f"a member of the archive has {size} bytes")
    return size


@dataclass(frozen=True, slots=True)
class _Content:
    """The content of a file, in the archive."""

    size: int
    offset: int
    extents: sparse.Extents | None = None


def _sparse_content(
    source: ByteSource, block: bytes, kind: bytes, stored: int, records: Mapping[bytes, bytes]
) -> _Content:
    """Read the map of a sparse file, if there is one; raises ValueError if it is not valid."""
    before = source.position
    if kind == tarfile.GNUTYPE_SPARSE:
        size, numbers = sparse.old_gnu_map(source, block)
        before = source.position
    elif kind in _WITHOUT_CONTENT or not sparse.is_sparse(records):
        return _Content(stored, before)
    else:
        size = sparse.pax_size(records, stored)
        numbers = sparse.pax_map(source, records)
    left = stored - (source.position - before)
    if size > _MAX_NUMBER:
        raise ValueError(f"a sparse file has {size} bytes")
    return _Content(size, source.position, sparse.extents(numbers, size, left))


def _described(
    kind: bytes, name: bytes, info: tarfile.TarInfo, extended: _Extended, content: _Content
) -> Member:
    """Return the member that the headers describe; raises ValueError if they are not valid."""
    if kind not in _TYPES:
        raise ValueError(f"members of type {kind!r} are unknown")
    records = extended.records
    modified = records.get(b"mtime")
    link = extended.link or records.get(b"linkpath") or info.linkname.encode("latin-1")
    return Member(
        records.get(b"GNU.sparse.name", name) if content.extents is not None else name,
        _TYPES[kind] | stat.S_IMODE(info.mode),
        _owner(records, b"uid", info.uid),
        _owner(records, b"gid", info.gid),
        content.size,
        pax.bounded_ns(int(info.mtime) * 10**9) if modified is None else pax.parse_time(modified),
        content.offset,
        _link(kind, link),
        kind == tarfile.LNKTYPE,
        _device(kind, info),
        content.extents,
        pax.xattrs(records),
    )


def _owner(records: Mapping[bytes, bytes], key: bytes, default: int) -> int:
    """Return a number of a user or group as chown(2) takes it."""
    return (pax.parse_number(records[key]) if key in records else default) & 0xFFFFFFFF


def _link(kind: bytes, target: bytes) -> bytes:
    if kind not in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        return b""
    if not 0 < len(target) < _PATH_MAX:
        raise ValueError(f"a link has a target of {len(target)} bytes")
    return target


def _device(kind: bytes, info: tarfile.TarInfo) -> tuple[int, int]:
    """Return major and minor number, cut off as Linux does."""
    if kind not in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        return 0, 0
    return info.devmajor & 0xFFF, info.devminor & 0xFFFFF

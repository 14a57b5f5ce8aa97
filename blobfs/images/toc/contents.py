"""Members and chunks of a layer, from the entries of its table of contents."""

from __future__ import annotations

import base64
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple

from blobfs.digest import CANONICAL, Digest
from blobfs.errors import DigestInvalid, LayerInvalid
from blobfs.images import pax
from blobfs.images.layer_index import MAX_SPAN
from blobfs.images.members import Member

BASE: Final = 2**50
"""The offset of the first content: above those of all archives, so that the two never meet."""

_MAX: Final = 2**40
_MIN_NUMBER: Final = -(2**63)
_MAX_NUMBER: Final = 2**63 - 1
_PATH_MAX: Final = 4096

_TYPES: Final = {
    "reg": stat.S_IFREG, "hardlink": stat.S_IFREG, "symlink": stat.S_IFLNK, "dir": stat.S_IFDIR,
    "fifo": stat.S_IFIFO, "char": stat.S_IFCHR, "block": stat.S_IFBLK,
}  # fmt: skip
_CHUNK: Final = "chunk"

_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_REPLACED: Final = "\N{REPLACEMENT CHARACTER}"


class Chunk(NamedTuple):
    """A part of the content of a file.

    It is in the gzip member or zstd frame at *position* of the blob, behind *skip* bytes of its
    content, and has *size* bytes with the sha256 *checksum*.
    """

    position: int
    skip: int
    size: int
    checksum: bytes


def read_contents(entries: Iterable[object]) -> Iterator[Member | Chunk]:
    """Yield the members, and behind each one the chunks of its content. Raises LayerInvalid.

    The chunks are in the order of the blob, and do not overlap.
    """
    offset, left = BASE, 0
    member = Member(b"", 0)
    before = Chunk(0, 0, 0, b"")
    for entry in entries:
        if not isinstance(entry, dict) or (left > 0) != (entry.get("type") == _CHUNK):
            raise LayerInvalid(f"the entry after {member.path[:_PATH_MAX]!r} is of a wrong type")
        if not left:
            member = _member(entry, offset)
            left = member.size
            yield member
        if left:
            chunk = _chunk(entry, member.size, left)
            if chunk[:2] < (before.position, before.skip + before.size):
                raise LayerInvalid(f"the contents of {member.path!r} are at a wrong place")
            yield chunk
            before = chunk
            left -= chunk.size
            offset += chunk.size
    if left:
        raise LayerInvalid(f"it ends within the chunks of {member.path!r}")


def _member(entry: Mapping[str, object], offset: int) -> Member:
    path = _text(entry, "name")
    kind = entry.get("type")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise LayerInvalid(f"{path!r} is of the unknown type {kind!r:.20}")
    is_device = kind in ("char", "block")
    return Member(
        path,
        _TYPES[kind] | stat.S_IMODE(_number(entry, "mode")),
        _number(entry, "uid") & 0xFFFFFFFF,
        _number(entry, "gid") & 0xFFFFFFFF,
        _number(entry, "size", 0, _MAX) if kind == "reg" else 0,
        _time_ns(entry),
        offset,
        _text(entry, "linkName") if kind in ("hardlink", "symlink") else b"",
        kind == "hardlink",
        (_number(entry, "devMajor") & 0xFFF, _number(entry, "devMinor") & 0xFFFFF)
        if is_device
        else (0, 0),
        xattrs=_xattrs(entry),
    )


def _chunk(entry: Mapping[str, object], size: int, left: int) -> Chunk:
    """Return the chunk of an entry, of a file of *size* bytes, of which *left* are missing."""
    if _number(entry, "chunkOffset", 0, _MAX) != size - left:
        raise LayerInvalid(f"a chunk of {_text(entry, 'name')!r} is missing")
    length = _number(entry, "chunkSize", 0, left) or left
    if length > MAX_SPAN:
        raise LayerInvalid(f"{_text(entry, 'name')!r} has a chunk of {length} bytes")
    checksum = entry.get("chunkDigest") or (length == size and entry.get("digest"))
    return Chunk(
        _number(entry, "offset", 0, _MAX), _number(entry, "innerOffset", 0, MAX_SPAN), length,
        parse_checksum(checksum),
    )  # fmt: skip


def parse_checksum(text: object) -> bytes:
    """Return the sha256 of a digest; raises LayerInvalid."""
    try:
        digest = Digest.parse(text) if isinstance(text, str) else None
    except DigestInvalid:
        digest = None
    if digest is None or digest.algorithm != CANONICAL:
        raise LayerInvalid(f"{text!r:.80} is no digest of sha256")
    return bytes.fromhex(digest.encoded)


def _number(
    entry: Mapping[str, object], key: str, least: int = _MIN_NUMBER, most: int = _MAX_NUMBER
) -> int:
    value = entry.get(key, 0)
    if type(value) is not int or not least <= value <= most:
        raise LayerInvalid(f"{entry.get('name')!r:.200} has the {key} {value!r:.40}")
    return value


def _text(entry: Mapping[str, object], key: str) -> bytes:
    """Return a name or target. JSON has no bytes that are not UTF-8, but a mark in their place."""
    value = entry.get(key)
    if not isinstance(value, str) or not value or _REPLACED in value or "\0" in value:
        raise LayerInvalid(f"it has no exact {key}: {value!r:.200}")
    try:
        text = value.encode()
    except UnicodeEncodeError:
        raise LayerInvalid(f"it has no exact {key}: {value!r:.200}") from None
    if key == "linkName" and len(text) >= _PATH_MAX:
        raise LayerInvalid(f"a link has a target of {len(text)} bytes")
    return text


def _time_ns(entry: Mapping[str, object]) -> int:
    text = entry.get("modtime", "")
    if text == "":
        return 0
    found = _TIME.fullmatch(text) if isinstance(text, str) and text.isascii() else None
    seconds, fraction, zone = found.groups(default="") if found else ("", "", "")
    try:
        since = datetime.fromisoformat(seconds + zone) - _EPOCH
    except (ValueError, OverflowError):
        raise LayerInvalid(f"{entry.get('name')!r:.200} has the time {text!r:.40}") from None
    whole = (since.days * 86400 + since.seconds) * 10**9
    return pax.bounded_ns(whole + int(fraction.ljust(9, "0")))


def _xattrs(entry: Mapping[str, object]) -> dict[bytes, bytes]:
    found = entry.get("xattrs") or {}
    if not isinstance(found, dict):
        raise LayerInvalid(f"{entry.get('name')!r:.200} has invalid attributes")
    try:
        values = {
            _text({"xattr": key}, "xattr"): base64.b64decode(value, validate=True)
            for key, value in found.items()
        }
    except (ValueError, TypeError):
        raise LayerInvalid(f"{entry.get('name')!r:.200} has invalid attributes") from None
    return pax.xattrs({pax.XATTR + key: value for key, value in values.items() if value})

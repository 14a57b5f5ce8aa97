"""Maps of sparse files in tar archives: the ranges of a file that the archive has.

Source: GNU tar's manual, "Storing Sparse Files" (old GNU format; PAX formats 0.0, 0.1 and 1.0).
A format 0.0 arrives here as 0.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Protocol

from blobfs.errors import LayerInvalid
from blobfs.images.pax import SPARSE_MAP, parse_number

Extents = tuple[tuple[int, int], ...]

BLOCK: Final = 512

_MAX_MAP: Final = 2**20
"""Bytes of a map. GNU tar writes 30,000 ranges and more in so many."""


class ByteSource(Protocol):
    """An uncompressed archive that is read once, from its start to its end.

    *position* is the number of bytes that were read or skipped.
    """

    @property
    def position(self) -> int:
        """The number of bytes that were read or skipped."""

    def read(self, size: int) -> bytes:
        """Read *size* bytes, fewer only at the end."""

    def skip(self, size: int) -> None:
        """Skip *size* bytes; raises LayerInvalid if the archive ends before."""


def is_sparse(records: Mapping[bytes, bytes]) -> bool:
    """True if an extended header is that of a sparse file in a known format."""
    return _version(records) is not None


def pax_size(records: Mapping[bytes, bytes], default: int) -> int:
    """Return the size of a sparse file; raises ValueError."""
    text = records.get(b"GNU.sparse.size") or records.get(b"GNU.sparse.realsize")
    return parse_number(text) if text else default


def pax_map(source: ByteSource, records: Mapping[bytes, bytes]) -> list[int]:
    """Return the numbers of the map: offsets and lengths in turns.

    A map of the format 1.0 is read from *source*, where it is in front of the content. Raises
    LayerInvalid; ValueError for a map that is not valid, perhaps before its end.
    """
    if _version(records) == (b"1", b"0"):
        return _read_map(source)
    return [parse_number(text) for text in records.get(SPARSE_MAP, b"").split(b",") if text]


def _version(records: Mapping[bytes, bytes]) -> tuple[bytes, bytes] | None:
    version = (records.get(b"GNU.sparse.major", b""), records.get(b"GNU.sparse.minor", b""))
    if version == (b"", b"") and SPARSE_MAP in records:
        return b"0", b"1"
    return version if version in {(b"0", b"0"), (b"0", b"1"), (b"1", b"0")} else None


def _read_map(source: ByteSource) -> list[int]:
    numbers = _lines(source)
    count = parse_number(next(numbers))
    if count < 0:
        raise ValueError("the map of a sparse file has a negative length")
    return [parse_number(next(numbers)) for _ in range(2 * count)]


def _lines(source: ByteSource) -> Iterator[bytes]:
    """Yield lines, from as many blocks as they need."""
    rest = b""
    for _ in range(_MAX_MAP // BLOCK):
        block = source.read(BLOCK)
        if len(block) < BLOCK:
            raise LayerInvalid("the archive ends in the map of a sparse file")
        *lines, rest = (rest + block).split(b"\n")
        if len(rest) > BLOCK:
            break
        yield from lines
    raise ValueError("the map of a sparse file is too large")


def old_gnu_map(source: ByteSource, header: bytes) -> tuple[int, list[int]]:
    """Return a sparse file's size and its map's numbers, from a header in the old GNU format.

    The blocks after the header that continue the map are read from *source*. Raises LayerInvalid;
    ValueError if the map is not valid, or too large, after all its blocks were read.
    """
    fields = [header[386:482]]
    continues = header[482]
    for _ in range(_MAX_MAP // BLOCK):
        if not continues:
            break
        fields.append(_extension(source))
        continues = fields[-1][504]
    is_too_large = bool(continues)
    while continues:
        continues = _extension(source)[504]
    if is_too_large:
        raise ValueError("the map of a sparse file is too large")
    numbers = [number for field in fields for number in _field_numbers(field)]
    return _number(header[483:495]), numbers


def _extension(source: ByteSource) -> bytes:
    block = source.read(BLOCK)
    if len(block) < BLOCK:
        raise LayerInvalid("the archive ends in the map of a sparse file")
    return block


def _field_numbers(field: bytes) -> Iterator[int]:
    """Yield the numbers of a header; the first entry without an offset ends the map."""
    for start in range(0, len(field) // 24 * 24, 24):
        if not field[start]:
            return
        yield _number(field[start : start + 12])
        yield _number(field[start + 12 : start + 24])


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(bytes((field[0] & 0x7F, *field[1:])), "big")
    text = field.strip(b" \0")
    if not all(digit in b"01234567" for digit in text):
        raise ValueError("the map of a sparse file has an invalid number")
    return int(text or b"0", 8)


def extents(numbers: Iterable[int], size: int, stored: int) -> Extents:
    """Return the ranges of a file of *size* bytes, of which the archive has *stored*.

    Raises ValueError if they overlap, are not in order, or do not fit.
    """
    found = []
    end = 0
    left = iter(numbers)
    for start, length in zip(left, left, strict=False):
        if start < end or length < 0 or start + length > size:
            raise ValueError("the map of a sparse file does not fit its size")
        end = start + length
        if length:
            found.append((start, length))
    if sum(length for _, length in found) > stored:
        raise ValueError("the archive does not have all ranges of a sparse file")
    return tuple(found)

"""Extended headers of tar archives (PAX): records, times, numbers and extended attributes.

``tarfile`` reads them with regular expressions that take quadratic time on hostile headers
(CVE-2024-6232), and rounds times. Source: POSIX, pax; Go's archive/tar, strconv.go, for the limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from blobfs.errors import LayerInvalid

SPARSE_MAP: Final = b"GNU.sparse.map"
_SPARSE_RECORDS: Final = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")

_TEXTS: Final = (b"path", b"linkpath", b"uname", b"gname")

XATTR: Final = b"SCHILY.xattr."
_NAMESPACES: Final = (b"user.", b"trusted.", b"security.", b"system.posix_acl_")

_OF_THE_HOST: Final = (b"security.selinux", b"trusted.overlay.opaque")
"""Attributes that have a meaning on one machine only; umoci leaves them out."""

_XATTR_NAME_MAX: Final = 255
_XATTR_SIZE_MAX: Final = 2**16
"""Limits of Linux: linux/limits.h."""

_MAX_DIGITS: Final = 40

MIN_NS: Final = -(2**63)
MAX_NS: Final = 2**63 - 1
"""The times that a struct timespec in nanoseconds can have: the years 1677 to 2262."""


def parse_records(content: bytes) -> dict[bytes, bytes]:
    """Return the records of an extended header; the last of a key counts.

    The records of a sparse map in the format 0.0 become one of the format 0.1, ``SPARSE_MAP``.
    Raises LayerInvalid.
    """
    records: dict[bytes, bytes] = {}
    numbers: list[bytes] = []
    for key, value in _records(content):
        if key in _SPARSE_RECORDS:
            if key != _SPARSE_RECORDS[len(numbers) % 2] or b"," in value:
                raise LayerInvalid("an extended header has a sparse map in a wrong order")
            numbers.append(value)
        else:
            records[key] = value
    if numbers:
        records[SPARSE_MAP] = b",".join(numbers)
    return {key: value for key, value in records.items() if value}


def _records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    start = 0
    while start < len(content):
        space = content.find(b" ", start, start + _MAX_DIGITS)
        digits = content[start : max(space, start)]
        end = start + int(digits) if digits.isdigit() else 0
        key, equals, value = content[space + 1 : end - 1].partition(b"=")
        is_record = space < end <= len(content) and content[end - 1 : end] == b"\n"
        if not (is_record and equals and key) or b"\0" in (value if key in _TEXTS else key):
            raise LayerInvalid("an extended header has an invalid record")
        yield key, value
        start = end


def parse_number(text: bytes) -> int:
    """Return a decimal number; raises ValueError."""
    digits = text.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > _MAX_DIGITS:
        raise ValueError(f"{text[:_MAX_DIGITS]!r} is no number")
    return int(text)


def parse_time(text: bytes) -> int:
    """Return a time in nanoseconds, cut off as Go does; raises ValueError."""
    seconds, _, fraction = text.partition(b".")
    if fraction and not fraction.isdigit():
        raise ValueError(f"{text[:_MAX_DIGITS]!r} is no time")
    nanoseconds = int(fraction[:9].ljust(9, b"0"))
    sign = -1 if seconds.startswith(b"-") else 1
    return bounded_ns(parse_number(seconds) * 10**9 + sign * nanoseconds)


def bounded_ns(nanoseconds: int) -> int:
    """Return the nearest time that can be represented."""
    return max(MIN_NS, min(MAX_NS, nanoseconds))


def xattrs(records: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the extended attributes that a file on Linux can have."""
    found = {}
    for key, value in records.items():
        name = key.removeprefix(XATTR)
        if name != key and len(value) <= _XATTR_SIZE_MAX and _is_attribute(name):
            found[name] = value
    return found


def _is_attribute(name: bytes) -> bool:
    is_known = name.startswith(_NAMESPACES) and name not in (*_OF_THE_HOST, *_NAMESPACES)
    return is_known and len(name) <= _XATTR_NAME_MAX

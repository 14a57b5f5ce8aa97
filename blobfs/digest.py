"""Content addresses, ``<algorithm>:<encoded>``, and the digesters that compute them.

A ``Digester`` can save its state and resume from it, in the format that distribution writes to
``hashstates/<algorithm>/<offset>`` (Go's ``encoding.BinaryMarshaler`` of ``crypto/sha256`` and
``crypto/sha512``).
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from rehashes import PySha256, PySha512

from blobfs.errors import DigestInvalid, DigestMismatch, HashStateInvalid

CANONICAL: Final = "sha256"
"""The algorithm under which distribution stores every blob."""

OCTET_STREAM: Final = "application/octet-stream"

_LENGTH: Final = {"sha256": 64, "sha384": 96, "sha512": 128}  # hexadecimal digits
_ENCODED: Final = {name: re.compile(f"[0-9a-f]{{{n}}}") for name, n in _LENGTH.items()}

_MAX_SIZE: Final = 2**61  # bytes; sha256 counts bits in 64 (FIPS 180-4, 1)

ALGORITHMS: Final = tuple(_LENGTH)


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A digest, valid by construction."""

    algorithm: str
    encoded: str

    def __post_init__(self) -> None:
        pattern = _ENCODED.get(self.algorithm)
        if pattern is None or pattern.fullmatch(self.encoded) is None:
            raise DigestInvalid(f"not a digest: {str(self)[:160]!r}")

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.encoded}"

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Parse ``algorithm:encoded``; raises DigestInvalid."""
        algorithm, _, encoded = text.partition(":")
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, content: bytes, algorithm: str = CANONICAL) -> Digest:
        """Return the digest of *content*; raises DigestInvalid for an unknown algorithm."""
        return cls.of_chunks((content,), algorithm)

    @classmethod
    def of_chunks(cls, chunks: Iterable[bytes], algorithm: str = CANONICAL) -> Digest:
        """Return the digest of *chunks* in order; raises DigestInvalid for an unknown algorithm."""
        if algorithm not in _ENCODED:
            raise DigestInvalid(f"unknown digest algorithm: {algorithm!r}")
        hasher = hashlib.new(algorithm)
        for chunk in chunks:
            hasher.update(chunk)
        return cls(algorithm, hasher.hexdigest())

    def verified(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield *chunks*; raises DigestMismatch after the last one if they have another digest."""
        hasher = hashlib.new(self.algorithm)
        for chunk in chunks:
            hasher.update(chunk)
            yield chunk
        if hasher.hexdigest() != self.encoded:
            raise DigestMismatch(f"the content of blob {self} does not match its digest")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """The digest, size and media type of a blob.

    *size* is in bytes. *mtime_ns* is the time of storing in nanoseconds since the epoch, or None
    if it is unknown. Comparisons ignore it, because the content does not depend on it.
    """

    digest: Digest
    size: int
    media_type: str = OCTET_STREAM
    mtime_ns: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class _Form:
    """The layout of an algorithm's state, in Go and in the ``rehashes`` package.

    Go, big-endian: magic, eight words, the partial block, the number of bytes hashed (8 bytes).
    rehashes, little-endian: eight words, the number of whole blocks hashed (two words), the
    length of the partial block (1 byte), the partial block without its last byte.
    """

    magic: bytes
    hasher: type[PySha256 | PySha512]
    word: int  # bytes
    initial: tuple[int, ...] | None = None  # None: those of the hasher

    @property
    def block(self) -> int:
        return 16 * self.word

    @property
    def size(self) -> int:
        """Length of Go's form in bytes."""
        return 4 + 8 * self.word + self.block + 8

    def words(self, order: str) -> struct.Struct:
        return struct.Struct(order + ("8I" if self.word == 4 else "8Q"))


_FORMS: Final = {
    "sha256": _Form(b"sha\x03", PySha256, 4),
    # sha384 is sha512 with other initial words (FIPS 180-4, 5.3.4) and a shorter result.
    "sha384": _Form(
        b"sha\x04",
        PySha512,
        8,
        (
            0xCBBB9D5DC1059ED8,
            0x629A292A367CD507,
            0x9159015A3070DD17,
            0x152FECD8F70E5939,
            0x67332667FFC00B31,
            0x8EB44A8768581511,
            0xDB0C2E0D64F98FA7,
            0x47B5481DBEFA4FA4,
        ),
    ),
    "sha512": _Form(b"sha\x07", PySha512, 8),
}


class Digester:
    """Incremental hasher whose state can be saved and loaded in distribution's format.

    Not thread-safe. It holds the GIL while it hashes (1.4 GB/s), which ``hashlib`` does not: use
    ``Digest.of_chunks`` if the state need not be saved.
    """

    def __init__(self, algorithm: str = CANONICAL) -> None:
        if algorithm not in _FORMS:
            raise DigestInvalid(f"unknown digest algorithm: {algorithm!r}")
        self.algorithm = algorithm
        self.size = 0  # bytes hashed so far
        self._digest: Digest | None = None  # of these bytes, once it was asked for
        form = _FORMS[algorithm]
        self._hasher: PySha256 | PySha512 = form.hasher()
        if form.initial is not None:
            self._load(form.initial, b"", 0)

    def update(self, data: bytes) -> None:
        """Append *data*."""
        self._hasher.update(data)
        self.size += len(data)
        self._digest = None

    def digest(self) -> Digest:
        """Return the digest of all data so far; ``update`` may follow."""
        if self._digest is None:
            # finalize() resets the hasher, so it is called on a copy.
            copy = type(self._hasher).deserialize(self._hasher.serialize())
            self._digest = Digest(self.algorithm, copy.finalize()[: _LENGTH[self.algorithm]])
        return self._digest

    def state(self) -> bytes:
        """Return the state in distribution's format: 108 bytes for sha256, else 204."""
        form = _FORMS[self.algorithm]
        raw: bytes = self._hasher.serialize()
        words = form.words("<").unpack_from(raw)
        partial = self.size % form.block
        buffered = raw[10 * form.word + 1 :][:partial]
        return (
            form.magic
            + form.words(">").pack(*words)
            + buffered.ljust(form.block, b"\0")
            + self.size.to_bytes(8, "big")
        )

    @classmethod
    def load(cls, state: bytes, algorithm: str = CANONICAL) -> Digester:
        """Resume from a result of ``state``, or from a registry's; raises HashStateInvalid."""
        digester = cls(algorithm)
        form = _FORMS[algorithm]
        if len(state) != form.size or not state.startswith(form.magic):
            raise HashStateInvalid(f"not a {algorithm} state: {len(state)} bytes")
        size = int.from_bytes(state[-8:], "big")
        if size >= _MAX_SIZE:
            raise HashStateInvalid(f"not a {algorithm} state: {size} bytes hashed")
        words = form.words(">").unpack_from(state, 4)
        digester._load(words, state[4 + 8 * form.word :][: size % form.block], size)
        return digester

    def _load(self, words: tuple[int, ...], buffered: bytes, size: int) -> None:
        form = _FORMS[self.algorithm]
        self._hasher = form.hasher.deserialize(
            form.words("<").pack(*words)
            + (size // form.block).to_bytes(2 * form.word, "little")
            + len(buffered).to_bytes(1, "little")
            + buffered.ljust(form.block - 1, b"\0")
        )
        self.size = size

"""Compact memory for the descriptors in manifests."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final

from blobfs.concurrency import guard
from blobfs.digest import ALGORITHMS, Descriptor, Digest

_RECORD: Final = Struct("<B32sQI")
"""The digest's algorithm and first 32 bytes, the size, and the number of the media type."""

_KEY: Final = Struct("<B32s")
"""The start of a record."""

_MAX_KEPT: Final = 64 * 2**20
"""Bytes kept for all manifests. An image of ten layers takes 800."""

_OVERHEAD: Final = 300
"""Approximate bytes of an entry without its records."""


@dataclass(frozen=True, slots=True)
class References:
    """The descriptors in a manifest: its own first, then those of its references.

    *records* has a ``_RECORD`` of 45 bytes for each. Its media type is an index of *media_types*.
    """

    records: bytes
    media_types: tuple[str, ...]

    @classmethod
    def of(cls, descriptors: Sequence[Descriptor]) -> References:
        """Pack *descriptors*; an invalid manifest has none."""
        numbers: dict[str, int] = {}
        records = [
            key(each.digest)
            + _RECORD.pack(0, b"", each.size, numbers.setdefault(each.media_type, len(numbers)))[
                _KEY.size :
            ]
            for each in descriptors
        ]
        return cls(b"".join(records), tuple(numbers))

    def find(self, digest: Digest) -> Descriptor | None:
        """The first descriptor of *digest*, in about 0.2 µs for ten layers."""
        wanted = key(digest)
        at = self.records.find(wanted)
        while at > 0 and at % _RECORD.size:  # in the middle of a record
            at = self.records.find(wanted, at + 1)
        return None if at < 0 else self._descriptor(digest, at)

    def find_each(self, digests: Mapping[bytes, Digest]) -> Iterator[Descriptor]:
        """The descriptors in the manifest for any of *digests*, a mapping by ``key``."""
        for at in range(0, len(self.records), _RECORD.size):
            digest = digests.get(self.records[at : at + _KEY.size])
            if digest is not None:
                yield self._descriptor(digest, at)

    def _descriptor(self, digest: Digest, at: int) -> Descriptor:
        _, _, size, number = _RECORD.unpack_from(self.records, at)
        return Descriptor(digest, size, self.media_types[number])

    def memory(self) -> int:
        """Return the approximate bytes of memory in use."""
        return _OVERHEAD + len(self.records) + sum(50 + len(each) for each in self.media_types)


class ManifestMemory:
    """LRU cache of manifests' references, by the manifest's digest, for all repositories.

    The content of a digest never changes, so an entry is never out of date. *limit* bounds the
    bytes. Thread-safe; the lock guards all fields.
    """

    def __init__(self, limit: int = _MAX_KEPT) -> None:
        self._limit = limit
        self._lock = guard()
        self._kept: OrderedDict[Digest, References] = OrderedDict()
        self._size = 0

    def get(self, revision: Digest) -> References | None:
        """Return the references of a manifest; None if they are not kept."""
        with self._lock:
            found = self._kept.get(revision)
            if found is not None:
                self._kept.move_to_end(revision)
            return found

    def put(self, revision: Digest, references: References) -> None:
        """Keep the references of a manifest."""
        with self._lock:
            before = self._kept.pop(revision, None)
            self._size += references.memory() - (before.memory() if before else 0)
            self._kept[revision] = references
            while self._size > self._limit:
                self._size -= self._kept.popitem(last=False)[1].memory()


def key(digest: Digest) -> bytes:
    """Return the key of *digest* in the records: its algorithm and first 256 bits."""
    return _KEY.pack(ALGORITHMS.index(digest.algorithm), bytes.fromhex(digest.encoded[:64]))

"""Layer links that a registry's garbage collection has left behind.

A collection removes the blobs that no manifest names, and leaves their links in ``_layers``
(distribution#2288). A link whose blob is missing is left over if no manifest names the blob;
otherwise it is damage.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Container, Iterator, Sequence
from itertools import chain
from typing import Final, NamedTuple

from blobfs.concurrency import SingleFlight, guard, refuse_to_take_long
from blobfs.digest import Digest
from blobfs.errors import AccessDenied, BlobUnknown, Corrupt
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.linkedblobstore import LinkedBlobStore

_DIGEST: Final = re.compile(rb"sha(?:256|512):([0-9a-f]{16})[0-9a-f]{48,112}")

_KEPT_S: Final = 1.0
"""The lifetime of a result, so that a listing of many links computes it once."""

_MAX_KEPT: Final = 500_000
"""Digests kept from the manifests that were read, about 60 bytes each."""


class _NamedDigests(NamedTuple):
    prefixes: frozenset[int]
    is_complete: bool
    until: float  # by time.monotonic()


class LeftOvers:
    """Test for left-over layer links of a repository.

    *revisions* are the repository's manifests. Each is read once, at the first test that needs it.

    Digests are searched in the bytes, so a manifest of any type counts. Only the first 64 bits of
    each digest are kept, by revision. A manifest that cannot be read may name any digest. If
    *blobs* holds no blob at all, the blob store is lost, and no link is left over.

    Thread-safe: the lock guards the kept digests, and one thread computes the result for all.
    """

    def __init__(self, revisions: LinkedBlobStore, blobs: BlobStore) -> None:
        self._revisions = revisions
        self._blobs = blobs
        self._lock = guard()
        self._kept: OrderedDict[Digest, frozenset[int]] = OrderedDict()
        self._kept_size = 0
        self._found: _NamedDigests | None = None
        self._reading: SingleFlight[tuple[()], _NamedDigests] = SingleFlight()

    def include(self, *names: Digest) -> bool:
        """True if no manifest names the missing blob by any of its *names*.

        Raises AccessDenied, StorageUnavailable, and TakesLong on an event loop.
        """
        named = self._named()
        return named.is_complete and not any(_prefix(d.encoded) in named.prefixes for d in names)

    def _named(self) -> _NamedDigests:
        """Return the current result; one thread computes it and the others wait for it."""
        if (current := self._current()) is not None:
            return current
        refuse_to_take_long()
        return self._reading.run((), lambda: self._current() or self._read())

    def _current(self) -> _NamedDigests | None:
        found = self._found
        return found if found is not None and found.until >= time.monotonic() else None

    def _read(self) -> _NamedDigests:
        prefixes: set[int] = set()
        is_complete = self._blobs.holds_any()
        revisions = list(self._revisions.enumerate_all())
        known = {each: self._kept[each] for each in revisions if each in self._kept}
        for found in chain(known.values(), self._read_each(revisions, known)):
            if found is None:
                is_complete = False
            else:
                prefixes |= found
        until = time.monotonic() + _KEPT_S
        self._found = _NamedDigests(frozenset(prefixes), is_complete, until)
        return self._found

    def _read_each(
        self, revisions: Sequence[Digest], known: Container[Digest]
    ) -> Iterator[frozenset[int] | None]:
        """Yield the prefixes in each revision not *known*; None for an unreadable revision."""
        unread = [each for each in revisions if each not in known]
        for revision, found in self._revisions.map_contents(_prefixes, unread):
            match found:
                case frozenset():
                    self._keep(revision, found)
                    yield found
                case BlobUnknown():  # the link was removed, or its blob is missing
                    yield None if self._revisions.existing([revision]) else frozenset()
                case Corrupt() | AccessDenied():
                    yield None
                case _:
                    raise found

    def _keep(self, revision: Digest, found: frozenset[int]) -> None:
        with self._lock:
            self._kept_size += len(found) - len(self._kept.pop(revision, ()))
            self._kept[revision] = found
            while self._kept_size > _MAX_KEPT:
                self._kept_size -= len(self._kept.popitem(last=False)[1])


def _prefixes(_revision: Digest, payload: bytes) -> frozenset[int]:
    return frozenset(int(prefix, 16) for prefix in _DIGEST.findall(payload))


def _prefix(encoded: str) -> int:
    return int(encoded[:16], 16)

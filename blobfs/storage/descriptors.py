"""Blob descriptors from the cache, or from the storage if the cache has none.

Only readers use them; writers ask the storage. Source of truth: distribution,
``registry/storage/cache/cachedblobdescriptorstore.go``.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from blobfs.cache.base import DescriptorCache
from blobfs.concurrency import guard
from blobfs.digest import Descriptor, Digest
from blobfs.errors import BlobDamaged, BlobfsError, BlobUnknown, Corrupt, NotFound
from blobfs.reference import RepositoryName

_HELD_S: Final = 1.0
"""The time for which prefetched descriptors are held for the ``stat`` calls that follow."""

Stat = Callable[[Digest], Descriptor]


class BlobDescriptorService:
    """The descriptor cache of a registry, protected from late writes. Thread-safe.

    Each delete replaces *generation*. A lookup that began in an older generation is not cached,
    because it may have found the deleted blob.
    """

    def __init__(self, cache: DescriptorCache) -> None:
        self.cache = cache
        self.generation = object()

    def known(
        self, digests: Sequence[Digest], repository: RepositoryName | None
    ) -> list[Descriptor | None]:
        """Return the cached descriptor of each digest, or None.

        Aliases need a second call: their canonical digest is looked up too. A missing blob is
        invalidated by its canonical digest only, so the alias's own entry is not enough.
        """
        found = self.cache.stat_many(digests, repository)
        renamed = [k.digest for d, k in zip(digests, found, strict=True) if k and k.digest != d]
        if not renamed:
            return found
        blobs = dict(zip(renamed, self.cache.stat_many(renamed), strict=True))
        return [known and _updated(known, blobs.get(known.digest, known)) for known in found]

    def set_many(
        self,
        found: Mapping[Digest, Descriptor],
        repository: RepositoryName | None,
        generation: object,
    ) -> None:
        """Cache the results of a lookup that began in *generation*."""
        if not found or self.generation is not generation:
            return
        self.cache.set_many(found, repository)
        if self.generation is not generation:
            self.cache.clear_many(list(found), repository)

    def delete(self, digest: Digest, repository: RepositoryName | None) -> None:
        """Remove a blob of *repository* whose link was deleted."""
        self.generation = object()
        self.cache.clear(digest, repository)

    def invalidate(self, digest: Digest) -> None:
        """Remove a blob that is gone or has changed, for all repositories."""
        self.cache.clear(digest)


class CachedBlobStatter:
    """Stats the blobs of *repository* in the cache, or else with *stat*. Thread-safe.

    *stored* stats a blob in the storage, without its link. It supplies the modification time,
    which a registry that shares the cache does not store there.
    """

    def __init__(
        self,
        descriptors: BlobDescriptorService,
        stat: Stat,
        stored: Stat,
        repository: RepositoryName | None = None,
    ) -> None:
        self._descriptors = descriptors
        self._stat = stat
        self._stored = stored
        self._repository = repository
        self._prefetched = _Prefetched()

    def stat(self, digest: Digest) -> Descriptor:
        """Return a descriptor with a modification time; raises the errors of *stat*."""
        generation = self._descriptors.generation
        known = self._prefetched.take(digest, generation)
        if known is None:
            [known] = self._descriptors.known([digest], self._repository)
        if known is None:
            found = self._stat(digest)
            self._descriptors.set_many({digest: found}, self._repository, generation)
            return found
        return known if known.mtime_ns is not None else self._timed(digest, known, generation)

    def _timed(self, digest: Digest, known: Descriptor, generation: object) -> Descriptor:
        """Add the blob's modification time to *known*, and cache it."""
        try:
            stored = self._stored(known.digest)
        except (BlobUnknown, BlobDamaged):
            self._descriptors.invalidate(known.digest)
            return self._stat(digest)
        # Without the repository: its link was not looked up.
        self._descriptors.set_many({digest: stored}, None, generation)
        return replace(known, size=stored.size, mtime_ns=stored.mtime_ns)

    def prefetch(
        self,
        digests: Sequence[Digest],
        present: Callable[[Sequence[Digest]], Sequence[Digest]],
        prepare: Callable[[Sequence[Digest]], None],
    ) -> None:
        """Prepare a ``stat`` of each digest, with one read and one write of the cache.

        Aliases need a second read, for their canonical digests.

        *present* returns those of the cached digests that still have a link. A digest that
        is not cached, or is cached without a time, is looked up in the storage; *prepare*
        gets these digests first. The cache forgets each digest that turns out to be gone, so that
        ``stat`` asks the storage and raises its error.
        """
        generation = self._descriptors.generation
        found = self._descriptors.known(digests, self._repository)
        cached = {d: k for d, k in zip(digests, found, strict=True) if k is not None}
        timed = [digest for digest, k in cached.items() if k.mtime_ns is not None]
        untimed = cached.keys() - set(timed)
        unknown = [d for d in digests if d not in cached or d in untimed]
        there = set(present(timed))
        prepare(unknown)
        looked_up, missing = self._look_up_each(unknown)
        gone = [d for d in timed if d not in there] + [d for d in missing if d in untimed]
        self._descriptors.set_many(looked_up, self._repository, generation)
        if gone:
            self._descriptors.cache.clear_many(gone, self._repository)
        ready = {digest: cached[digest] for digest in there}
        self._prefetched.put(ready | looked_up, generation)

    def _look_up_each(
        self, digests: Sequence[Digest]
    ) -> tuple[dict[Digest, Descriptor], list[Digest]]:
        """Return the descriptors in the storage, and the digests that are missing or damaged."""
        found: dict[Digest, Descriptor] = {}
        missing: list[Digest] = []
        for digest in digests:
            try:
                found[digest] = self._stat(digest)
            except (NotFound, Corrupt):
                missing.append(digest)
            except BlobfsError:
                continue  # ``stat`` raises it again
        return found, missing


def _updated(known: Descriptor, blob: Descriptor | None) -> Descriptor | None:
    """Return *known* with the size and time of *blob*; None if *blob* is None."""
    return blob and replace(known, size=blob.size, mtime_ns=blob.mtime_ns)


class _Held(NamedTuple):
    descriptor: Descriptor
    generation: object
    until: float  # by time.monotonic()


class _Prefetched:
    """Prefetched descriptors, each held until it is taken. One lock guards them."""

    def __init__(self) -> None:
        self._lock = guard()
        self._held: OrderedDict[Digest, _Held] = OrderedDict()  # oldest first

    def put(self, descriptors: Mapping[Digest, Descriptor], generation: object) -> None:
        """Hold descriptors that were found in *generation*, and drop the expired ones."""
        now = time.monotonic()
        with self._lock:
            for digest, descriptor in descriptors.items():
                self._held[digest] = _Held(descriptor, generation, now + _HELD_S)
                self._held.move_to_end(digest)
            while self._held and next(iter(self._held.values())).until < now:
                self._held.popitem(last=False)

    def take(self, digest: Digest, generation: object) -> Descriptor | None:
        """Remove and return a held descriptor; None if it expired or its generation is over."""
        if not self._held:
            return None
        with self._lock:
            held = self._held.pop(digest, None)
        if held is None or held.generation is not generation or held.until < time.monotonic():
            return None
        return held.descriptor

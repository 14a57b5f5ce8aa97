"""Blobs as a descriptor cache remembers them, and as the storage has them where it does not.

For those who look; a writer asks the storage itself. Source of truth: distribution,
``registry/storage/cache/cachedblobdescriptorstore.go``.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from threading import Lock
from typing import Final, NamedTuple

from blobfs.cache.base import DescriptorCache
from blobfs.digest import Descriptor, Digest
from blobfs.errors import BlobDamaged, BlobfsError, BlobUnknown, Corrupt, NotFound
from blobfs.reference import RepositoryName

_HELD_S: Final = 1.0
"""How long what a listing asked for together waits to be asked for one by one."""

Look = Callable[[Digest], Descriptor]


class BlobDescriptorService:
    """What the descriptor cache of a registry is asked and told. Thread-safe.

    What a lookup found before something was deleted is not set after that: it may be what
    was deleted, and would be there again. *generation* tells: it is another after each delete.
    """

    def __init__(self, cache: DescriptorCache) -> None:
        self.cache = cache
        self.generation = object()

    def known(
        self, digests: Sequence[Digest], repository: RepositoryName | None
    ) -> list[Descriptor | None]:
        """What the cache has of each.

        A blob that was asked for by another name is what the cache has of it by its own: who
        finds a blob gone forgets it by that, and does not know what else it is called.
        """
        found = self.cache.stat_many(digests, repository)
        renamed = [k.digest for d, k in zip(digests, found, strict=True) if k and k.digest != d]
        if not renamed:
            return found
        blobs = dict(zip(renamed, self.cache.stat_many(renamed), strict=True))
        return [known and _as_told(known, blobs.get(known.digest, known)) for known in found]

    def set_many(
        self,
        found: Mapping[Digest, Descriptor],
        repository: RepositoryName | None,
        generation: object,
    ) -> None:
        """Remember what a lookup that began in *generation* has found."""
        if not found or self.generation is not generation:
            return
        self.cache.set_many(found, repository)
        if self.generation is not generation:
            self.cache.clear_many(list(found), repository)

    def delete(self, digest: Digest, repository: RepositoryName | None) -> None:
        """Forget that *repository* has a blob, whose link has been removed."""
        self.generation = object()
        self.cache.clear(digest, repository)

    def invalidate(self, digest: Digest) -> None:
        """Forget a blob that is gone, or is not what was remembered."""
        self.cache.clear(digest)


class CachedBlobStatter:
    """Answers from the cache, or else by *look*; *repository* is whose blobs it tells of.

    *stored* asks the storage for a blob whoever has it: for its time, which a registry that
    remembers a blob does not keep. Thread-safe.
    """

    def __init__(
        self,
        descriptors: BlobDescriptorService,
        look: Look,
        stored: Look,
        repository: RepositoryName | None = None,
    ) -> None:
        self._descriptors = descriptors
        self._look = look
        self._stored = stored
        self._repository = repository
        self._ready = _Ready()

    def stat(self, digest: Digest) -> Descriptor:
        """What is known of a blob, with its time; raises what *look* does."""
        generation = self._descriptors.generation
        known = self._ready.take(digest, generation)
        if known is None:
            [known] = self._descriptors.known([digest], self._repository)
        if known is None:
            found = self._look(digest)
            self._descriptors.set_many({digest: found}, self._repository, generation)
            return found
        return known if known.mtime_ns is not None else self._timed(digest, known, generation)

    def _timed(self, digest: Digest, known: Descriptor, generation: object) -> Descriptor:
        """What is *known*, with the blob's time, which the cache is told of."""
        try:
            stored = self._stored(known.digest)
        except (BlobUnknown, BlobDamaged):
            self._descriptors.invalidate(known.digest)
            return self._look(digest)
        # Of the blob only: whether the repository still has it was not looked up.
        self._descriptors.set_many({digest: stored}, None, generation)
        return replace(known, size=stored.size, mtime_ns=stored.mtime_ns)

    def prefetch(
        self,
        digests: Sequence[Digest],
        present: Callable[[Sequence[Digest]], Sequence[Digest]],
        prepare: Callable[[Sequence[Digest]], None],
    ) -> None:
        """Get ready for a ``stat`` of each, by one call of the cache, and one to tell it.

        A second call asks for the canonical digests of aliases.

        *present* returns those of the remembered digests that still have a link. A digest that
        is not remembered, or is remembered without a time, is looked up in the storage; *prepare*
        gets these digests first. The cache forgets each digest that turns out to be gone, so that
        ``stat`` asks the storage, and fails as it must.
        """
        generation = self._descriptors.generation
        found = self._descriptors.known(digests, self._repository)
        remembered = {d: k for d, k in zip(digests, found, strict=True) if k is not None}
        timed = [digest for digest, k in remembered.items() if k.mtime_ns is not None]
        untimed = remembered.keys() - set(timed)
        unknown = [d for d in digests if d not in remembered or d in untimed]
        there = set(present(timed))
        prepare(unknown)
        looked_up, missing = self._look_up_each(unknown)
        gone = [d for d in timed if d not in there] + [d for d in missing if d in untimed]
        self._descriptors.set_many(looked_up, self._repository, generation)
        if gone:
            self._descriptors.cache.clear_many(gone, self._repository)
        ready = {digest: remembered[digest] for digest in there}
        self._ready.put(ready | looked_up, generation)

    def _look_up_each(
        self, digests: Sequence[Digest]
    ) -> tuple[dict[Digest, Descriptor], list[Digest]]:
        """Descriptors of those that the storage has, and the digests that are gone or broken."""
        found: dict[Digest, Descriptor] = {}
        missing: list[Digest] = []
        for digest in digests:
            try:
                found[digest] = self._look(digest)
            except (NotFound, Corrupt):
                missing.append(digest)
            except BlobfsError:
                continue  # the storage fails, and fails ``stat`` too
        return found, missing


def _as_told(known: Descriptor, blob: Descriptor | None) -> Descriptor | None:
    """What is *known* by any name, as large and as old as the *blob*, if that is known too."""
    return blob and replace(known, size=blob.size, mtime_ns=blob.mtime_ns)


class _Held(NamedTuple):
    descriptor: Descriptor
    generation: object
    until: float  # as time.monotonic() has it


class _Ready:
    """Descriptors that have been asked for together, each until it is taken. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._held: OrderedDict[Digest, _Held] = OrderedDict()  # by the time they are held

    def put(self, descriptors: Mapping[Digest, Descriptor], generation: object) -> None:
        """Hold what was found since *generation*, and let go of what nobody has taken."""
        now = time.monotonic()
        with self._lock:
            for digest, descriptor in descriptors.items():
                self._held[digest] = _Held(descriptor, generation, now + _HELD_S)
                self._held.move_to_end(digest)
            while self._held and next(iter(self._held.values())).until < now:
                self._held.popitem(last=False)

    def take(self, digest: Digest, generation: object) -> Descriptor | None:
        """What is held of a blob, if nothing has been deleted meanwhile."""
        if not self._held:
            return None
        with self._lock:
            held = self._held.pop(digest, None)
        if held is None or held.generation is not generation or held.until < time.monotonic():
            return None
        return held.descriptor

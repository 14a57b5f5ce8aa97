"""A cache that may fail, made one that never does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import TypeVar

from blobfs.cache.base import DescriptorCache, counts
from blobfs.cache.circuit_breaker import Breaker
from blobfs.cache.pending_clears import PendingClears
from blobfs.digest import Descriptor, Digest
from blobfs.errors import BlobfsError
from blobfs.logs import about
from blobfs.reference import RepositoryName

log = logging.getLogger(__name__)

T = TypeVar("T")


class ResilientCache(DescriptorCache):
    """*cache*, but a lookup that fails is a miss, and whatever else fails is only counted.

    Each kind of call that fails again and again is given up for a while, so that nobody waits
    for it: a server may answer lookups and be too full to be told anything. Nothing is set
    after a lookup that failed, which would make it harder for a server in trouble.

    A clear that failed is made again in the place of a later lookup, and until then what it was
    to clear is not found here. Others find it: a registry beside us, or the next mount.
    """

    def __init__(self, cache: DescriptorCache) -> None:
        self._cache = cache
        self._lookups = Breaker("lookups")
        self._sets = Breaker("sets")
        self._clears = Breaker("clears")
        self._owed = PendingClears()
        self._lock = Lock()
        self._hits = self._misses = self._errors = self._skipped = 0

    def __repr__(self) -> str:
        return f"ResilientCache({self._cache!r})"

    @property
    def is_local(self) -> bool:
        return self._cache.is_local

    def stats(self) -> dict[str, int]:
        with self._lock:
            return counts(self._hits, self._misses, errors=self._errors, skipped=self._skipped)

    def stat_many(
        self, digests: Sequence[Digest], repository: RepositoryName | None = None
    ) -> list[Descriptor | None]:
        found = self._looked_up(digests, repository) or [None] * len(digests)
        misses = found.count(None)
        with self._lock:
            self._hits += len(found) - misses
            self._misses += misses
        return found

    def _looked_up(
        self, digests: Sequence[Digest], repository: RepositoryName | None
    ) -> list[Descriptor | None] | None:
        """What the cache has; None if it was not asked, or did not tell."""
        if self._owed and self._lookups.is_well and self._clears.admits():
            self._settle()
            self._skip()
            return None
        if not self._lookups.admits():
            self._skip()
            return None
        found = self._made(self._lookups, lambda: self._cache.stat_many(digests, repository))
        if found is None:
            return None
        for position, digest in enumerate(digests if self._owed else ()):
            if self._owed.covers(digest, repository):
                found[position] = None
        return found

    def set_many(
        self, descriptors: Mapping[Digest, Descriptor], repository: RepositoryName | None = None
    ) -> None:
        if self._lookups.is_well and self._sets.admits():
            self._made(self._sets, lambda: self._cache.set_many(descriptors, repository))
        else:
            self._skip()

    def clear_many(
        self, digests: Sequence[Digest], repository: RepositoryName | None = None
    ) -> None:
        if not self._clears.admits():
            self._skip()
            self._owed.add(digests, repository)
        elif not self._cleared(digests, repository):
            self._owed.add(digests, repository)

    def _cleared(self, digests: Sequence[Digest], repository: RepositoryName | None) -> bool:
        def clear() -> bool:
            self._cache.clear_many(digests, repository)
            return True

        return self._made(self._clears, clear) is not None

    def _settle(self) -> bool:
        """Make some of the clears that are owed; whether that succeeded."""
        debt = self._owed.some()
        settled = self._cleared(list(debt.numbers), debt.repository)
        if settled:
            self._owed.paid(debt)
        return settled

    def _skip(self) -> None:
        with self._lock:
            self._skipped += 1

    def _made(self, breaker: Breaker, call: Callable[[], T]) -> T | None:
        """What *call* gives, and None if it fails."""
        try:
            result = call()
        except Exception as exc:  # noqa: BLE001  (no request may fail of its cache)
            with self._lock:
                self._errors += 1
            if breaker.failed():
                said = exc if isinstance(exc, BlobfsError) else repr(exc)
                fields = about(operation=breaker.name)
                log.warning(
                    "descriptor cache: %s fail, doing without: %s", breaker.name, said, extra=fields
                )
            return None
        if breaker.succeeded():
            fields = about(operation=breaker.name)
            log.info("descriptor cache: %s work again: %r", breaker.name, self._cache, extra=fields)
        return result

    def close(self) -> None:
        while self._owed and self._settle():
            pass
        if self._owed:
            log.warning("descriptor cache: %d clears were never made", len(self._owed))
        self._cache.close()

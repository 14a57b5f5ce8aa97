"""A wrapper that makes a cache that can fail into one that never raises."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Final, TypeVar

from blobfs.cache.base import DescriptorCache, counts
from blobfs.cache.circuit_breaker import CircuitBreaker
from blobfs.concurrency import guard
from blobfs.digest import Descriptor, Digest
from blobfs.errors import BlobfsError
from blobfs.logs import about
from blobfs.reference import RepositoryName

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_PENDING: Final = 10_000
_BATCH: Final = 100  # digests in one call, in the place of a lookup


@dataclass(frozen=True, slots=True)
class Batch:
    """Digests of one *repository* to be cleared; *numbers* has the number of each one's call."""

    repository: RepositoryName | None
    numbers: Mapping[Digest, int]


class PendingClears:
    """Queue of ``clear`` calls to be repeated; drops the oldest above *most*. Thread-safe."""

    def __init__(self, most: int = MAX_PENDING) -> None:
        self._most = most
        self._lock = guard()
        self._numbers = count()
        self._pending: OrderedDict[tuple[RepositoryName | None, Digest], int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, digests: Sequence[Digest], repository: RepositoryName | None) -> None:
        """Append a clear of each digest."""
        with self._lock:
            for digest in digests:
                self._pending[repository, digest] = next(self._numbers)
                self._pending.move_to_end((repository, digest))
            while len(self._pending) > self._most:
                self._pending.popitem(last=False)

    def covers(self, digest: Digest, repository: RepositoryName | None) -> bool:
        """True if the cache may still have an entry of *digest* that should be cleared."""
        return (repository, digest) in self._pending or (None, digest) in self._pending

    def oldest(self) -> Batch:
        """Return the oldest clears of one repository; the batch is empty if none is pending."""
        with self._lock:
            repository = next(iter(self._pending), (None, None))[0]
            numbers = (
                (digest, number)
                for (name, digest), number in self._pending.items()
                if name == repository
            )
            return Batch(repository, dict(islice(numbers, _BATCH)))

    def done(self, batch: Batch) -> None:
        """Remove the clears of *batch*, except those that were added again meanwhile."""
        with self._lock:
            for digest, number in batch.numbers.items():
                if self._pending.get((batch.repository, digest)) == number:
                    del self._pending[batch.repository, digest]


class ResilientCache(DescriptorCache):
    """Wraps *cache*: a failed lookup is a miss, other failures are only counted. Thread-safe.

    Lookups, sets and clears have a circuit breaker each, because a server that is full still
    answers lookups. After a failed lookup nothing is set, which spares a server in trouble.

    A failed clear is repeated in the place of a later lookup. Until then this object does not
    return the entry; a registry or another mount still finds it. The lock guards the counts.
    """

    def __init__(self, cache: DescriptorCache) -> None:
        self._cache = cache
        self._lookups = CircuitBreaker("lookups")
        self._sets = CircuitBreaker("sets")
        self._clears = CircuitBreaker("clears")
        self._pending = PendingClears()
        self._lock = guard()
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
        found = self._find(digests, repository) or [None] * len(digests)
        misses = found.count(None)
        with self._lock:
            self._hits += len(found) - misses
            self._misses += misses
        return found

    def _find(
        self, digests: Sequence[Digest], repository: RepositoryName | None
    ) -> list[Descriptor | None] | None:
        """Return the descriptors; None if the cache was not called, or failed."""
        if self._pending and self._lookups.is_healthy and self._clears.allows_call():
            self._repeat_clears()
            self._skip()
            return None
        if not self._lookups.allows_call():
            self._skip()
            return None
        found = self._guarded(self._lookups, lambda: self._cache.stat_many(digests, repository))
        if found is None:
            return None
        for position, digest in enumerate(digests if self._pending else ()):
            if self._pending.covers(digest, repository):
                found[position] = None
        return found

    def set_many(
        self, descriptors: Mapping[Digest, Descriptor], repository: RepositoryName | None = None
    ) -> None:
        if self._lookups.is_healthy and self._sets.allows_call():
            self._guarded(self._sets, lambda: self._cache.set_many(descriptors, repository))
        else:
            self._skip()

    def clear_many(
        self, digests: Sequence[Digest], repository: RepositoryName | None = None
    ) -> None:
        if not self._clears.allows_call():
            self._skip()
        elif self._try_clear(digests, repository):
            return
        self._pending.add(digests, repository)

    def _try_clear(self, digests: Sequence[Digest], repository: RepositoryName | None) -> bool:
        def clear() -> bool:
            self._cache.clear_many(digests, repository)
            return True

        return self._guarded(self._clears, clear) is not None

    def _repeat_clears(self) -> bool:
        """Repeat the oldest clears; returns True if that succeeded."""
        batch = self._pending.oldest()
        cleared = self._try_clear(list(batch.numbers), batch.repository)
        if cleared:
            self._pending.done(batch)
        return cleared

    def _skip(self) -> None:
        with self._lock:
            self._skipped += 1

    def _guarded(self, breaker: CircuitBreaker, call: Callable[[], T]) -> T | None:
        """Return the result of *call*, or None if it fails."""
        try:
            result = call()
        except Exception as exc:  # noqa: BLE001  (a cache must not fail a request)
            with self._lock:
                self._errors += 1
            if breaker.failed():
                why = exc if isinstance(exc, BlobfsError) else type(exc).__name__
                fields = about(operation=breaker.name)
                log.warning(
                    "descriptor cache: %s fail, doing without: %s", breaker.name, why, extra=fields
                )
            return None
        if breaker.succeeded():
            fields = about(operation=breaker.name)
            log.info("descriptor cache: %s work again: %r", breaker.name, self._cache, extra=fields)
        return result

    def close(self) -> None:
        while self._pending and self._repeat_clears():
            pass
        if self._pending:
            log.warning("descriptor cache: %d clears were never made", len(self._pending))
        self._cache.close()

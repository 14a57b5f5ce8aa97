"""The cache in the memory of the process, and the one that keeps nothing.

``MemoryCache`` is the reference of the conformance suite. It does not see the deletes of other
processes, so a mount lets its entries expire.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from blobfs.cache.base import DescriptorCache, counts, with_canonical
from blobfs.concurrency import guard
from blobfs.digest import Descriptor, Digest
from blobfs.reference import RepositoryName

ENTRIES: Final = 10_000
"""Distribution's default. An entry takes about 0.4 KB."""


class _Entry(NamedTuple):
    descriptor: Descriptor
    expires_at: float  # on the cache's clock


class MemoryCache(DescriptorCache):
    """LRU cache of *entries* entries, each valid for *ttl_s* seconds after it was set.

    A blob takes one entry, and one more for each repository. *clock* gives seconds. Thread-safe:
    one lock guards the entries and the counts.
    """

    def __init__(
        self,
        entries: int = ENTRIES,
        *,
        ttl_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_entries = entries
        self._ttl_s = ttl_s
        self._clock = clock
        self._lock = guard()
        self._hits = self._misses = 0
        # Least recently used first. The blob itself is under None; it must be there for any hit.
        self._entries: OrderedDict[tuple[RepositoryName | None, Digest], _Entry] = OrderedDict()

    @property
    def is_local(self) -> bool:
        return True

    def stat(self, digest: Digest, repository: RepositoryName | None = None) -> Descriptor | None:
        with self._lock:
            linked = descriptor = self._get(None, digest)
            if repository is not None and descriptor is not None:
                linked = self._get(repository, digest)
            self._hits += linked is not None
            self._misses += linked is None
        if linked is None or descriptor is None or linked.media_type == descriptor.media_type:
            return linked and descriptor
        return replace(descriptor, media_type=linked.media_type)

    def stats(self) -> dict[str, int]:
        with self._lock:
            return counts(self._hits, self._misses)

    def _get(self, repository: RepositoryName | None, digest: Digest) -> Descriptor | None:
        key = (repository, digest)
        entry = self._entries.get(key)
        if entry is None or entry.expires_at <= self._clock():
            return None
        self._entries.move_to_end(key)
        return entry.descriptor

    def stat_many(
        self, digests: Sequence[Digest], repository: RepositoryName | None = None
    ) -> list[Descriptor | None]:
        return [self.stat(digest, repository) for digest in digests]

    def set_many(
        self, descriptors: Mapping[Digest, Descriptor], repository: RepositoryName | None = None
    ) -> None:
        with self._lock:
            for digest, descriptor, owner in with_canonical(descriptors, repository):
                first = self._get(None, digest) or descriptor
                self._put(None, digest, replace(descriptor, media_type=first.media_type))
                if owner is not None:
                    self._put(owner, digest, descriptor)

    def _put(
        self, repository: RepositoryName | None, digest: Digest, descriptor: Descriptor
    ) -> None:
        key = (repository, digest)
        self._entries[key] = _Entry(descriptor, self._clock() + self._ttl_s)
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def clear_many(
        self, digests: Sequence[Digest], repository: RepositoryName | None = None
    ) -> None:
        with self._lock:
            for digest in digests:
                self._entries.pop((None, digest), None)
                self._entries.pop((repository, digest), None)

    def close(self) -> None:
        self._entries.clear()


class NoCache(DescriptorCache):
    """Cache that is always empty."""

    @property
    def is_local(self) -> bool:
        return True

    def stat_many(
        self, digests: Sequence[Digest], repository: RepositoryName | None = None
    ) -> list[Descriptor | None]:
        return [None] * len(digests)

    def set_many(
        self, descriptors: Mapping[Digest, Descriptor], repository: RepositoryName | None = None
    ) -> None:
        pass

    def clear_many(
        self, digests: Sequence[Digest], repository: RepositoryName | None = None
    ) -> None:
        pass

    def close(self) -> None:
        pass

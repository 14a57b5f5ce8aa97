"""A cache in the memory of the process: bounded, and the reference of the conformance suite."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from threading import Lock
from typing import Final

from blobfs.cache.base import DescriptorCache, with_canonical
from blobfs.digest import Descriptor, Digest
from blobfs.reference import RepositoryName

ENTRIES: Final = 10_000
"""As many as distribution keeps. One takes about 0.4 KB."""


class MemoryCache(DescriptorCache):
    """Keeps the *entries* used last; a blob takes one, and one for each repository."""

    def __init__(self, entries: int = ENTRIES) -> None:
        self._most = entries
        self._lock = Lock()
        # Oldest first. The blob itself is under None, and without it a repository's is no hit.
        self._entries: OrderedDict[tuple[RepositoryName | None, Digest], Descriptor] = OrderedDict()

    @property
    def is_local(self) -> bool:
        return True

    def stat(self, digest: Digest, repository: RepositoryName | None = None) -> Descriptor | None:
        with self._lock:
            descriptor = self._used(None, digest)
            if repository is None or descriptor is None:
                return descriptor
            linked = self._used(repository, digest)
        if linked is None or linked.media_type == descriptor.media_type:
            return linked and descriptor
        return replace(descriptor, media_type=linked.media_type)

    def _used(self, repository: RepositoryName | None, digest: Digest) -> Descriptor | None:
        key = (repository, digest)
        descriptor = self._entries.get(key)
        if descriptor is not None:
            self._entries.move_to_end(key)
        return descriptor

    def stat_many(
        self, digests: Sequence[Digest], repository: RepositoryName | None = None
    ) -> list[Descriptor | None]:
        return [self.stat(digest, repository) for digest in digests]

    def set_many(
        self, descriptors: Mapping[Digest, Descriptor], repository: RepositoryName | None = None
    ) -> None:
        with self._lock:
            for digest, descriptor in with_canonical(descriptors):
                first = self._entries.get((None, digest), descriptor)
                self._put(None, digest, replace(descriptor, media_type=first.media_type))
                if repository is not None:
                    self._put(repository, digest, descriptor)

    def _put(
        self, repository: RepositoryName | None, digest: Digest, descriptor: Descriptor
    ) -> None:
        key = (repository, digest)
        self._entries[key] = descriptor
        self._entries.move_to_end(key)
        if len(self._entries) > self._most:
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

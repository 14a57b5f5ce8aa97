"""The contract of a descriptor cache."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from blobfs.digest import CANONICAL, Descriptor, Digest
from blobfs.reference import RepositoryName


class DescriptorCache(ABC):
    """Maps digests to descriptors, for each repository and for the whole registry. Thread-safe.

    A call with a *repository* concerns only that repository: a lookup is a hit only if ``set``
    was called for it. A call without one concerns the blob itself.

    The *digest* of a call is the descriptor's own, or an alias: a blob that was pushed as
    ``sha512:…`` has a descriptor with ``sha256:…``. A repository has a separate entry for each.

    A cache may drop any entry at any time. All methods but ``close`` raise StorageUnavailable and
    StorageTimeout; those of a ``ResilientCache`` raise nothing.
    """

    @property
    @abstractmethod
    def is_local(self) -> bool:
        """True if calls are short enough for an event loop."""

    def stat(self, digest: Digest, repository: RepositoryName | None = None) -> Descriptor | None:
        """Return the descriptor of a blob, or None.

        ``mtime_ns`` can be None. The media type is the one that was set for *repository*.
        """
        [descriptor] = self.stat_many([digest], repository)
        return descriptor

    @abstractmethod
    def stat_many(
        self, digests: Sequence[Digest], repository: RepositoryName | None = None
    ) -> list[Descriptor | None]:
        """Call ``stat`` for each digest, with one round trip per hundred."""

    def set(
        self, digest: Digest, descriptor: Descriptor, repository: RepositoryName | None = None
    ) -> None:
        """Add a blob that is stored, and that *repository* links under *digest*.

        An alias also adds the blob under its own digest, but not for *repository*. (In
        distribution ``set`` adds both, so a lookup by one digest restores the deleted other one.)

        The media type of a repository's entry is replaced. The blob's entry keeps its first media
        type; its size and time are replaced. A descriptor that fails ``describes`` is ignored.
        """
        self.set_many({digest: descriptor}, repository)

    @abstractmethod
    def set_many(
        self, descriptors: Mapping[Digest, Descriptor], repository: RepositoryName | None = None
    ) -> None:
        """Call ``set`` for each digest, with one round trip per hundred."""

    def clear(self, digest: Digest, repository: RepositoryName | None = None) -> None:
        """Remove the entry of a blob and the entry of *repository*; unknown ones are no error.

        The blob is a miss for every repository at once. The next ``set`` of the blob makes it
        a hit again for all repositories but this one, which needs a ``set`` of its own.
        """
        self.clear_many([digest], repository)

    @abstractmethod
    def clear_many(
        self, digests: Sequence[Digest], repository: RepositoryName | None = None
    ) -> None:
        """Call ``clear`` for each digest, with one round trip per hundred."""

    def stats(self) -> dict[str, int]:
        """Return the counts since the cache was created.

        ``requests`` counts digests that were looked up: ``hits`` and ``misses``. ``errors`` counts
        failed calls, ``skipped`` those that were not made because others had failed.
        """
        return counts(0, 0)

    @abstractmethod
    def close(self) -> None:
        """Close connections and end threads; the cache is not used again."""


def counts(hits: int, misses: int, *, errors: int = 0, skipped: int = 0) -> dict[str, int]:
    """Return the ``stats`` of a cache."""
    return {
        "requests": hits + misses,
        "hits": hits,
        "misses": misses,
        "errors": errors,
        "skipped": skipped,
    }


def describes(digest: Digest, descriptor: Descriptor) -> bool:
    """True if *descriptor* can belong to the blob *digest*."""
    same = digest == descriptor.digest
    alias = digest.algorithm != CANONICAL and descriptor.digest.algorithm == CANONICAL
    return (same or alias) and descriptor.size >= 0 and descriptor.media_type != ""


class Described(NamedTuple):
    """A cache entry to be set: *descriptor* for *digest*, in *repository* if it is not None."""

    digest: Digest
    descriptor: Descriptor
    repository: RepositoryName | None


def with_canonical(
    descriptors: Mapping[Digest, Descriptor], repository: RepositoryName | None
) -> Iterable[Described]:
    """Yield the entries that ``set_many`` sets: each valid one, then its blob if it is an alias."""
    for digest, descriptor in descriptors.items():
        if describes(digest, descriptor):
            yield Described(digest, descriptor, repository)
            if digest != descriptor.digest:
                yield Described(descriptor.digest, descriptor, None)

"""The descriptor cache: what is remembered of blobs, so that a storage need not be asked.

Every cache below this package means the same by it, and shares it with the registries beside us.
Source of truth: distribution, ``registry/storage/cache``.

Who asks a cache does so for speed only. A lookup that finds nothing goes on to the storage, and
``set`` then tells the cache; what a hit names may be gone, and whoever finds that calls ``clear``.
A writer never takes a hit for the presence of a blob.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from blobfs.digest import CANONICAL, Descriptor, Digest
from blobfs.reference import RepositoryName


class DescriptorCache(ABC):
    """Remembers descriptors by digest, and which repository has them. Thread-safe.

    With a *repository*, a call is about what that repository has: a lookup is a hit only if
    ``set`` was called for it, whatever others have. Without one, it is about the blob itself.

    A digest is that of the descriptor, or another algorithm's for the same bytes, under which
    it was pushed: a blob that was pushed as ``sha512:…`` is described as ``sha256:…``. These are
    two names, and a repository has the blob by each for itself.

    Any entry may be forgotten at any time. All but ``close`` raise StorageUnavailable,
    StorageTimeout; a ``ResilientCache`` raises nothing.
    """

    @property
    @abstractmethod
    def is_local(self) -> bool:
        """Whether calls are short enough to be made on an event loop."""

    def stat(self, digest: Digest, repository: RepositoryName | None = None) -> Descriptor | None:
        """What is remembered of a blob, or None.

        ``mtime_ns`` may not be known. The media type is what *repository* calls it.
        """
        [descriptor] = self.stat_many([digest], repository)
        return descriptor

    @abstractmethod
    def stat_many(
        self, digests: Sequence[Digest], repository: RepositoryName | None = None
    ) -> list[Descriptor | None]:
        """``stat`` of each, in one round trip for every hundred."""

    def set(
        self, digest: Digest, descriptor: Descriptor, repository: RepositoryName | None = None
    ) -> None:
        """Remember a blob that is stored, and linked in *repository* by the name *digest*.

        The blob alone is remembered under its own digest too. In distribution the repository
        then has it by both names, and gets back one that was deleted by a lookup of the other.

        A repository's media type replaces the one that was remembered for it. That of the blob
        itself stays what it was first; its size and time are replaced. What ``describes`` refuses
        is not remembered.
        """
        self.set_many({digest: descriptor}, repository)

    @abstractmethod
    def set_many(
        self, descriptors: Mapping[Digest, Descriptor], repository: RepositoryName | None = None
    ) -> None:
        """``set`` of each, in one round trip for every hundred."""

    def clear(self, digest: Digest, repository: RepositoryName | None = None) -> None:
        """Forget a blob, and that *repository* has it; one that is not remembered is no error.

        It takes effect at once for every repository: those that have it have to look again, and
        *repository* gets it back by ``set`` for itself only. Without a repository, the others
        have it again as soon as it is remembered again.
        """
        self.clear_many([digest], repository)

    @abstractmethod
    def clear_many(
        self, digests: Sequence[Digest], repository: RepositoryName | None = None
    ) -> None:
        """``clear`` of each, in one round trip for every hundred."""

    def stats(self) -> dict[str, int]:
        """Counters since the cache was made.

        ``requests`` are digests that it was asked for: ``hits`` that it knew, and ``misses``.
        ``errors`` are calls that failed, ``skipped`` those not made because others had failed.
        """
        return counts(0, 0)

    @abstractmethod
    def close(self) -> None:
        """Let go of what the cache holds open; it is not used again."""


def counts(hits: int, misses: int, *, errors: int = 0, skipped: int = 0) -> dict[str, int]:
    """The ``stats`` of a cache."""
    return {
        "requests": hits + misses,
        "hits": hits,
        "misses": misses,
        "errors": errors,
        "skipped": skipped,
    }


def describes(digest: Digest, descriptor: Descriptor) -> bool:
    """Whether *descriptor* can be that of the blob *digest*."""
    same = digest == descriptor.digest
    alias = digest.algorithm != CANONICAL and descriptor.digest.algorithm == CANONICAL
    return (same or alias) and descriptor.size >= 0 and descriptor.media_type != ""


class Described(NamedTuple):
    """What to remember: *descriptor* for *digest*, and if not None that *repository* has it."""

    digest: Digest
    descriptor: Descriptor
    repository: RepositoryName | None


def with_canonical(
    descriptors: Mapping[Digest, Descriptor], repository: RepositoryName | None
) -> Iterable[Described]:
    """What to remember for ``set_many``: each that can be right, then the blob it leads to."""
    for digest, descriptor in descriptors.items():
        if describes(digest, descriptor):
            yield Described(digest, descriptor, repository)
            if digest != descriptor.digest:
                yield Described(descriptor.digest, descriptor, None)

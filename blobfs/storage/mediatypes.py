"""The media types of a repository's blobs, which its manifests tell."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from itertools import chain, islice
from threading import Lock
from typing import Final

from blobfs.digest import ALGORITHMS, Descriptor, Digest
from blobfs.errors import (
    AccessDenied,
    BlobfsError,
    BlobUnknown,
    Corrupt,
    ManifestInvalid,
    StorageTimeout,
)
from blobfs.eventloop import refuse_to_take_long
from blobfs.storage.aliases import Aliases
from blobfs.storage.manifest import MEDIA_TYPES, Manifest
from blobfs.storage.revisionstore import RevisionStore

_BATCH: Final = 128
"""Revisions that are read before the callers that wait look at the results."""

_MAX_KEPT: Final = 200_000
"""Descriptors that are kept of all manifests, about 400 bytes each."""

_WAIT_S: Final = 60.0
"""The longest wait for another thread's batch."""


class ManifestMemory:
    """The descriptors in manifests, by the manifests' digests, for all repositories.

    The content of a digest never changes, so an entry is never wrong. The manifests used last
    are kept, up to *limit* descriptors. Thread-safe; the lock guards all fields.
    """

    def __init__(self, limit: int = _MAX_KEPT) -> None:
        self._limit = limit
        self._lock = Lock()
        self._kept: OrderedDict[Digest, tuple[Descriptor, ...]] = OrderedDict()
        self._size = 0

    def get(self, revision: Digest) -> tuple[Descriptor, ...] | None:
        """The descriptors of a manifest: its own and those in it; none if it is not valid."""
        with self._lock:
            found = self._kept.get(revision)
            if found is not None:
                self._kept.move_to_end(revision)
            return found

    def put(self, revision: Digest, descriptors: tuple[Descriptor, ...]) -> None:
        """Keep the descriptors of a manifest."""
        with self._lock:
            self._size += 1 + len(descriptors) - _size(self._kept.pop(revision, None))
            self._kept[revision] = descriptors
            while self._size > self._limit:
                self._size -= _size(self._kept.popitem(last=False)[1])


class MediaTypes:
    """The descriptors that a repository's manifests give to its blobs. Thread-safe.

    The registry stores no media type, so revisions are read until one describes the blob: in
    batches, each revision once, by one thread at a time. Batches that were read stay known when
    a later one fails. The lock guards the fields; no storage is asked under it.
    """

    def __init__(self, revisions: RevisionStore, aliases: Aliases, memory: ManifestMemory) -> None:
        self._revisions = revisions
        self._aliases = aliases
        self._memory = memory
        self._lock = Lock()
        self._read: set[Digest] = set()
        self._described: dict[Digest, Descriptor] = {}
        self._under_way: Future[BlobfsError | None] | None = None

    def describe(self, digest: Digest) -> Descriptor | None:
        """The descriptor that a manifest gives, by any name of the blob, or None if none does.

        Raises AccessDenied, StorageUnavailable, and TakesLong on an event loop.
        """
        names = (digest, *self._aliases.names_of(digest))
        tried: set[Digest] = set()
        while not self._is_known(names) and self._read_on(names, tried):
            pass
        return self._known_of(names)

    def learn(self, revision: Digest, payload: bytes) -> Manifest:
        """Parse a revision's *payload*, and know its descriptors; raises ManifestInvalid."""
        manifest = Manifest.parse(payload)
        self._take_up(revision, _descriptors(revision, payload, manifest))
        return manifest

    def _known_of(self, names: Sequence[Digest]) -> Descriptor | None:
        found = (self._described[name] for name in names if name in self._described)
        return next(found, None)

    def _is_known(self, names: Sequence[Digest]) -> bool:
        """Whether no revision could say better: an index may be wrong about its children."""
        known = self._known_of(names)
        return known is not None and (
            known.digest in self._read or known.media_type not in MEDIA_TYPES
        )

    def _read_on(self, names: Sequence[Digest], tried: set[Digest]) -> bool:
        """Read a batch that is not among *tried*, or wait for one; False if none is left."""
        ours: Future[BlobfsError | None] = Future()
        with self._lock:
            under_way = self._under_way
            if under_way is None:
                self._under_way = ours
        if under_way is not None:
            refuse_to_take_long()
            _wait_for(under_way)
            return True
        failure: BlobfsError | None = None
        try:
            return self._read_batch(names, tried)
        except BlobfsError as exc:
            failure = exc
            raise
        finally:
            with self._lock:  # before the others are woken, which then read on
                self._under_way = None
            ours.set_result(failure)

    def _read_batch(self, names: Sequence[Digest], tried: set[Digest]) -> bool:
        unread = [each for each in self._linked() if not self._recall(each) and each not in tried]
        if not unread:
            return False
        refuse_to_take_long()
        unread.sort(key=lambda revision: revision not in names)
        batch = unread[:_BATCH]
        tried.update(batch)
        failures = list(self._read_each(batch))
        if failures:
            raise failures[0]
        return True

    def _linked(self) -> Iterator[Digest]:
        linked = chain.from_iterable(map(self._revisions.enumerate, ALGORITHMS))
        return chain(linked, self._revisions.among_layers())

    def _recall(self, revision: Digest) -> bool:
        """Whether the revision was read, through this repository or through another."""
        if revision in self._read:
            return True
        known = self._memory.get(revision)
        if known is not None:
            self._take_up(revision, known)
        return known is not None

    def _read_each(self, batch: Sequence[Digest]) -> Iterator[BlobfsError]:
        """Read a *batch*; yield the failures that are the storage's, not a revision's."""
        for revision, payload in zip(batch, self._revisions.get_each(batch), strict=True):
            match payload:
                case bytes():
                    self._learn_anything(revision, payload)
                case Corrupt() | BlobUnknown() | AccessDenied():
                    pass  # whoever reads the manifest gets the error; it may be repaired
                case _:
                    yield payload

    def _learn_anything(self, revision: Digest, payload: bytes) -> None:
        try:
            self.learn(revision, payload)
        except ManifestInvalid:
            self._take_up(revision, ())

    def _take_up(self, revision: Digest, descriptors: tuple[Descriptor, ...]) -> None:
        self._memory.put(revision, descriptors)
        with self._lock:
            for own in islice(descriptors, 1):
                self._described[own.digest] = own
            for descriptor in descriptors[1:]:
                self._described.setdefault(descriptor.digest, descriptor)
            self._read.add(revision)


def _descriptors(revision: Digest, payload: bytes, manifest: Manifest) -> tuple[Descriptor, ...]:
    """A manifest's own descriptor, then those of its references."""
    own = Descriptor(revision, len(payload), manifest.media_type)
    return (own, *manifest.references)


def _size(descriptors: tuple[Descriptor, ...] | None) -> int:
    """The entry's share of the limit."""
    return 0 if descriptors is None else 1 + len(descriptors)


def _wait_for(batch: Future[BlobfsError | None]) -> None:
    """Wait for the batch of another thread; raises what that raised, and StorageTimeout."""
    try:
        failure = batch.result(_WAIT_S)
    except TimeoutError:
        raise StorageTimeout(f"manifests were not read within {_WAIT_S:g} s") from None
    if failure is not None:
        raise failure

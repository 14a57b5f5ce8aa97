"""The media types of a repository's blobs, from its manifests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Final

from blobfs.concurrency import SingleFlight, guard, refuse_to_take_long
from blobfs.digest import ALGORITHMS, Descriptor, Digest
from blobfs.errors import (
    AccessDenied,
    BlobfsError,
    BlobUnknown,
    Corrupt,
    ManifestInvalid,
)
from blobfs.storage.aliases import Aliases
from blobfs.storage.linkedblobstore import LinkedBlobStore
from blobfs.storage.manifest import MEDIA_TYPES, Manifest
from blobfs.storage.manifestmemory import ManifestMemory, References, key
from blobfs.storage.revisionstore import RevisionStore

_BATCH: Final = 128
"""Revisions that are read before the waiting callers check the results."""

_WAIT_S: Final = 60.0
"""The longest wait for another thread's batch."""


class MediaTypes:
    """The descriptors that a repository's manifests give to its blobs. Thread-safe.

    The storage holds no media type, so revisions are read until one describes the blob. They are
    read in batches, each revision once, by one thread at a time. The results of a batch stay valid
    if a later batch fails. One lock guards the fields; another lets one thread parse at a time. No
    storage call is made under either.

    A manifest may refer to thousands of blobs that the repository does not have. So only the
    descriptors of *layers* and of manifests are kept here. The packed references of all others
    are in *memory*, until that evicts them.
    """

    def __init__(
        self,
        revisions: RevisionStore,
        layers: LinkedBlobStore,
        aliases: Aliases,
        memory: ManifestMemory,
    ) -> None:
        self._revisions = revisions
        self._layers = layers
        self._aliases = aliases
        self._memory = memory
        self._parsing = guard()  # parsing the largest manifest takes some 30 MB
        self._lock = guard()
        self._read: set[Digest] = set()
        self._described: dict[Digest, Descriptor] = {}
        self._reading: SingleFlight[tuple[()], None] = SingleFlight()

    def describe(self, digest: Digest) -> Descriptor | None:
        """Return the blob's descriptor in a manifest, by any of its digests, or None.

        Raises AccessDenied, StorageUnavailable, and TakesLong on an event loop.
        """
        names = (digest, *self._aliases.names_of(digest))
        tried: set[Digest] = set()
        while not self._is_known(names) and self._read_on(names, tried):
            pass
        return self._known_of(names)

    def learn(self, revision: Digest, payload: bytes) -> Manifest:
        """Parse a revision's *payload* and keep its descriptors; raises ManifestInvalid."""
        manifest = Manifest.parse(payload)
        self._keep(revision, _references(revision, payload, manifest), {})
        return manifest

    def _known_of(self, names: Sequence[Digest]) -> Descriptor | None:
        found = (self._described.get(name) or self._search(name) for name in names)
        return next(filter(None, found), None)

    def _search(self, name: Digest) -> Descriptor | None:
        """Find the descriptor of a blob that became a layer after its manifest was read."""
        with self._lock:
            revisions = list(self._read)
        for references in filter(None, map(self._memory.get, revisions)):
            found = references.find(name)
            if found is not None:
                with self._lock:
                    return self._described.setdefault(name, found)
        return None

    def _is_known(self, names: Sequence[Digest]) -> bool:
        """True if a descriptor is known and final: an index may be wrong about its children."""
        known = self._known_of(names)
        return known is not None and (
            known.digest in self._read or known.media_type not in MEDIA_TYPES
        )

    def _read_on(self, names: Sequence[Digest], tried: set[Digest]) -> bool:
        """Read or await a batch; False if all revisions were read or are in *tried*."""
        goes_on: list[bool] = []  # empty after the batch of another thread
        self._reading.run((), lambda: goes_on.append(self._read_batch(names, tried)), _WAIT_S)
        return all(goes_on)

    def _read_batch(self, names: Sequence[Digest], tried: set[Digest]) -> bool:
        unread = [each for each in self._linked() if each not in self._read]
        unread = [each for each in unread if not self._recall(each) and each not in tried]
        if not unread:
            return False
        refuse_to_take_long()
        unread.sort(key=lambda revision: revision not in names)
        batch = unread[:_BATCH]
        tried.update(batch)
        failures = list(self._read_each(batch, self._layers_by_key()))
        if failures:
            raise failures[0]
        return True

    def _linked(self) -> Iterator[Digest]:
        return chain(self._revisions.enumerate_all(), self._revisions.among_layers())

    def _layers_by_key(self) -> dict[bytes, Digest]:
        linked = chain.from_iterable(map(self._layers.list_unchecked, ALGORITHMS))
        return {key(digest): digest for digest in linked}

    def _recall(self, revision: Digest) -> bool:
        """True if the revision was already read through another repository."""
        known = self._memory.get(revision)
        if known is not None:
            self._keep(revision, known, {})
        return known is not None

    def _read_each(
        self, batch: Sequence[Digest], layers: Mapping[bytes, Digest]
    ) -> Iterator[BlobfsError]:
        """Read a *batch*; yield the failures of the storage, not those of a revision."""
        for revision, references in self._revisions.map_contents(self._parse, batch):
            match references:
                case References():
                    self._keep(revision, references, layers)
                case Corrupt() | BlobUnknown() | AccessDenied():
                    pass  # a reader of the manifest gets the error; it may be repaired
                case _:
                    yield references

    def _parse(self, revision: Digest, payload: bytes) -> References:
        with self._parsing:
            try:
                return _references(revision, payload, Manifest.parse(payload))
            except ManifestInvalid:
                return References.of(())

    def _keep(
        self, revision: Digest, references: References, layers: Mapping[bytes, Digest]
    ) -> None:
        self._memory.put(revision, references)
        own = references.find(revision)
        described = list(references.find_each(layers)) if layers else []
        with self._lock:
            if own is not None:
                self._described[revision] = own
            for descriptor in described:
                self._described.setdefault(descriptor.digest, descriptor)
            self._read.add(revision)


def _references(revision: Digest, payload: bytes, manifest: Manifest) -> References:
    own = Descriptor(revision, len(payload), manifest.media_type)
    return References.of((own, *manifest.references))

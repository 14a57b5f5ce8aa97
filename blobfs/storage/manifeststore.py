"""The manifests that a repository has revisions of, and what they say of its blobs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from blobfs.digest import ALGORITHMS, Descriptor, Digest
from blobfs.errors import (
    AccessDenied,
    BlobUnknown,
    Corrupt,
    ManifestInvalid,
    ManifestRejected,
    ManifestUnknown,
    TooLarge,
)
from blobfs.storage.aliases import Aliases
from blobfs.storage.blobstore import MAX_CONTENT, BlobStore
from blobfs.storage.linkedblobstore import LinkedBlobStore
from blobfs.storage.manifest import Manifest
from blobfs.storage.revisionstore import RevisionStore


class ManifestStore:
    """Reads manifests by digest, through the repository's revision links, and puts them there.

    *layers* are the blobs that a manifest may refer to.
    """

    def __init__(self, links: RevisionStore, layers: LinkedBlobStore) -> None:
        self.links = links
        self._layers = layers

    def put(self, payload: bytes) -> Descriptor:
        """Store a manifest, byte for byte, as a revision of the repository.

        Raises ManifestRejected for what is none, or refers to a blob or a manifest that the
        repository does not have, unless that is foreign; TooLarge above ``MAX_CONTENT`` bytes.
        """
        manifest = self._validated(payload)
        return replace(self.links.put(payload), media_type=manifest.media_type)

    def mount(self, digest: Digest, source: LinkedBlobStore | BlobStore) -> Descriptor:
        """Link a manifest that *source* has; raises ManifestRejected, and what ``source`` does."""
        self._validated(source.get(digest))
        return self.links.mount(digest, source)

    def _validated(self, payload: bytes) -> Manifest:
        if len(payload) > MAX_CONTENT:
            raise TooLarge(f"{len(payload)} bytes are too many for a manifest")
        try:
            manifest = Manifest.to_be_stored(payload)
        except ManifestInvalid as exc:
            raise ManifestRejected(f"is not a manifest: {exc}") from None
        has = self._has_child if manifest.is_index else self._layers.stat_now
        for reference in manifest.references:
            if reference.digest not in manifest.foreign:
                try:
                    has(reference.digest)
                except (BlobUnknown, Corrupt) as exc:
                    what = "manifest" if manifest.is_index else "blob"
                    raise ManifestRejected(f"refers to a {what} that is missing: {exc}") from None
        return manifest

    def _has_child(self, digest: Digest) -> None:
        """Raise BlobUnknown, Corrupt unless an index may have the child: a cache has layers."""
        try:
            self.links.stat_now(digest)
        except BlobUnknown:
            self._layers.stat_now(digest)

    def payload(self, digest: Digest) -> bytes:
        """The manifest's bytes, as they were pushed; raises ManifestUnknown, Corrupt."""
        try:
            return self.links.get(digest)
        except BlobUnknown:
            raise ManifestUnknown(digest) from None

    def get(self, digest: Digest) -> Manifest:
        """The manifest; raises ManifestUnknown, ManifestInvalid and other Corrupt."""
        try:
            return Manifest.parse(self.payload(digest))
        except ManifestInvalid as exc:
            raise ManifestInvalid(f"manifest {digest}: {exc}") from None


class MediaTypes:
    """What a repository's manifests say that its blobs are.

    The registry stores no media type, so every revision has to be read; each is once, as
    none ever changes. Thread-safe.
    """

    def __init__(self, manifests: ManifestStore, aliases: Aliases) -> None:
        self._manifests = manifests
        self._aliases = aliases
        self._lock = threading.Lock()
        self._read: set[Digest] = set()
        self._described: dict[Digest, Descriptor] = {}

    def describe(self, digest: Digest) -> Descriptor | None:
        """The descriptor that a manifest gives, by any name of the blob, or None if none does."""
        names = (digest, *self._aliases.names_of(digest))
        known = self._known_of(names)
        if known is not None:  # to wait while another thread reads on is not needed
            return known
        with self._lock:
            if self._known_of(names) is None:
                self._read_new_revisions()
            return self._known_of(names)

    def _known_of(self, names: Sequence[Digest]) -> Descriptor | None:
        found = (self._described[name] for name in names if name in self._described)
        return next(found, None)

    def _read_new_revisions(self) -> None:
        links = self._manifests.links
        linked = chain.from_iterable(map(links.enumerate, ALGORITHMS))
        for revision in chain(linked, links.among_layers()):
            if revision not in self._read:
                self._read_revision(revision)

    def _read_revision(self, revision: Digest) -> None:
        # Whoever reads a manifest that is refused here is told so.
        try:
            payload = self._manifests.payload(revision)
        except (Corrupt, ManifestUnknown, AccessDenied):
            return  # until it is repaired
        self._read.add(revision)
        try:
            self.learn(revision, payload)
        except ManifestInvalid:
            return

    def learn(self, revision: Digest, payload: bytes) -> Manifest:
        """The manifest that a revision's *payload* is; what it says is known from now on.

        Raises ManifestInvalid.
        """
        manifest = Manifest.parse(payload)
        self._described[revision] = Descriptor(revision, len(payload), manifest.media_type)
        for reference in manifest.references:
            self._described.setdefault(reference.digest, reference)
        return manifest

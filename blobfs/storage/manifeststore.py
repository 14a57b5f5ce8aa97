"""The manifests that a repository has revisions of, and what they say of its blobs."""

from __future__ import annotations

import threading
from dataclasses import replace

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
from blobfs.storage.blobstore import MAX_CONTENT, BlobStore
from blobfs.storage.linkedblobstore import LinkedBlobStore
from blobfs.storage.manifest import Manifest


class ManifestStore:
    """Reads manifests by digest, through the repository's revision links, and puts them there.

    *layers* are the blobs that a manifest may refer to.
    """

    def __init__(self, links: LinkedBlobStore, layers: LinkedBlobStore) -> None:
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
            manifest = Manifest.parse(payload)
        except ManifestInvalid as exc:
            raise ManifestRejected(f"is not a manifest: {exc}") from None
        needed = self.links if manifest.is_index else self._layers
        for reference in manifest.references:
            if reference.digest not in manifest.foreign:
                try:
                    needed.stat_now(reference.digest)
                except (BlobUnknown, Corrupt) as exc:
                    what = "manifest" if manifest.is_index else "blob"
                    raise ManifestRejected(f"refers to a {what} that is missing: {exc}") from None
        return manifest

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

    def __init__(self, manifests: ManifestStore) -> None:
        self._manifests = manifests
        self._lock = threading.Lock()
        self._read: set[Digest] = set()
        self._described: dict[Digest, Descriptor] = {}

    def describe(self, digest: Digest) -> Descriptor | None:
        """The descriptor that a manifest gives, or None if none speaks of the blob."""
        if digest in self._described:  # to wait while another thread reads on is not needed
            return self._described[digest]
        with self._lock:
            if digest not in self._described:
                self._read_new_revisions()
            return self._described.get(digest)

    def _read_new_revisions(self) -> None:
        for algorithm in ALGORITHMS:
            for revision in self._manifests.links.enumerate(algorithm):
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

"""The manifests that a repository has revisions of, and what they say of its blobs."""

from __future__ import annotations

import threading

from blobfs.digest import ALGORITHMS, Descriptor, Digest
from blobfs.errors import AccessDenied, BlobUnknown, Corrupt, ManifestInvalid, ManifestUnknown
from blobfs.storage.linkedblobstore import LinkedBlobStore
from blobfs.storage.manifest import Manifest


class ManifestStore:
    """Reads manifests by digest, through the repository's revision links."""

    def __init__(self, links: LinkedBlobStore) -> None:
        self.links = links

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
            manifest = Manifest.parse(payload)
        except ManifestInvalid:
            return
        self._described[revision] = Descriptor(revision, len(payload), manifest.media_type)
        for reference in manifest.references:
            self._described.setdefault(reference.digest, reference)

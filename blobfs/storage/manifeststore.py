"""The manifests of a repository."""

from __future__ import annotations

from dataclasses import replace

from blobfs.digest import Descriptor, Digest
from blobfs.errors import (
    BlobUnknown,
    Corrupt,
    ManifestIncomplete,
    ManifestInvalid,
    ManifestRejected,
    ManifestUnknown,
    TooLarge,
)
from blobfs.storage.blobstore import MAX_CONTENT, BlobStore
from blobfs.storage.linkedblobstore import LinkedBlobStore
from blobfs.storage.manifest import Manifest
from blobfs.storage.revisionstore import RevisionStore


class ManifestStore:
    """Reads and stores the manifests of a repository by digest. Thread-safe.

    *links* are its revisions, *layers* the blobs that a manifest may refer to.
    """

    def __init__(self, links: RevisionStore, layers: LinkedBlobStore) -> None:
        self.links = links
        self._layers = layers

    def put(self, payload: bytes) -> Descriptor:
        """Store a manifest unchanged, as a revision of the repository.

        Raises ManifestRejected for an invalid manifest; ManifestIncomplete for one that refers to a
        missing blob or manifest that is not foreign; TooLarge above ``MAX_CONTENT`` bytes.
        """
        manifest = self._validated(payload)
        return replace(self.links.put(payload), media_type=manifest.media_type)

    def mount(self, digest: Digest, source: LinkedBlobStore | BlobStore) -> Descriptor:
        """Link a manifest of *source*; raises ManifestRejected, and the errors of *source*."""
        self._validated(source.get(digest))
        return self.links.mount(digest, source)

    def _validated(self, payload: bytes) -> Manifest:
        if len(payload) > MAX_CONTENT:
            raise TooLarge(f"a manifest has at most {MAX_CONTENT} bytes, not {len(payload)}")
        try:
            manifest = Manifest.to_be_stored(payload)
        except ManifestInvalid as exc:
            raise ManifestRejected(f"is not a manifest: {exc}") from None
        check = self._check_child if manifest.is_index else self._layers.stat_now
        for reference in manifest.references:
            if reference.digest not in manifest.foreign:
                try:
                    check(reference.digest)
                except (BlobUnknown, Corrupt) as exc:
                    what = "manifest" if manifest.is_index else "blob"
                    raise ManifestIncomplete(
                        f"refers to a {what} that is missing: {exc}", reference.digest
                    ) from None
        return manifest

    def _check_child(self, digest: Digest) -> None:
        """Raise BlobUnknown or Corrupt if an index may not have the child.

        A build cache is an index whose children are layers.
        """
        try:
            self.links.stat_now(digest)
        except BlobUnknown:
            self._layers.stat_now(digest)

    def payload(self, digest: Digest) -> bytes:
        """Return the manifest's bytes as they were pushed; raises ManifestUnknown, Corrupt."""
        try:
            return self.links.get(digest)
        except BlobUnknown:
            raise ManifestUnknown(digest) from None

    def get(self, digest: Digest) -> Manifest:
        """Return the parsed manifest; raises ManifestUnknown, ManifestInvalid and other Corrupt."""
        try:
            return Manifest.parse(self.payload(digest))
        except ManifestInvalid as exc:
            raise ManifestInvalid(f"manifest {digest}: {exc}") from None

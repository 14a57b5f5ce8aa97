"""The manifests that a repository has revisions of."""

from __future__ import annotations

from dataclasses import replace

from blobfs.digest import Descriptor, Digest
from blobfs.errors import (
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

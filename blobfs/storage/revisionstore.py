"""A repository's manifest revisions, including those that an old registry linked as layers.

Registry 2.1.0 linked manifests below ``_layers`` (distribution#864). Every later registry also
searches them there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from blobfs import paths
from blobfs.digest import Descriptor, Digest
from blobfs.drivers.base import StorageDriver
from blobfs.errors import BlobDamaged, BlobUnknown, ManifestInvalid
from blobfs.reference import RepositoryName
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.events import Events
from blobfs.storage.linkedblobstore import LinkedBlobStore
from blobfs.storage.manifest import Manifest


class RevisionStore(LinkedBlobStore):
    """The revisions of *repository*. A layer whose content is a manifest counts as a revision.

    Such layers are found by digest only, not in listings. Thread-safe: the set of those found only
    grows, by atomic calls.
    """

    def __init__(
        self,
        driver: StorageDriver,
        blobs: BlobStore,
        repository: RepositoryName,
        events: Events,
    ) -> None:
        super().__init__(driver, blobs, paths.revisions(repository), events)
        self._layers = LinkedBlobStore(driver, blobs, paths.layers(repository))
        self._among_layers: set[Digest] = set()

    def resolve(self, digest: Digest) -> Digest:
        try:
            return super().resolve(digest)
        except BlobUnknown:
            target = self._layers.resolve(digest)
        if target not in self._among_layers:
            try:
                Manifest.parse(self._blobs.get(target))
            except (BlobDamaged, ManifestInvalid):
                raise BlobUnknown(digest) from None
            self._among_layers.add(target)
        return target

    def stat_now(self, digest: Digest) -> Descriptor:
        try:
            return super().stat_now(digest)
        except BlobUnknown:
            self.resolve(digest)
            return self._layers.stat_now(digest)

    def has(self, digest: Digest) -> bool:
        """True if it has a revision link, or was found among the layers before."""
        return digest in self._among_layers or bool(self.existing([digest]))

    def among_layers(self) -> Iterator[Digest]:
        """The manifests that lookups have found among the layers."""
        return iter(list(self._among_layers))

    def delete(self, digest: Digest) -> None:
        """Remove both links, as a registry does; a layer that is no manifest stays."""
        if self.existing([digest]):
            super().delete(digest)
            with suppress(BlobUnknown):
                self._layers.delete(digest)
            return
        self.resolve(digest)
        self._layers.delete(digest)
        self.events.deleted(digest)

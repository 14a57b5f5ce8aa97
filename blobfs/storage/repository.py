"""One repository: its layers, manifests, tags and uploads."""

from __future__ import annotations

from blobfs.digest import Descriptor
from blobfs.drivers.base import StorageDriver
from blobfs.errors import BlobfsError
from blobfs.reference import RepositoryName, Tag
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.events import NULL_LISTENER, Action, Listener, ManifestEvents
from blobfs.storage.leftovers import LeftOvers
from blobfs.storage.linkedblobstore import LayerStore
from blobfs.storage.manifestmemory import ManifestMemory
from blobfs.storage.manifeststore import ManifestStore
from blobfs.storage.mediatypes import MediaTypes
from blobfs.storage.revisionstore import RevisionStore
from blobfs.storage.tagstore import TagStore
from blobfs.storage.tagtrash import TagTrash
from blobfs.storage.uploads.manifestuploads import CopiedManifests, ManifestUploadStore
from blobfs.storage.uploads.manifestwriter import UploadTags
from blobfs.storage.uploads.store import StoredUploads, UploadStore, is_of_copy


class Repository:
    """The stores of one repository, which need not exist yet. Thread-safe, like each store.

    *listener* receives the events of all stores. Repositories share *memory*, the references of
    manifests.
    """

    def __init__(
        self,
        driver: StorageDriver,
        blobs: BlobStore,
        name: RepositoryName,
        listener: Listener = NULL_LISTENER,
        memory: ManifestMemory | None = None,
    ) -> None:
        self.name = name
        self._listener = listener
        events = ManifestEvents(name, blobs, listener)
        revisions = RevisionStore(driver, blobs, name, events)
        self.layers = LayerStore(driver, blobs, name, LeftOvers(revisions, blobs).include, listener)
        self.manifests = ManifestStore(revisions, self.layers)
        self.tags = TagStore(driver, blobs, name, events)
        self.trash = TagTrash(driver, self.tags, revisions)
        self.uploads = UploadStore(driver, blobs, self.layers, name)
        upload_tags = UploadTags(self.tags)
        copies = CopiedManifests(driver, blobs, self.manifests, upload_tags)
        self.manifest_uploads = ManifestUploadStore(self.manifests, upload_tags, copies)
        self.media_types = MediaTypes(
            revisions, self.layers, blobs.aliases, memory or ManifestMemory()
        )

    def store_of(self, upload_id: str) -> StoredUploads:
        """Return the store of a stored upload, of a blob or of a copied manifest."""
        return self.manifest_uploads.stored if is_of_copy(upload_id) else self.uploads

    def pulled(self, descriptor: Descriptor, tag: Tag | None = None) -> None:
        """Report the start of a read of a blob, or of a manifest, by *tag* if that was used."""
        if Action.PULL in self._listener.actions:
            digest = descriptor.digest
            try:
                is_manifest = self.manifests.links.has(digest)
            except BlobfsError:
                is_manifest = False  # the reader must not get this error
            links = self.manifests.links if is_manifest else self.layers
            links.events.pulled(digest, descriptor.size, tag)

"""One repository: its layers, manifests, tags and uploads."""

from __future__ import annotations

from blobfs import paths
from blobfs.drivers.base import StorageDriver
from blobfs.reference import RepositoryName
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.linkedblobstore import LinkedBlobStore
from blobfs.storage.manifeststore import ManifestStore, MediaTypes
from blobfs.storage.manifestuploads import ManifestUploadStore
from blobfs.storage.tagstore import TagStore
from blobfs.storage.uploadstore import UploadStore


class Repository:
    """The services of one repository, which need not exist yet."""

    def __init__(self, driver: StorageDriver, blobs: BlobStore, name: RepositoryName) -> None:
        self.name = name
        self.layers = LinkedBlobStore(driver, blobs, paths.layers(name))
        revisions = LinkedBlobStore(driver, blobs, paths.revisions(name))
        self.manifests = ManifestStore(revisions, self.layers)
        self.tags = TagStore(driver, blobs, name)
        self.uploads = UploadStore(driver, blobs, self.layers, name)
        self.manifest_uploads = ManifestUploadStore(self.manifests, self.tags)
        self.media_types = MediaTypes(self.manifests)

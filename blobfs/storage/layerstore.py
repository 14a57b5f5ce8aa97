"""A repository's layers, which the descriptor cache remembers by repository."""

from __future__ import annotations

from collections.abc import Sequence

from blobfs import paths
from blobfs.digest import Descriptor, Digest
from blobfs.drivers.base import StorageDriver
from blobfs.reference import RepositoryName
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.descriptors import CachedStatter
from blobfs.storage.events import NOBODY, BlobEvents, Listener
from blobfs.storage.linkedblobstore import LinkedBlobStore


class LayerStore(LinkedBlobStore):
    """The layers of *repository*: one that the cache has is there without a look at its link.

    Revisions are not remembered so. A cache cannot tell a revision from a layer, and would make
    a layer of each; of their blobs alone it tells whoever has read the link.
    """

    def __init__(
        self,
        driver: StorageDriver,
        blobs: BlobStore,
        repository: RepositoryName,
        listener: Listener = NOBODY,
    ) -> None:
        events = BlobEvents(repository, listener)
        super().__init__(driver, blobs, paths.layers(repository), events)
        self._statter = CachedStatter(
            blobs.descriptors, self._stat_stored, blobs.stat_stored, repository
        )

    def stat(self, digest: Digest) -> Descriptor:
        return self._statter.stat(digest)

    def _stat_stored(self, digest: Digest) -> Descriptor:
        return self._described(digest, self._blobs.stat_stored)

    def prefetch(self, digests: Sequence[Digest]) -> None:
        self._statter.prefetch(digests, self.present, self._blobs.prefetch_stored)

    def grant(self, digest: Digest, descriptor: Descriptor) -> None:
        generation = self._blobs.descriptors.generation
        super().grant(digest, descriptor)
        names = dict.fromkeys((digest, descriptor.digest), descriptor)
        self._blobs.descriptors.set_many(names, self.events.repository, generation)

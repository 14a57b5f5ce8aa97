"""A repository's layers, which the descriptor cache remembers by repository."""

from __future__ import annotations

from collections.abc import Sequence

from blobfs import metrics, paths
from blobfs.digest import Descriptor, Digest
from blobfs.drivers.base import StorageDriver
from blobfs.errors import AccessDenied, BlobUnknown, Corrupt, LinkDangling
from blobfs.reference import RepositoryName
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.descriptors import CachedBlobStatter
from blobfs.storage.events import NULL_LISTENER, BlobEvents, Listener
from blobfs.storage.leftovers import LeftOvers
from blobfs.storage.linkedblobstore import LinkedBlobStore


class LayerStore(LinkedBlobStore):
    """The layers of *repository*: one that the cache has is there without a look at its link.

    Revisions are not remembered so. A cache cannot tell a revision from a layer, and would make
    a layer of each; of their blobs alone it tells whoever has read the link.

    A link whose blob is missing is damage, unless *left_overs* include it: then a garbage
    collection has removed the layer, which is unknown.
    """

    def __init__(
        self,
        driver: StorageDriver,
        blobs: BlobStore,
        repository: RepositoryName,
        left_overs: LeftOvers,
        listener: Listener = NULL_LISTENER,
    ) -> None:
        events = BlobEvents(repository, listener)
        self._left_overs = left_overs
        super().__init__(driver, blobs, paths.layers(repository), events)
        self._statter = CachedBlobStatter(
            blobs.descriptors, self._stat_stored, blobs.stat_stored, repository
        )

    def stat(self, digest: Digest) -> Descriptor:
        descriptor = self._statter.stat(digest)
        # The cache may be shared with others, and hold an alias that nobody here has verified.
        self._blobs.verify_name(digest, descriptor.digest)
        return descriptor

    def _stat_stored(self, digest: Digest) -> Descriptor:
        try:
            return self._described(digest, self._blobs.stat_stored)
        except LinkDangling:
            if not self._left_overs.include(digest, self.resolve(digest)):
                raise
            metrics.LEFT_OVER_LINKS.inc()
            raise BlobUnknown(digest) from None

    def existing(self, digests: Sequence[Digest]) -> list[Digest]:
        """Those of *digests* that are linked, without links that are left over.

        An object store is not asked for blobs again: those are kept as long as names are.
        """
        linked = super().existing(digests)
        if self._driver.is_object_store:
            return linked
        stored = set(self._blobs.existing(linked))
        return [digest for digest in linked if digest in stored or self._shows(digest)]

    def _shows(self, digest: Digest) -> bool:
        try:
            self._stat_stored(digest)
        except BlobUnknown:
            return False
        except (Corrupt, AccessDenied):
            pass  # it is there, and whoever looks at it is told
        return True

    def prefetch(self, digests: Sequence[Digest]) -> None:
        self._statter.prefetch(digests, self.existing, self._blobs.prefetch_stored)

    def link_blob(self, digest: Digest, descriptor: Descriptor) -> None:
        generation = self._blobs.descriptors.generation
        super().link_blob(digest, descriptor)
        names = dict.fromkeys((digest, descriptor.digest), descriptor)
        self._blobs.descriptors.set_many(names, self.events.repository, generation)

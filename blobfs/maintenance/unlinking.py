"""Layer links whose blob is gone and that no manifest needs, and their removal."""

from __future__ import annotations

from functools import lru_cache

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.errors import AccessDenied, Corrupt, NotFound, PathInvalid
from blobfs.reference import RepositoryName
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.leftovers import LeftOvers
from blobfs.storage.linkedblobstore import LinkedBlobStore
from blobfs.storage.linkfiles import read_link


class LeftOverLinks:
    """Finds and removes left-over links.

    Not thread-safe. The manifests of one repository are kept, as its links follow one another.
    """

    def __init__(self, driver: StorageDriver) -> None:
        self._driver = driver
        self._blobs = BlobStore(driver)
        self._left_overs = lru_cache(maxsize=1)(self._left_overs_of)

    def _left_overs_of(self, repository: RepositoryName) -> LeftOvers:
        revisions = LinkedBlobStore(self._driver, self._blobs, paths.revisions(repository))
        return LeftOvers(revisions, self._blobs)

    def missing_blob(self, link: str) -> Digest | None:
        """Return the blob that the left-over link at the path *link* names; None for another link.

        A link that cannot be read, and one that an unreadable manifest may need, is none.
        Raises StorageUnavailable.
        """
        try:
            place = paths.parse(link)
            if place.repository is None or place.digest is None:
                return None
            target = read_link(self._driver, link)
            if self._blobs.existing([target]):
                return None
            is_left_over = self._left_overs(place.repository).include(place.digest, target)
        except (NotFound, PathInvalid, AccessDenied, Corrupt):
            return None
        return target if is_left_over else None

    def remove(self, link: str) -> bool:
        """Remove the link at the path *link*; False if it is not left over."""
        target = self.missing_blob(link)
        if target is None:
            return False
        self._driver.delete(link.rpartition("/")[0])
        return True

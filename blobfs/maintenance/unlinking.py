"""Layer links whose blob is gone and that no manifest needs, and their removal."""

from __future__ import annotations

from functools import lru_cache

from blobfs import paths
from blobfs.cache.base import DescriptorCache
from blobfs.cache.memory import NoCache
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.errors import AccessDenied, Corrupt, NotFound, PathInvalid
from blobfs.reference import RepositoryName
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.leftovers import LeftOvers
from blobfs.storage.linkedblobstore import LinkedBlobStore
from blobfs.storage.linkfiles import read_link, write_link


class LeftOverLinks:
    """Finds and removes left-over links beside registries, which may store their blobs again.

    What is removed is cleared in *cache*. Not thread-safe. The manifests of one repository are
    kept, as its links follow one another.
    """

    def __init__(self, driver: StorageDriver, cache: DescriptorCache | None = None) -> None:
        self._driver = driver
        self._cache = cache or NoCache()
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
        """Remove the link at the path *link*; False if it is not left over.

        A registry stores a blob before it links it. So the blob is looked for after the removal,
        and a link that a registry has written before is written again.
        """
        target = self.missing_blob(link)
        if target is None:
            return False
        self._driver.delete(link)  # and not its directory, to which a registry may write
        try:
            is_stored = bool(self._blobs.existing([target]))
        except BaseException:
            write_link(self._driver, link, target)
            raise
        if is_stored:
            write_link(self._driver, link, target)
        self._driver.prune(link.rpartition("/")[0])
        place = paths.parse(link)
        names = {target, place.digest or target}
        self._cache.clear_many(list(names), place.repository)
        return not is_stored

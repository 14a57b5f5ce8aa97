"""A repository's tags."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from blobfs import paths
from blobfs.digest import CANONICAL, Digest
from blobfs.drivers.base import StorageDriver
from blobfs.errors import AccessDenied, NameInvalid, PathNotFound, TagUnknown
from blobfs.reference import RepositoryName, Tag
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.events import Events
from blobfs.storage.linkedblobstore import LinkedBlobStore
from blobfs.storage.linkfiles import read_link, write_link


class TagStore:
    """The tags of *repository*, and the history of each. Thread-safe."""

    def __init__(
        self,
        driver: StorageDriver,
        blobs: BlobStore,
        repository: RepositoryName,
        events: Events | None = None,
    ) -> None:
        self._driver = driver
        self._metadata = blobs.metadata
        self._blobs = blobs
        self.repository = repository
        self._events = events or Events()

    def get(self, tag: Tag) -> Digest:
        """Return the digest of the tagged revision; raises TagUnknown, LinkInvalid."""
        path = paths.tag_current_link(self.repository, tag)
        if self._driver.is_object_store:
            for digest in self.history(tag).list_unchecked(CANONICAL):
                if self._metadata.is_known_to_hold(path, str(digest).encode("ascii")):
                    return digest
        return self.get_now(tag)

    def get_now(self, tag: Tag) -> Digest:
        """Do the same as ``get`` from the link itself, for writers; raises the same errors."""
        try:
            return read_link(self._driver, paths.tag_current_link(self.repository, tag))
        except PathNotFound:
            raise TagUnknown(tag) from None

    def mtime_ns(self, tag: Tag) -> int:
        """Return the time of the last tagging, 0 if access is denied; raises TagUnknown."""
        try:
            return self._driver.stat(paths.tag_current_link(self.repository, tag)).mtime_ns
        except PathNotFound:
            raise TagUnknown(tag) from None
        except AccessDenied:
            return 0  # it exists; a later read raises the error

    def exists(self, tag: Tag) -> bool:
        """True if the tag has a current link, which may be damaged."""
        try:
            self.mtime_ns(tag)
        except TagUnknown:
            return False
        return True

    def tag(self, tag: Tag, digest: Digest) -> None:
        """Set *tag* to the revision *digest* atomically and durably, and add it to the history."""
        # The index first, so that the current revision is always in the history.
        self.history(tag).link(digest, digest)
        write_link(self._driver, paths.tag_current_link(self.repository, tag), digest)
        self._events.tagged(tag, digest)

    def untag(self, tag: Tag) -> None:
        """Remove the tag and its history; raises TagUnknown."""
        try:
            self._driver.delete(paths.tag(self.repository, tag))
        except PathNotFound:
            raise TagUnknown(tag) from None
        self._events.untagged(tag)

    def rename(self, old: Tag, new: Tag) -> None:
        """Rename a tag with its history; an existing *new* is replaced. Raises TagUnknown."""
        current = self.get_now(old)
        if new == old:
            return
        self.add_history(new, list(self.history(old).enumerate_all()))
        self.tag(new, current)
        self.untag(old)

    def enumerate(self) -> Iterator[Tag]:
        """Every tag that has a current link, in no order; no link is read."""
        for tag in self.list_unchecked():
            if self.exists(tag):
                yield tag

    def list_unchecked(self) -> Iterator[Tag]:
        """Like ``enumerate``, but including tags without a current link, and much cheaper."""
        try:
            entries = self._driver.listdir(paths.tags(self.repository))
        except PathNotFound:
            return
        for entry in entries:
            try:
                tag = Tag(entry.name)
            except NameInvalid:
                continue  # a stray file or directory
            if entry.is_dir:
                yield tag

    def add_history(self, tag: Tag, digests: Iterable[Digest]) -> None:
        """Add revisions to the history of *tag*, which need not exist."""
        history = self.history(tag)
        for digest in digests:
            history.link(digest, digest)

    def history(self, tag: Tag) -> LinkedBlobStore:
        """Return the link set of all revisions that the tag was ever set to."""
        return LinkedBlobStore(self._driver, self._blobs, paths.tag_index(self.repository, tag))

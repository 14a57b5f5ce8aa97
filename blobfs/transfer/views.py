"""The content of a storage, as its registry shows it: one request for each question."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

from blobfs.concurrency import CallLock
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver, map_each
from blobfs.errors import BlobUnknown, Corrupt
from blobfs.inventory.rows import LinkKind
from blobfs.reference import Tag
from blobfs.storage.linkedblobstore import LinkedBlobStore
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository
from blobfs.transfer.base import Outline
from blobfs.transfer.outlines import outline_of


class StorageView:
    """The content of the registry that ``use`` sets before any other call.

    Thread-safe: ``_reading`` lets one thread read the manifests of a repository for all.
    """

    _registry: Registry
    _driver: StorageDriver
    unreadable: Collection[str] = frozenset()
    """The repositories whose directories could not all be read."""

    def __init__(self) -> None:
        self._reading = CallLock()
        self._subjects: dict[str, Mapping[Digest, Sequence[Digest]]] = {}

    def use(self, registry: Registry, driver: StorageDriver) -> None:
        """Ask *registry*, whose driver is *driver*."""
        self._registry = registry
        self._driver = driver

    def repositories(self) -> Sequence[str]:
        """The names of all repositories, sorted."""
        return sorted(self._registry.enumerate())

    def tags(self, repository: str) -> Iterator[Tag]:
        """The tags of a repository; raises RepositoryUnknown."""
        return self._registry.existing(repository).tags.enumerate()

    def tagged(self, repository: str, tag: Tag) -> Digest:
        """The revision that has *tag*; raises TagUnknown, LinkInvalid."""
        return self._repository(repository).tags.get_now(tag)

    def tagged_ns(self, repository: str, tag: Tag) -> int:
        """The time of the last tagging; raises TagUnknown."""
        return self._repository(repository).tags.mtime_ns(tag)

    def history(self, repository: str, tag: Tag) -> Sequence[Digest]:
        """The revisions that had *tag*."""
        return list(self._repository(repository).tags.history(tag).enumerate_all())

    def digests(self, repository: str, kind: LinkKind) -> Iterator[Digest]:
        """The digests of a link set; raises RepositoryUnknown."""
        self._registry.existing(repository)
        return self._links(repository, kind).enumerate_all()

    def referrers(self, repository: str, digest: Digest) -> Sequence[Digest]:
        """The revisions whose subject is *digest*."""
        with self._reading:
            if repository not in self._subjects:
                self._subjects[repository] = self._read_subjects(repository)
        return self._subjects[repository].get(digest, ())

    def _read_subjects(self, repository: str) -> Mapping[Digest, Sequence[Digest]]:
        found: defaultdict[Digest, list[Digest]] = defaultdict(list)
        links = self._links(repository, LinkKind.REVISION)
        for digest, outline in links.map_contents(_outline_or_none, list(links.enumerate_all())):
            if isinstance(outline, Outline) and outline.subject is not None:
                found[outline.subject].append(digest)
        return found

    def outline(self, repository: str, digest: Digest) -> Outline:
        """The outline of a manifest; raises ManifestUnknown, Corrupt."""
        return outline_of(digest, self._repository(repository).manifests.payload(digest))

    def resolve(self, repository: str, kind: LinkKind, digest: Digest) -> Digest:
        """The digest under which a linked blob is stored; raises BlobUnknown, LinkInvalid."""
        return self._links(repository, kind).resolve(digest)

    def size(self, repository: str, digest: Digest) -> int:
        """The size of a layer; raises BlobUnknown, Corrupt."""
        return self._repository(repository).layers.stat(digest).size

    def sizes(
        self, repository: str, kind: LinkKind, digests: Sequence[Digest]
    ) -> Mapping[Digest, int]:
        """The sizes of those of *digests* that the repository serves."""
        links = self._links(repository, kind)

        def size(digest: Digest) -> int | None:
            try:
                target = links.resolve(digest)
                found = self.stored_size(target)
                self._registry.blobs.verify_name(digest, target)
            except (BlobUnknown, Corrupt):
                return None
            return found

        found = map_each(self._driver, size, digests)
        return {digest: size for digest, size in found if size is not None}

    def stored_size(self, digest: Digest) -> int | None:
        """The size of the blob that is stored under *digest*; None if it is missing or damaged."""
        return self.stored_size_now(digest)

    def stored_size_now(self, digest: Digest) -> int | None:
        """``stored_size``, asked of the storage."""
        try:
            return self._registry.blobs.stat_now(digest).size
        except (BlobUnknown, Corrupt):
            return None

    def note_link(self, repository: str, kind: LinkKind, digest: Digest, target: Digest) -> None:
        """Note a link that was stored."""

    def note_blob(self, digest: Digest, size: int) -> None:
        """Note a blob that was stored."""

    def note_tag(self, repository: str, tag: Tag, digest: Digest | None) -> None:
        """Note that *tag* was set to *digest*, or removed."""

    def close(self) -> None:
        """Release the resources, but not the registry."""

    def _repository(self, name: str) -> Repository:
        return self._registry.repository(name)

    def _links(self, repository: str, kind: LinkKind) -> LinkedBlobStore:
        found = self._repository(repository)
        return found.layers if kind is LinkKind.LAYER else found.manifests.links


def _outline_or_none(digest: Digest, payload: bytes) -> Outline | None:
    try:
        return outline_of(digest, payload)
    except Corrupt:
        return None

"""A registry's storage as a target."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from blobfs import paths
from blobfs.concurrency import CallLock
from blobfs.digest import CANONICAL, Descriptor, Digest
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.base_driver import with_base
from blobfs.drivers.batch import BatchDriver
from blobfs.drivers.copying import Copying
from blobfs.drivers.factory import concrete_driver_for
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.drivers.location import Location
from blobfs.errors import (
    BlobUnknown,
    ContentMismatch,
    Corrupt,
    DigestMismatch,
    LinkInvalid,
    ManifestInvalid,
    ManifestRejected,
    MountRefused,
    NotAFile,
    PathNotFound,
    RepositoryUnknown,
    StorageUnavailable,
    TagUnknown,
)
from blobfs.host.preflight import create_storage
from blobfs.inventory.inventory import Depth, Inventory, Progress
from blobfs.inventory.rows import LinkKind
from blobfs.reference import RepositoryName, Tag
from blobfs.storage.linkfiles import write_link
from blobfs.storage.listing.presence import with_presence
from blobfs.storage.manifest import Manifest
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository
from blobfs.transfer.base import Source, Target
from blobfs.transfer.storage import StorageSource
from blobfs.transfer.survey import SurveyedView, empty_inventory
from blobfs.transfer.views import StorageView

_LINK_SETS: Final = {LinkKind.LAYER: paths.layers, LinkKind.REVISION: paths.revisions}


class StorageTarget(Target):
    """The storage at *location*; *driver* is its driver, which is closed, or opened by default.

    A missing or empty directory, or an empty bucket, becomes a registry with the first change.
    With *link_files* blobs are hard links or reflinks of those of a source on the same file system.

    Thread-safe: ``_beginning`` lets one thread create the registry.
    """

    def __init__(
        self,
        location: str | Location,
        *,
        link_files: bool = False,
        driver: StorageDriver | None = None,
    ) -> None:
        self.location = Location.of(location)
        self._copies = link_files or self.location.bucket is not None
        self._view = StorageView()
        self._beginning = CallLock()
        self._unanswered: set[Digest] = set()
        """Blobs that may be stored since the survey: sending them has failed."""
        self._is_missing = driver is None and _is_missing(self.location)
        if driver is None and not self._is_missing:
            driver = concrete_driver_for(self.location)
        self._use(driver or InMemoryDriver())
        self._has_begun = self._registry.exists()
        if not self._has_begun and not _is_empty(self._driver):
            self.close()
            raise MountRefused(
                f"{self.location} holds other files and no registry; give an empty place,"
                " or the root of a registry"
            )

    def _use(self, concrete: StorageDriver) -> None:
        self._concrete = concrete
        self._driver = BatchDriver(with_presence(with_base(concrete)), _rank, _owner)
        self._registry = Registry(self._driver)
        self._view.use(self._registry, self._driver)

    def _begin(self) -> None:
        """Create the registry, unless it exists."""
        if not self._has_begun:
            with self._beginning:
                if not self._has_begun:
                    self._create()
                    self._has_begun = True

    def _create(self) -> None:
        root = self.location.root
        if root is None:
            self._registry.create()
            return
        if self._is_missing:
            _make(root)
            self._use(concrete_driver_for(self.location))
        create_storage(root)

    def _changed(self, name: str) -> Repository:
        """Return a repository that will be changed."""
        self._begin()
        return self._registry.repository(name)

    def survey(self, progress: Progress) -> None:
        if self.location.root is None and self.location.bucket is None:
            return  # the inventory would be of another memory
        if self._is_missing:
            inventory = empty_inventory(self.location)
        else:
            inventory = Inventory.taken(self.location, depth=Depth.LINKS, progress=progress)
        self._view = SurveyedView(inventory)
        self._view.use(self._registry, self._driver)

    def missing(self, repository: str, blobs: Sequence[Descriptor]) -> list[Descriptor]:
        sizes = self._view.sizes(repository, LinkKind.LAYER, [blob.digest for blob in blobs])
        return [blob for blob in blobs if sizes.get(blob.digest) != blob.size]

    def link(self, repository: str, blob: Descriptor, holder: str | None) -> bool:
        digest = blob.digest
        if digest.algorithm != CANONICAL:
            try:
                digest = self._view.resolve(holder or repository, LinkKind.LAYER, digest)
                self._registry.blobs.verify_name(blob.digest, digest)
            except (BlobUnknown, Corrupt):
                return False
        if digest in self._unanswered and self._view.stored_size_now(digest) == blob.size:
            self._view.note_blob(digest, blob.size)
        if self._view.stored_size(digest) != blob.size:
            return False
        if holder is None and self._view.stored_size_now(digest) != blob.size:
            return False  # nothing linked it, so a collection has deleted it since the survey
        self._changed(repository)
        self._link(repository, LinkKind.LAYER, blob.digest, digest)
        return True

    def _link(self, repository: str, kind: LinkKind, name: Digest, target: Digest) -> None:
        link_set = _LINK_SETS[kind](RepositoryName(repository))
        for digest in {target, name}:
            write_link(self._driver, paths.link(link_set, digest), target)
            self._view.note_link(repository, kind, digest, target)

    def put_blob(self, repository: str, blob: Descriptor, chunks: Iterable[bytes]) -> None:
        found, digest = self._changed(repository), blob.digest
        if digest.algorithm == CANONICAL:
            try:
                self._registry.blobs.copy(digest, chunks)
            except StorageUnavailable:
                self._unanswered.add(digest)
                raise
        else:
            digest = _upload(found, blob, chunks)
        self._view.note_blob(digest, blob.size)
        self._link(repository, LinkKind.LAYER, blob.digest, digest)

    def copy(self, source: Source, origin: str, repository: str, blob: Descriptor) -> bool:
        if not isinstance(source, StorageSource):
            return False
        stored = source.stored(origin, blob.digest)
        if stored == blob.digest:
            is_there = self._copied(source, blob)
        else:  # only the bytes show that it is another digest of the blob
            is_there = self._has_as(stored, blob)
        if not is_there:
            return False
        self._changed(repository)
        self._view.note_blob(stored, blob.size)
        self._link(repository, LinkKind.LAYER, blob.digest, stored)
        return True

    def _copied(self, source: StorageSource, blob: Descriptor) -> bool:
        """Have the server or the file system copy a blob; False if neither can."""
        if not self._copies:
            return False
        self._begin()
        concrete = self._concrete
        path = paths.blob_data(blob.digest)
        try:
            return isinstance(concrete, Copying) and concrete.copy_from(
                source.concrete, path, path, blob.size
            )
        except (PathNotFound, NotAFile):
            return False

    def _has_as(self, stored: Digest, blob: Descriptor) -> bool:
        """True if a blob is stored under its canonical digest, and has its other one too."""
        if self._view.stored_size_now(stored) != blob.size:
            return False
        try:
            self._registry.blobs.verify_name(blob.digest, stored)
        except (BlobUnknown, Corrupt):
            return False
        return True

    def has_manifest(self, repository: str, manifest: Descriptor) -> bool:
        sizes = self._view.sizes(repository, LinkKind.REVISION, [manifest.digest])
        return sizes.get(manifest.digest) == manifest.size

    def put_manifest(self, repository: str, digest: Digest, payload: bytes) -> None:
        self._changed(repository)
        self._check(repository, payload)
        canonical = Digest.of(payload)
        if Digest.of(payload, digest.algorithm) != digest:
            raise DigestMismatch(f"the content of manifest {digest} does not match its digest")
        if not self._has_stored(canonical, len(payload)):
            self._registry.blobs.copy(canonical, (payload,))
            self._view.note_blob(canonical, len(payload))
        self._link(repository, LinkKind.REVISION, digest, canonical)

    def _has_stored(self, digest: Digest, size: int) -> bool:
        """True if a blob is stored, and no collection has deleted it since the survey."""
        return self._view.stored_size(digest) == size == self._view.stored_size_now(digest)

    def _check(self, repository: str, payload: bytes) -> None:
        """Raise ManifestRejected unless the repository serves all that a manifest refers to."""
        try:
            manifest = Manifest.parse(payload)
        except ManifestInvalid as exc:
            raise ManifestRejected(f"is not a manifest: {exc}") from None
        needed = [each.digest for each in manifest.references]
        needed = [digest for digest in needed if digest not in manifest.foreign]
        kinds = [LinkKind.REVISION, LinkKind.LAYER] if manifest.is_index else [LinkKind.LAYER]
        for kind in kinds:
            served = self._view.sizes(repository, kind, needed)
            needed = [digest for digest in needed if digest not in served]
        if needed:
            raise ManifestRejected(f"refers to {needed[0]}, which {repository} does not have")

    def tag(self, repository: str, tag: Tag, digest: Digest, history: Sequence[Digest]) -> None:
        tags = self._changed(repository).tags
        known = self._view.history(repository, tag) if history else ()
        tags.add_history(tag, set(history).difference(known))
        with suppress(TagUnknown, LinkInvalid):
            if digest in known and self._view.tagged(repository, tag) == digest:
                return
        tags.tag(tag, digest)
        self._view.note_tag(repository, tag, digest)

    def repositories(self) -> Iterator[str]:
        return iter(self._view.repositories())

    def tags(self, repository: str) -> Iterator[Tag]:
        try:
            return self._view.tags(repository)
        except RepositoryUnknown:
            return iter(())

    def tagged(self, repository: str, tag: Tag) -> Digest:
        return self._view.tagged(repository, tag)

    def untag(self, repository: str, tag: Tag) -> None:
        with suppress(TagUnknown):
            self._registry.repository(repository).tags.untag(tag)
        self._view.note_tag(repository, tag, None)

    def remove(self, repository: str) -> None:
        self._registry.remove(RepositoryName(repository))

    def flush(self) -> None:
        self._driver.flush()

    def refusal(self, repository: str) -> str | None:
        return self._driver.refused.get(repository)

    def finish(self) -> None:
        self._begin()
        self._driver.flush()

    def close(self) -> None:
        self._view.close()
        self._registry.close()


def _is_missing(location: Location) -> bool:
    """True if *location* is a directory that can be made; raises MountRefused."""
    root = location.root
    if root is None or root.is_dir():
        return False
    if root.exists():
        raise MountRefused(f"{root} is not a directory; give a directory or an image layout")
    if not root.parent.is_dir():
        raise MountRefused(f"{root.parent} does not exist; create it, or check the path")
    return True


def _make(root: Path) -> None:
    try:
        root.mkdir(exist_ok=True)
    except OSError as exc:
        raise MountRefused(f"cannot make {root}: {exc.strerror}") from None


def _is_empty(driver: StorageDriver) -> bool:
    names = {entry.name for entry in driver.listdir("/")}
    return not names - {"lost+found"}


def _rank(path: str) -> int:
    """The place of a file in the order of storing: blobs, layers, revisions, history, tags."""
    part = path.partition("/_")[2]
    if part.startswith("layers/"):
        return 1
    if part.startswith("manifests/revisions/"):
        return 2
    if part.startswith("manifests/tags/"):
        return 4 if part.endswith("/current/link") else 3
    return 0


def _owner(path: str) -> str:
    """The name of the repository that a file is in; empty for a blob."""
    name, has_part, _ = path.removeprefix(f"{paths.REPOSITORIES}/").partition("/_")
    return name if has_part else ""


def _upload(repository: Repository, blob: Descriptor, chunks: Iterable[bytes]) -> Digest:
    """Store a blob with an alias, and return its canonical digest."""
    upload = repository.uploads.create(digest=blob.digest, size=blob.size)
    with closing(upload):
        try:
            for chunk in chunks:
                upload.write(chunk)
            return upload.commit().digest
        except ContentMismatch as exc:
            upload.cancel()
            raise DigestMismatch(str(exc)) from None
        except BaseException:
            upload.cancel()
            raise

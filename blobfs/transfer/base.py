"""The contracts of a transfer: the source that is copied from, and the target that is copied to.

Both are synchronous and thread-safe. A repository's name is ``""`` in a place that has no names of
repositories. Digests are those of the names, which may be aliases of what is stored.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from blobfs.digest import Descriptor, Digest
from blobfs.drivers.base import Closing, FileReader
from blobfs.errors import Unsupported
from blobfs.inventory.inventory import Progress
from blobfs.reference import Tag


@dataclass(frozen=True, slots=True)
class Outline:
    """The parts of a manifest that a copy needs.

    *children* are manifests, *blobs* the config and layers, and *foreign* the layers that are
    downloaded from elsewhere, which a place need not have.
    """

    manifest: Descriptor
    children: tuple[Digest, ...] = ()
    blobs: tuple[Descriptor, ...] = ()
    foreign: tuple[Descriptor, ...] = ()
    subject: Digest | None = None


class Source(Closing):
    """A place that is copied from. Iterators may raise what ``repositories`` raises."""

    def survey(self, progress: Progress) -> None:
        """Learn the content of the whole place with few requests, as all of it will be asked."""

    @abstractmethod
    def repositories(self) -> Iterator[str]:
        """The names of all repositories, sorted.

        Raises StorageUnavailable, AccessDenied, and Unsupported if the place cannot list them.
        """

    @abstractmethod
    def tags(self, repository: str) -> Iterator[Tag]:
        """The tags of a repository, in no order; raises RepositoryUnknown."""

    @abstractmethod
    def tagged(self, repository: str, tag: Tag) -> Digest:
        """The digest of the manifest that has *tag*; raises TagUnknown, LinkInvalid."""

    def tagged_ns(self, repository: str, tag: Tag) -> int:
        """The time of the tag's last change in ns since the epoch.

        Raises TagUnknown, and Unsupported if the place does not know it.
        """
        raise Unsupported(f"{repository}:{tag}: this place has no times of tags")

    def history(self, repository: str, tag: Tag) -> Sequence[Digest]:
        """The digests of the manifests that had *tag*; empty if the place has no history."""
        return ()

    def revisions(self, repository: str) -> Iterator[Digest]:
        """All manifests of a repository, as far as the place lists those without a tag."""
        return iter(())

    def blobs(self, repository: str) -> Iterator[Digest]:
        """All blobs of a repository, as far as the place lists those without a manifest."""
        return iter(())

    @abstractmethod
    def referrers(self, repository: str, digest: Digest) -> Sequence[Digest]:
        """The manifests whose subject is *digest*, as far as the place knows them."""

    @abstractmethod
    def manifest(self, repository: str, digest: Digest) -> bytes:
        """Return the bytes of a manifest, which have *digest*; raises ManifestUnknown, Corrupt."""

    @abstractmethod
    def outline(self, repository: str, digest: Digest) -> Outline:
        """Return the outline of a manifest; raises ManifestUnknown, Corrupt."""

    @abstractmethod
    def size(self, repository: str, digest: Digest) -> int:
        """Return the size of a blob in bytes; raises BlobUnknown, Corrupt."""

    @abstractmethod
    def open(self, repository: str, blob: Descriptor) -> FileReader:
        """Open a blob, which a caller reads once from its start to its end, by ``chunks``.

        The caller verifies the bytes. A reader behind a network goes on after a lost connection.
        Raises BlobUnknown, Corrupt.
        """


class Target(Closing):
    """A place that is copied to.

    Every item is complete or missing, after a kill too. It is durable and visible when ``flush``
    has returned, unless ``refusal`` has a reason then; a place may keep small items in memory until
    then. So a caller flushes before it stores an item that refers to others, and before it notes an
    item as done. A failed ``flush`` can be repeated.
    All methods raise StorageUnavailable, StorageFull, AccessDenied.
    """

    def survey(self, progress: Progress) -> None:
        """Learn the content of the whole place with few requests, as all of it will be asked."""

    @abstractmethod
    def missing(self, repository: str, blobs: Sequence[Descriptor]) -> list[Descriptor]:
        """Return those of *blobs* that the repository does not serve.

        A blob of another size is missing, and one that is stored without the repository's link.
        """

    @abstractmethod
    def link(self, repository: str, blob: Descriptor, holder: str | None) -> bool:
        """Let the repository serve a blob that the place holds; False if it does not hold it.

        *holder* is a repository that has it, if one is known.
        """

    @abstractmethod
    def put_blob(self, repository: str, blob: Descriptor, chunks: Iterable[bytes]) -> None:
        """Store a blob that the repository then serves.

        Raises DigestMismatch with nothing stored if *chunks* do not have its digest, and the errors
        of *chunks*.
        """

    def copy(self, source: Source, origin: str, repository: str, blob: Descriptor) -> bool:
        """Store a blob of the repository *origin* of *source* without reading it here.

        A server copies it, or the file system does. False, with nothing changed, if neither can.
        """
        return False

    @abstractmethod
    def has_manifest(self, repository: str, manifest: Descriptor) -> bool:
        """True if the repository serves the manifest; one of another size is missing."""

    @abstractmethod
    def put_manifest(self, repository: str, digest: Digest, payload: bytes) -> None:
        """Store a manifest unchanged, after everything it refers to; *payload* has *digest*.

        Raises ManifestRejected.
        """

    @abstractmethod
    def tag(self, repository: str, tag: Tag, digest: Digest, history: Sequence[Digest]) -> None:
        """Set a tag to a stored manifest, and add *history* where the place keeps one."""

    @abstractmethod
    def repositories(self) -> Iterator[str]:
        """The names of all repositories, sorted; for ``--delete``."""

    @abstractmethod
    def tags(self, repository: str) -> Iterator[Tag]:
        """The tags of a repository, in no order; none if it is missing."""

    @abstractmethod
    def tagged(self, repository: str, tag: Tag) -> Digest:
        """The digest of the manifest that has *tag*; raises TagUnknown, LinkInvalid."""

    @abstractmethod
    def untag(self, repository: str, tag: Tag) -> None:
        """Remove a tag, and nothing else; a missing one is no error. Raises Unsupported."""

    def remove(self, repository: str) -> None:
        """Remove a repository, or at least its tags; a missing one is no error.

        Raises Unsupported.
        """
        for tag in list(self.tags(repository)):
            self.untag(repository, tag)

    def flush(self) -> None:
        """Make everything that was stored durable and visible."""

    def refusal(self, repository: str) -> str | None:
        """The reason why a ``flush`` could not store items of a repository that denies access."""
        return None

    def finish(self) -> None:
        """Make the place complete after the last change, such as an archive."""

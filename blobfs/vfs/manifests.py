"""Nodes of ``_manifests``: revisions as files, tags and their history as symlinks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from blobfs import paths
from blobfs.digest import Digest
from blobfs.errors import (
    BlobfsError,
    CrossesDirectories,
    DigestInvalid,
    Exists,
    NameInvalid,
    NotFound,
    TagUnknown,
)
from blobfs.reference import Tag
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository
from blobfs.storage.tagstore import TagStore
from blobfs.vfs.blobs import BlobFile
from blobfs.vfs.links import LinkChanges, LinkSetDirectory, mtime_of
from blobfs.vfs.nodes import (
    Attr,
    Directory,
    FixedDirectory,
    Kind,
    Lifetime,
    MutableDirectory,
    Node,
    Placed,
    Symlink,
)
from blobfs.vfs.upload_nodes import UploadsDirectory
from blobfs.vfs.uploads import Uploads


@dataclass(frozen=True, slots=True)
class RevisionLink(Placed, Symlink):
    """A symlink to a revision; *up* is the relative path from its directory to ``_manifests``."""

    path: str
    up: str
    digest: Digest
    mtime_ns: int

    def attr(self) -> Attr:
        return Attr(Kind.SYMLINK, size=len(self.target()), mtime_ns=self.mtime_ns)

    def target(self) -> str:
        return f"{self.up}revisions/{self.digest.algorithm}/{self.digest.encoded}"


@dataclass(frozen=True, slots=True)
class TagLink(Placed, Symlink):
    """A tag: a symlink to its current revision.

    A tag whose link file is damaged is a symlink too, and only ``target`` fails. So ln(1), mv(1)
    and rm(1), which look it up before, can replace or remove it.
    """

    path: str
    tags: TagStore
    tag: Tag
    found: Attr

    def attr(self) -> Attr:
        return self.found

    def target(self) -> str:
        return _target(self.tags.get(self.tag))


@dataclass(frozen=True, slots=True)
class TagsDirectory(Placed, Directory, MutableDirectory):
    """``tags``, in which ``ln -s`` tags, ``ln -sfn`` and ``mv`` retag, and ``rm`` untags."""

    gains_names = True

    path: str
    repository: Repository
    mtime_ns: Callable[[], int]

    @property
    def kind_of_children(self) -> Kind:
        return Kind.SYMLINK

    def attr(self) -> Attr:
        return Attr(Kind.DIRECTORY, mtime_ns=self.mtime_ns())

    def lookup(self, name: str) -> Node:
        return self._link(_tag_named(name))

    def names(self) -> Iterator[str]:
        return self.repository.tags.list_unchecked()

    def symlink(self, name: str, target: str) -> Node:
        tag = Tag(name)
        digest = self._revision(target)
        self.repository.manifests.links.stat_now(digest)
        if self.repository.tags.exists(tag):
            raise Exists(f"{self.path}/{tag}")
        self.repository.tags.tag(tag, digest)
        return self._link(tag)

    def _revision(self, target: str) -> Digest:
        """Return the revision that *target* names; raises NameInvalid, TagUnknown."""
        try:
            match target.split("/"):
                case ["..", "revisions", algorithm, encoded]:
                    return Digest(algorithm, encoded)
                case [name]:
                    return self.repository.tags.get(Tag(name))
        except (DigestInvalid, NameInvalid):
            pass
        raise NameInvalid(
            "a tag must lead to a tag beside it, or to ../revisions/<algorithm>/<hex>,"
            f" not to {target[:200]!r}"
        )

    def unlink(self, name: str) -> None:
        self.repository.tags.untag(_tag_named(name))

    def rename(self, name: str, target: Node, new_name: str, *, replace: bool) -> None:
        if target.key != self.key:
            raise CrossesDirectories(
                f"{self.path}/{name[:160]} cannot move: make a new symlink there instead"
            )
        tag = Tag(new_name)
        if not replace and self.repository.tags.exists(tag):
            raise Exists(f"{self.path}/{tag}")
        self.repository.tags.rename(_tag_named(name), tag)

    def _link(self, tag: Tag) -> Node:
        tags = self.repository.tags
        try:
            size, lifetime = len(_target(tags.get(tag))), Lifetime.NAME
        except NotFound:
            raise
        except BlobfsError:
            size, lifetime = 0, Lifetime.MOMENT
        attr = Attr(Kind.SYMLINK, size=size, mtime_ns=tags.mtime_ns(tag), lifetime=lifetime)
        return TagLink(f"{self.path}/{tag}", tags, tag, attr)


@dataclass(frozen=True, slots=True)
class HistoryDirectory(Placed, Directory):
    """``history``: for each tag a link set of all its revisions, the current and earlier ones."""

    gains_names = True

    path: str
    registry: Registry
    repository: Repository
    mtime_ns: Callable[[], int]

    @property
    def kind_of_children(self) -> Kind:
        return Kind.DIRECTORY

    def attr(self) -> Attr:
        return Attr(Kind.DIRECTORY, mtime_ns=self.mtime_ns())

    def names(self) -> Iterator[str]:
        return self.repository.tags.list_unchecked()

    def lookup(self, name: str) -> Node:
        tag = _tag_named(name)
        self.repository.tags.mtime_ns(tag)
        links = self.repository.tags.history(tag)
        path = f"{self.path}/{tag}"

        def node_for(digest: Digest) -> Node:
            links.resolve(digest)
            mtime_ns = mtime_of(self.registry, paths.link(links.link_set, digest))()
            below = f"{path}/{digest.algorithm}/{digest.encoded}"
            return RevisionLink(below, "../../../", digest, mtime_ns)

        return LinkSetDirectory(path, self.registry, links, node_for, Kind.SYMLINK)


@dataclass(frozen=True, slots=True)
class Manifests:
    """Makes the nodes of one repository's ``_manifests``, which is at *path*."""

    path: str
    registry: Registry
    repository: Repository
    node_for_revision: Callable[[Digest], BlobFile]
    changes: LinkChanges
    uploads: Uploads

    def directory(self) -> Directory:
        """Return the directory ``_manifests``."""
        repository = self.repository
        tags_mtime_ns = mtime_of(self.registry, paths.tags(repository.name))
        mtime_ns = mtime_of(self.registry, f"{paths.repository(repository.name)}/_manifests")
        return FixedDirectory(
            self.path,
            {
                "revisions": lambda: LinkSetDirectory(
                    f"{self.path}/revisions",
                    self.registry,
                    repository.manifests.links,
                    self.node_for_revision,
                    changes=self.changes,
                ),
                "tags": lambda: TagsDirectory(f"{self.path}/tags", repository, tags_mtime_ns),
                "history": lambda: HistoryDirectory(
                    f"{self.path}/history", self.registry, repository, tags_mtime_ns
                ),
                "_uploads": lambda: UploadsDirectory(
                    f"{self.path}/_uploads",
                    self.uploads,
                    repository.manifest_uploads,
                    mtime_ns,
                    self.node_for_revision,
                ),
            },
            mtime_ns,
        )


def _tag_named(name: str) -> Tag:
    try:
        return Tag(name)
    except NameInvalid:
        raise TagUnknown(repr(name[:160])) from None


def _target(digest: Digest) -> str:
    return f"../revisions/{digest.algorithm}/{digest.encoded}"

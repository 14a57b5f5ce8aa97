"""Nodes of ``_manifests``: revisions as files, tags and their history as symlinks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
    NotPermitted,
    TagUnknown,
)
from blobfs.reference import Tag
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository
from blobfs.storage.tagstore import TagStore
from blobfs.vfs.blobs import BlobFile
from blobfs.vfs.fixed_nodes import FixedDirectory
from blobfs.vfs.links import LinkChanges, LinkSetDirectory, Mount, mtime_of
from blobfs.vfs.nodes import (
    Attr,
    Directory,
    Kind,
    Lifetime,
    MutableDirectory,
    Node,
    Placed,
    Symlink,
)
from blobfs.vfs.upload_nodes import UploadsDirectory
from blobfs.vfs.uploads import Uploads
from blobfs.vfs.waiting_tags import WaitingTags


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
    uploads: Uploads
    copies: UploadsDirectory  # of manifests

    @property
    def kind_of_children(self) -> Kind:
        return Kind.SYMLINK

    def attr(self) -> Attr:
        return Attr(Kind.DIRECTORY, mtime_ns=self.mtime_ns())

    def lookup(self, name: str) -> Node:
        if (waiting := self._waiting) is not None and (found := waiting.get(name)) is not None:
            return RevisionLink(f"{self.path}/{name}", "../", found.digest, found.mtime_ns)
        try:
            return self._link(_tag_named(name))
        except TagUnknown:
            return self.copies.placeholder(name)

    @property
    def _waiting(self) -> WaitingTags | None:
        return self.uploads.known_waiting_tags(self.repository)

    def names(self) -> Iterator[str]:
        waiting = set() if self._waiting is None else set(self._waiting.names())
        for name in self.repository.tags.list_unchecked():
            waiting.discard(name)
            yield name
        yield from waiting

    def create(self, name: str) -> Node:
        return self.copies.begin_placeholder(Tag(name))

    def symlink(self, name: str, target: str) -> Node:
        digest = self._revision(target)
        self._check_missing(name)
        self.uploads.waiting_tags(self.repository).add(name, digest)
        return self.lookup(name)

    def _check_missing(self, name: str) -> None:
        try:
            is_there = self.repository.tags.exists(Tag(name))
        except NameInvalid:
            return  # perhaps a temporary name
        if is_there:
            raise Exists(f"{self.path}/{name}")

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
        is_done = self._waiting is not None and self._waiting.discard(name)
        try:
            self.repository.tags.untag(_tag_named(name))
        except TagUnknown:
            if not is_done and not self.copies.discard_placeholder(name):
                raise

    def rename(self, name: str, target: Node, new_name: str, *, replace: bool) -> None:
        if target.key != self.key:
            raise CrossesDirectories(
                f"{self.path}/{name[:160]} cannot move: make a new symlink there instead"
            )
        if not replace:
            self._check_missing(new_name)
        if self._waiting is not None and self._waiting.rename(name, new_name):
            return
        tag = Tag(new_name)
        self.repository.tags.rename(_tag_named(name), tag)
        if self._waiting is not None:
            self._waiting.discard(tag)

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
class HistoryEntries:
    """The symlinks of a tag's history, as ``Entries``.

    tar(1) makes files first, and replaces them by the symlinks at its end.
    """

    tag: Tag
    repository: Repository
    uploads: Uploads
    copies: UploadsDirectory  # of manifests

    def add(self, digest: Digest, target: str) -> None:
        if target != f"../../{_target(digest)}":
            raise NameInvalid(f"an entry here must lead to ../../{_target(digest)}")
        self.uploads.waiting_tags(self.repository).add_history(self.tag, digest)

    def remove(self, digest: Digest) -> None:
        waiting = self.uploads.known_waiting_tags(self.repository)
        if waiting is not None and waiting.discard_history(self.tag, digest):
            return
        if not self.copies.discard_placeholder(self._file(digest)):
            raise NotPermitted(f"remove the tag {self.tag}, and its history goes with it")

    def begin(self, digest: Digest) -> Node:
        return self.copies.begin_placeholder(self._file(digest))

    def begun(self, digest: Digest) -> Node:
        return self.copies.placeholder(self._file(digest))

    def _file(self, digest: Digest) -> str:
        return f".history.{self.tag}.{digest}"


@dataclass(frozen=True, slots=True)
class HistoryDirectory(Placed, Directory, MutableDirectory):
    """``history``: for each tag a link set of all its revisions, the current and earlier ones."""

    gains_names = True

    path: str
    registry: Registry
    repository: Repository
    mtime_ns: Callable[[], int]
    uploads: Uploads
    copies: UploadsDirectory  # of manifests

    @property
    def kind_of_children(self) -> Kind:
        return Kind.DIRECTORY

    def attr(self) -> Attr:
        return Attr(Kind.DIRECTORY, mtime_ns=self.mtime_ns())

    def names(self) -> Iterator[str]:
        return self.repository.tags.list_unchecked()

    def lookup(self, name: str) -> Node:
        tag = _tag_named(name)
        waiting = self._waiting_for(tag)
        if waiting is None:
            self.repository.tags.mtime_ns(tag)
        links = self.repository.tags.history(tag)
        path = f"{self.path}/{tag}"

        def node_for(digest: Digest) -> Node:
            mtime_ns = (self._waiting_for(tag) or {}).get(digest)
            if mtime_ns is None:
                links.resolve(digest)
                mtime_ns = mtime_of(self.registry, paths.link(links.link_set, digest))()
            below = f"{path}/{digest.algorithm}/{digest.encoded}"
            return RevisionLink(below, "../../../", digest, mtime_ns)

        entries = HistoryEntries(tag, self.repository, self.uploads, self.copies)
        made = self.uploads.made
        return LinkSetDirectory(
            path, self.registry, links, node_for, Kind.SYMLINK, entries=entries, made=made
        )

    def _waiting_for(self, tag: Tag) -> Mapping[Digest, int] | None:
        waiting = self.uploads.known_waiting_tags(self.repository)
        return None if waiting is None else waiting.history(tag)

    def asked_for(self, name: str) -> Kind | None:
        return Kind.DIRECTORY

    def mkdir(self, name: str) -> Node:
        tag = Tag(name)
        if not self.repository.tags.exists(tag):
            self.uploads.waiting_tags(self.repository).begin_history(tag)
        return self.lookup(name)

    def rmdir(self, name: str) -> None:
        waiting = self.uploads.known_waiting_tags(self.repository)
        if waiting is None or not waiting.discard_history(_tag_named(name)):
            raise self._not_permitted(name)


@dataclass(frozen=True, slots=True)
class Manifests:
    """Makes the nodes of one repository's ``_manifests``, which is at *path*."""

    path: str
    registry: Registry
    repository: Repository
    node_for_revision: Callable[[Digest], BlobFile]
    mount: Mount
    delete: Callable[[Digest], None] | None
    uploads: Uploads

    def directory(self) -> Directory:
        """Return the directory ``_manifests``."""
        repository = self.repository
        tags_mtime_ns = mtime_of(self.registry, paths.tags(repository.name))
        mtime_ns = mtime_of(self.registry, f"{paths.repository(repository.name)}/_manifests")
        copies = UploadsDirectory(
            f"{self.path}/_uploads",
            self.uploads,
            repository.manifest_uploads,
            mtime_ns,
            self.node_for_revision,
        )
        return FixedDirectory(
            self.path,
            {
                "revisions": lambda: LinkSetDirectory(
                    f"{self.path}/revisions",
                    self.registry,
                    repository.manifests.links,
                    self.node_for_revision,
                    changes=LinkChanges(self.mount, self.delete, copies),
                    made=self.uploads.made,
                ),
                "tags": lambda: TagsDirectory(
                    f"{self.path}/tags", repository, tags_mtime_ns, self.uploads, copies
                ),
                "history": lambda: HistoryDirectory(
                    f"{self.path}/history",
                    self.registry,
                    repository,
                    tags_mtime_ns,
                    self.uploads,
                    copies,
                ),
                "_uploads": lambda: copies,
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

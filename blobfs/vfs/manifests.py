"""``_manifests`` of a repository: revisions as files, tags and their history as symlinks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from blobfs import paths
from blobfs.digest import Digest
from blobfs.errors import NameInvalid, TagUnknown
from blobfs.reference import Tag
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository
from blobfs.vfs.links import LinkSetDirectory, mtime_of
from blobfs.vfs.nodes import Attr, Directory, FixedDirectory, Kind, Node, Placed, Symlink


@dataclass(frozen=True, slots=True)
class RevisionLink(Placed, Symlink):
    """A symlink to a revision: *up* leads from where it is to ``_manifests``."""

    path: str
    up: str
    digest: Digest
    mtime_ns: int

    def attr(self) -> Attr:
        return Attr(Kind.SYMLINK, size=len(self.target()), mtime_ns=self.mtime_ns)

    def target(self) -> str:
        return f"{self.up}revisions/{self.digest.algorithm}/{self.digest.encoded}"


@dataclass(frozen=True, slots=True)
class TagsDirectory(Placed, Directory):
    """Every tag, as a child of one *kind* that *node_for* makes."""

    path: str
    repository: Repository
    kind: Kind
    node_for: Callable[[Tag], Node]
    mtime_ns: Callable[[], int]

    @property
    def kind_of_children(self) -> Kind:
        return self.kind

    def attr(self) -> Attr:
        return Attr(Kind.DIRECTORY, mtime_ns=self.mtime_ns())

    def lookup(self, name: str) -> Node:
        try:
            tag = Tag(name)
        except NameInvalid:
            raise TagUnknown(repr(name[:160])) from None
        return self.node_for(tag)

    def names(self) -> Iterator[str]:
        return self.repository.tags.candidates()


@dataclass(frozen=True, slots=True)
class Manifests:
    """Makes the nodes below one repository's ``_manifests``, which is at *path*."""

    path: str
    registry: Registry
    repository: Repository
    node_for_revision: Callable[[Digest], Node]

    def directory(self) -> Directory:
        """``_manifests`` itself."""
        name = self.repository.name
        return FixedDirectory(
            self.path,
            {
                "revisions": lambda: LinkSetDirectory(
                    f"{self.path}/revisions",
                    self.registry,
                    self.repository.manifests.links,
                    self.node_for_revision,
                ),
                "tags": lambda: self._tags("tags", Kind.SYMLINK, self._tag),
                "history": lambda: self._tags("history", Kind.DIRECTORY, self._history),
                "_uploads": lambda: FixedDirectory(
                    f"{self.path}/_uploads", {}, mtime_of(self.registry, paths.uploads(name))
                ),
            },
            mtime_of(self.registry, f"{paths.repository(name)}/_manifests"),
        )

    def _tags(self, name: str, kind: Kind, node_for: Callable[[Tag], Node]) -> Directory:
        mtime_ns = mtime_of(self.registry, paths.tags(self.repository.name))
        return TagsDirectory(f"{self.path}/{name}", self.repository, kind, node_for, mtime_ns)

    def _tag(self, tag: Tag) -> Node:
        return RevisionLink(
            f"{self.path}/tags/{tag}",
            "../",
            self.repository.tags.get(tag),
            self.repository.tags.stat(tag).mtime_ns,
        )

    def _history(self, tag: Tag) -> Node:
        self.repository.tags.stat(tag)
        links = self.repository.tags.history(tag)
        path = f"{self.path}/history/{tag}"

        def node_for(digest: Digest) -> Node:
            links.resolve(digest)
            mtime_ns = mtime_of(self.registry, paths.link(links.link_set, digest))()
            name = f"{digest.algorithm}/{digest.encoded}"
            return RevisionLink(f"{path}/{name}", "../../../", digest, mtime_ns)

        return LinkSetDirectory(path, self.registry, links, node_for, Kind.SYMLINK)

"""The tree a mount shows, and what is where in it.

::

    /<repository>/                 components of the name are directories; repositories nest
        _layers/<algorithm>/<hex>                     the blob, through the repository's link
        _manifests/revisions/<algorithm>/<hex>        the manifest's bytes
        _manifests/tags/<tag>                         -> ../revisions/<algorithm>/<hex>
        _manifests/history/<tag>/<algorithm>/<hex>    -> ../../../revisions/<algorithm>/<hex>
        _manifests/_uploads/
        _uploads/
    /_blobs/<algorithm>/<hex[:2]>/<hex>               the global store, if it is exposed
    /.blobfs/<name>                                   about the mount; never listed
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from blobfs import paths
from blobfs.digest import ALGORITHMS, Digest
from blobfs.errors import NameInvalid, NotFound, PathNotFound, RepositoryUnknown
from blobfs.reference import RepositoryName
from blobfs.storage.registry import Registry
from blobfs.vfs.blobs import BlobFile, Blobs, ShardDirectory
from blobfs.vfs.control import ControlDirectory
from blobfs.vfs.links import LinkSetDirectory, mtime_of
from blobfs.vfs.manifests import Manifests
from blobfs.vfs.nodes import Attr, Directory, FixedDirectory, Kind, Node
from blobfs.vfs.verification import Verification


@dataclass(frozen=True, slots=True)
class Tree:
    """Makes the nodes of one mount.

    *control* are the files of ``/.blobfs``, each with what renders its text.
    """

    registry: Registry
    verification: Verification
    expose_blobs: bool = False
    control: Mapping[str, Callable[[], str]] = field(default_factory=dict)

    def root(self) -> Directory:
        """The mount's root."""
        return NameDirectory(self, "")

    def below_repository(self, name: RepositoryName, marker: str) -> Node:
        """``_layers``, ``_manifests`` or ``_uploads``; raises RepositoryUnknown."""
        if not self.registry.is_repository(name):
            raise RepositoryUnknown(name)
        key = f"/{name}/{marker}"
        repository = self.registry.repository(name)
        blobs = Blobs(self.registry, self.verification)

        def layer(digest: Digest) -> Node:
            return BlobFile(blobs, repository.layers.stat(digest), (repository,))

        def revision(digest: Digest) -> Node:
            return BlobFile(blobs, repository.manifests.links.stat(digest), (repository,))

        match marker:
            case "_layers":
                return LinkSetDirectory(key, self.registry, repository.layers, layer)
            case "_manifests":
                return Manifests(key, self.registry, repository, revision).directory()
            case _:
                return FixedDirectory(key, {}, mtime_of(self.registry, paths.uploads(name)))

    def blobs_directory(self) -> Directory:
        """``/_blobs``."""

        def algorithm_directory(algorithm: str) -> Callable[[], Node]:
            return lambda: AlgorithmDirectory(self, algorithm)

        return FixedDirectory(
            "/_blobs",
            {algorithm: algorithm_directory(algorithm) for algorithm in ALGORITHMS},
            mtime_of(self.registry, paths.BLOBS),
        )


@dataclass(frozen=True, slots=True)
class NameDirectory(Directory):
    """The root, or a name that is a repository or that repositories' names begin with."""

    tree: Tree
    prefix: str

    @property
    def key(self) -> str:
        return f"/{self.prefix}"

    def attr(self) -> Attr:
        info = self.tree.registry.stat(paths.repository(self.prefix))
        if info is None and self.prefix:
            raise RepositoryUnknown(self.prefix)
        return Attr(Kind.DIRECTORY, mtime_ns=info.mtime_ns if info else 0)

    @property
    def kind_of_children(self) -> Kind:
        return Kind.DIRECTORY

    def known(self, name: str) -> Node | None:
        if name == ".blobfs" and not self.prefix:
            return ControlDirectory("/.blobfs", self.tree.control)
        return None

    def lookup(self, name: str) -> Node:
        if (known := self.known(name)) is not None:
            return known
        if not self.prefix and name == "_blobs" and self.tree.expose_blobs:
            return self.tree.blobs_directory()
        if self.prefix and name in paths.MARKERS:
            return self.tree.below_repository(RepositoryName(self.prefix), name)
        try:
            child = RepositoryName(f"{self.prefix}/{name}" if self.prefix else name)
        except NameInvalid:
            raise RepositoryUnknown(repr(name[:160])) from None
        info = self.tree.registry.stat(paths.repository(child))
        if info is None or not info.is_dir or "/" in name:
            raise RepositoryUnknown(child)
        return NameDirectory(self.tree, child)

    def names(self) -> Iterator[str]:
        try:
            found = self.tree.registry.children(self.prefix)
        except PathNotFound:
            if self.prefix:
                raise RepositoryUnknown(self.prefix) from None
            found = iter(())  # a registry that nothing was pushed to yet
        return self._shown(found)

    def _shown(self, found: Iterator[str]) -> Iterator[str]:
        is_repository = False
        for name in found:
            if name in paths.MARKERS:
                is_repository = True
            else:
                yield name
        if is_repository and self.prefix:
            yield from paths.MARKERS
        if self.tree.expose_blobs and not self.prefix:
            yield "_blobs"


@dataclass(frozen=True, slots=True)
class AlgorithmDirectory(Directory):
    """The shards of the global store's blobs of one algorithm."""

    tree: Tree
    algorithm: str

    @property
    def key(self) -> str:
        return f"/_blobs/{self.algorithm}"

    @property
    def _path(self) -> str:
        return f"{paths.BLOBS}/{self.algorithm}"

    def attr(self) -> Attr:
        return Attr(Kind.DIRECTORY, mtime_ns=mtime_of(self.tree.registry, self._path)())

    def lookup(self, name: str) -> Node:
        path = f"{self._path}/{name}"
        if name not in self.tree.registry.blobs.shards(self.algorithm):
            raise NotFound(f"{self.key} has no {name[:160]!r}")
        blobs = Blobs(self.tree.registry, self.tree.verification)
        mtime_ns = mtime_of(self.tree.registry, path)
        return ShardDirectory(f"{self.key}/{name}", blobs, self.algorithm, name, mtime_ns)

    def names(self) -> Iterator[str]:
        return self.tree.registry.blobs.shards(self.algorithm)

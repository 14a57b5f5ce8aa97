"""The tree of a mount: its layout, and its upper levels.

::

    /<repository>/                 components of the name are directories; repositories nest
        _layers/<algorithm>/<hex>                     the blob, through the repository's link
        _images/<tag>/                                the image, with its root filesystem
        _manifests/revisions/<algorithm>/<hex>        the manifest's bytes
        _manifests/tags/<tag>                         -> ../revisions/<algorithm>/<hex>
        _manifests/history/<tag>/<algorithm>/<hex>    -> ../../../revisions/<algorithm>/<hex>
        _manifests/_uploads/<tag or name>             a manifest being put
        _uploads/<name>                               a blob being put
    /_blobs/<algorithm>/<hex[:2]>/<hex>               the global store, if it is exposed
    /.blobfs/<name>                                   reports of the mount; never listed
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from blobfs import paths
from blobfs.digest import ALGORITHMS, Descriptor, Digest
from blobfs.errors import (
    Exists,
    NameInvalid,
    NotEmpty,
    NotFound,
    PathNotFound,
    RepositoryUnknown,
)
from blobfs.images.images import Images
from blobfs.reference import RepositoryName
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.linkedblobstore import LinkedBlobStore
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository
from blobfs.vfs.blobs import BlobFile, Blobs, ShardDirectory
from blobfs.vfs.control import ControlDirectory, Report
from blobfs.vfs.fixed_nodes import FixedDirectory
from blobfs.vfs.images import ImagesDirectory, ImageServices
from blobfs.vfs.links import LinkChanges, LinkSetDirectory, Mount, mtime_of
from blobfs.vfs.made_repositories import MadeRepositories
from blobfs.vfs.manifests import Manifests
from blobfs.vfs.nodes import Attr, Directory, Kind, Lasting, Measured, Node
from blobfs.vfs.upload_nodes import UploadsDirectory
from blobfs.vfs.uploads import Uploads, upload_states
from blobfs.vfs.verification import Verification


class DiskUsage(Protocol):
    """The disk usage of a prefix of names; sizes in bytes."""

    @property
    def size(self) -> int:
        """The blobs that the repositories link, each counted once."""

    @property
    def freed(self) -> int:
        """Those of them that nothing else links."""


class StorageUsage(Protocol):
    """The disk usage of a whole storage."""

    def of(self, prefix: str) -> DiskUsage:
        """Return the usage of a prefix, or of all for ``""``."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Makes the nodes of one mount. Immutable; its services are thread-safe.

    *uploads* are its ``_uploads`` directories, *made* the repositories that exist only in it.
    *control* has the reports that the mount adds to ``/.blobfs``; *reports* has all of them.
    *usage* returns the disk usage, after a pass over the storage; None if it is unknown.
    Without *images* there is no ``_images``; it is listed with *show_images*. *flatten_owners*
    gives the files of images to the owner of the mount.
    """

    registry: Registry
    verification: Verification
    uploads: Uploads = field(default_factory=Uploads)
    expose_blobs: bool = False
    allow_delete: bool = False
    control: Mapping[str, Report] = field(default_factory=dict)
    usage: Callable[[], StorageUsage] | None = None
    images: Images | None = None
    show_images: bool = False
    flatten_owners: bool = False
    made: MadeRepositories = field(default_factory=MadeRepositories)
    reports: Mapping[str, Report] = field(init=False)

    def __post_init__(self) -> None:
        uploads = Report(self._uploads_json, takes_long=lambda: True)
        waiting = Report(lambda: json.dumps(self.uploads.waiting(), indent=2) + "\n")
        reports = {**self.control, "uploads.json": uploads, "waiting.json": waiting}
        object.__setattr__(self, "reports", reports)

    def root(self) -> Directory:
        """Return the root."""
        return NameDirectory(self, "")

    def _uploads_json(self) -> str:
        """Return the content of ``/.blobfs/uploads.json``."""
        return json.dumps(upload_states(self.registry, self.uploads), indent=2) + "\n"

    def is_made(self, name: str) -> bool:
        """True if *name* is a repository in this mount, even if the storage does not have it."""
        if name in self.made:
            return True
        return self.made.has(name) and any(map(self.uploads.holds, uploads_of(name)))

    def below_repository(self, name: RepositoryName, marker: str) -> Node:
        """Return ``_layers``, ``_manifests`` or ``_uploads``; raises RepositoryUnknown."""
        if not self.is_made(name) and not self.registry.is_repository(name):
            raise RepositoryUnknown(name)
        key = f"/{name}/{marker}"
        repository = self.registry.repository(name)
        blobs = Blobs(self.registry, self.verification)

        def layer(digest: Digest) -> BlobFile:
            return BlobFile(blobs, repository.layers.stat(digest), (repository,))

        def revision(digest: Digest) -> BlobFile:
            return BlobFile(blobs, repository.manifests.links.stat(digest), (repository,))

        match marker:
            case "_images":
                return self._images_directory(key, repository, layer, revision)
            case "_layers":
                layers = repository.layers
                delete = layers.delete if self.allow_delete else None
                copies = self._uploads_directory(repository, layer)
                changes = LinkChanges(self._mounting(repository, layers.mount), delete, copies)
                made = self.uploads.made
                return LinkSetDirectory(
                    key, self.registry, layers, layer, changes=changes, made=made
                )
            case "_manifests":
                manifests = repository.manifests
                delete = manifests.links.delete if self.allow_delete else None
                mount = self._mounting(repository, manifests.mount)
                return Manifests(
                    key, self.registry, repository, revision, mount, delete, self.uploads
                ).directory()
            case _:
                return self._uploads_directory(repository, layer)

    def _uploads_directory(
        self, repository: Repository, layer: Callable[[Digest], BlobFile]
    ) -> UploadsDirectory:
        name = repository.name
        return UploadsDirectory(
            f"/{name}/_uploads",
            self.uploads,
            repository.uploads,
            mtime_of(self.registry, paths.uploads(name)),
            layer,
            layers=f"/{name}/_layers",
        )

    def _mounting(self, repository: Repository, mount: Mount) -> Mount:
        """Return *mount*, after which what has waited for the digest is committed."""

        def mounted(digest: Digest, source: LinkedBlobStore | BlobStore) -> Descriptor:
            descriptor = mount(digest, source)
            self.uploads.linked(f"/{repository.name}", digest, descriptor.digest)
            return descriptor

        return mounted

    def _images_directory(
        self,
        key: str,
        repository: Repository,
        layer: Callable[[Digest], Node],
        revision: Callable[[Digest], Node],
    ) -> Node:
        if self.images is None:
            raise NotFound(key)
        services = ImageServices(
            self.images, repository, layer, revision, flatten_owners=self.flatten_owners
        )
        return ImagesDirectory(key, services, mtime_of(self.registry, paths.tags(repository.name)))

    def blobs_directory(self) -> Directory:
        """Return ``/_blobs``."""

        def algorithm_directory(algorithm: str) -> Callable[[], Node]:
            return lambda: AlgorithmDirectory(self, algorithm)

        return FixedDirectory(
            "/_blobs",
            {algorithm: algorithm_directory(algorithm) for algorithm in ALGORITHMS},
            mtime_of(self.registry, paths.BLOBS),
        )


@dataclass(frozen=True, slots=True)
class NameDirectory(Lasting):
    """The root, a repository, or a parent of repositories."""

    tree: Tree
    prefix: str

    @property
    def key(self) -> str:
        return f"/{self.prefix}"

    def attr(self) -> Attr:
        info = self.tree.registry.stat(paths.repository(self.prefix))
        if info is None and self.prefix and not self.tree.made.has(self.prefix):
            raise RepositoryUnknown(self.prefix)
        return Attr(Kind.DIRECTORY, mtime_ns=info.mtime_ns if info else 0)

    def measured_xattrs(self) -> Mapping[str, Measured]:
        usage = self.tree.usage
        if usage is None:
            return {}
        return {
            "user.blobfs.size": Measured("usage", usage, lambda: str(usage().of(self.prefix).size)),
            "user.blobfs.unique": Measured(
                "usage", usage, lambda: str(usage().of(self.prefix).freed)
            ),
        }

    @property
    def kind_of_children(self) -> Kind:
        return Kind.DIRECTORY

    def known(self, name: str) -> Node | None:
        if name == ".blobfs" and not self.prefix:
            return ControlDirectory("/.blobfs", self.tree.reports)
        return None

    def lookup(self, name: str) -> Node:
        if (known := self.known(name)) is not None:
            return known
        if not self.prefix and name == "_blobs" and self.tree.expose_blobs:
            return self.tree.blobs_directory()
        if self.prefix and (name in paths.MARKERS or name == "_images"):
            return self.tree.below_repository(RepositoryName(self.prefix), name)
        try:
            child = RepositoryName(f"{self.prefix}/{name}" if self.prefix else name)
        except NameInvalid:
            raise RepositoryUnknown(repr(name[:160])) from None
        if "/" in name or not self._is_there(child):
            raise RepositoryUnknown(child)
        return NameDirectory(self.tree, child)

    def _is_there(self, child: RepositoryName) -> bool:
        if self.tree.made.has(child):
            return True
        info = self.tree.registry.stat(paths.repository(child))
        return info is not None and info.is_dir

    def names(self) -> Iterator[str]:
        try:
            found = self.tree.registry.children(self.prefix)
        except PathNotFound:
            if self.prefix and not self.tree.made.has(self.prefix):
                raise RepositoryUnknown(self.prefix) from None
            found = iter(())  # a registry without any push
        return self._shown(found)

    def _shown(self, found: Iterator[str]) -> Iterator[str]:
        is_repository = self.tree.is_made(self.prefix)
        made = self.tree.made.below(self.prefix)
        for name in found:
            made.discard(name)
            if name in paths.MARKERS:
                is_repository = True
            else:
                yield name
        yield from sorted(made)
        if is_repository and self.prefix:
            yield from paths.MARKERS
            if self.tree.show_images:
                yield "_images"
        if self.tree.expose_blobs and not self.prefix:
            yield "_blobs"

    def mkdir(self, name: str) -> Node:
        if self.prefix and name in paths.MARKERS:
            return self._made_repository(name)
        child = RepositoryName(f"{self.prefix}/{name}" if self.prefix else name)
        if self._is_there(child):
            raise Exists(f"/{child}")
        self.tree.made.add(child)
        return NameDirectory(self.tree, child)

    def _made_repository(self, marker: str) -> Node:
        """Make a parent of repositories a repository too, by ``mkdir`` of its *marker*."""
        name = RepositoryName(self.prefix)
        if not self.tree.registry.is_repository(name):
            self.tree.made.declare(name)
        return self.tree.below_repository(name, marker)

    def asked_for(self, name: str) -> Kind | None:
        if not self.prefix or name not in paths.MARKERS:
            return None
        if name != "_uploads":  # a first upload does not need it, and ends
            self.tree.made.use(self.prefix)
        return Kind.DIRECTORY

    def rmdir(self, name: str) -> None:
        if self.prefix and name in paths.MARKERS:
            Lasting.rmdir(self, name)  # slots leave no bare super()
            return
        try:
            child = RepositoryName(f"{self.prefix}/{name}" if self.prefix else name)
        except NameInvalid:
            self.lookup(name)
            raise self._not_permitted(name) from None
        uploads = self.tree.uploads
        if self.tree.made.below(child) or any(map(uploads.holds, uploads_of(child))):
            raise NotEmpty(f"/{child}")
        self.tree.registry.remove_empty(child)
        self.tree.made.discard(child)


def uploads_of(name: str) -> tuple[str, str]:
    """Paths in the tree of a repository's uploads: of blobs, and of manifests."""
    return f"/{name}/_uploads", f"/{name}/_manifests/_uploads"


@dataclass(frozen=True, slots=True)
class AlgorithmDirectory(Directory):
    """One algorithm of the global store: a directory for each shard."""

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

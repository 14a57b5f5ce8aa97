"""Nodes of ``_images``: an image by tag or digest, with its root filesystem and its layouts.

::

    _images/<tag>/                      and _images/<algorithm>:<hex>/
        manifest.json  config.json      the same inodes as the revision and the layer
        layers/01-<hex12>.tar.gz        -> ../../../_layers/<algorithm>/<hex>
        rootfs/                         module rootfs
        oci/                            an OCI image layout
        dir/                            the same in the format ``dir:`` of skopeo
        platforms/<os>-<architecture>/  of an index: the same for the image of each platform

The image of an index is the one for this machine, or the first. The key of an image's directory has
the digest of its manifest, so that its inodes change when the tag is moved.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from blobfs.digest import Descriptor, Digest
from blobfs.drivers.base import BytesReader, FileReader
from blobfs.errors import DigestInvalid, NameInvalid, NotFound
from blobfs.images.image import Image
from blobfs.images.images import Images
from blobfs.images.platforms import Platform
from blobfs.reference import Tag
from blobfs.storage.manifest import OCI_INDEX
from blobfs.storage.repository import Repository
from blobfs.vfs.fixed_nodes import FixedLink, NamedChildren
from blobfs.vfs.nodes import Attr, Directory, File, Kind, Lifetime, Node, Placed
from blobfs.vfs.rootfs import RootfsDirectory

_SUFFIXES: Final = {
    "tar": ".tar", "tar+gzip": ".tar.gz", "tar.gzip": ".tar.gz", "tar+zstd": ".tar.zst",
    "x-gtar": ".tar.gz",
}  # fmt: skip
"""Suffixes of files by the end of a layer's media type."""


class _Nodes(dict[str, Callable[[], Node]]):
    """The children of a directory by name, each with the function that makes it."""


@dataclass(frozen=True, slots=True)
class ReadOnlyDirectory(NamedChildren):
    """A directory of fixed children, which never change."""

    is_read_only = True

    path: str
    mtime_ns: int
    nodes: Mapping[str, Callable[[], Node]]

    def attr(self) -> Attr:
        return Attr(Kind.DIRECTORY, mtime_ns=self.mtime_ns)

    def makers(self) -> Mapping[str, Callable[[], Node]]:
        return self.nodes


@dataclass(frozen=True, slots=True)
class BytesFile(Placed, File):
    """A file with fixed content."""

    asks_storage = False
    is_read_only = True
    never_changes = True

    path: str
    mtime_ns: int
    content: bytes

    def attr(self) -> Attr:
        return Attr(
            Kind.FILE, size=len(self.content), mtime_ns=self.mtime_ns, lifetime=Lifetime.CONTENT
        )

    def open(self) -> FileReader:
        return BytesReader(self.content)


@dataclass(frozen=True, slots=True)
class ImageServices:
    """The services of the nodes of one repository's images.

    *layer* and *revision* return the file of a blob. *flatten_owners* gives all files of root
    filesystems to the owner of the mount.
    """

    images: Images
    repository: Repository
    layer: Callable[[Digest], Node]
    revision: Callable[[Digest], Node]
    flatten_owners: bool = False


@dataclass(frozen=True, slots=True)
class ImagesDirectory(Placed, Directory):
    """``_images``: a directory for each tag; those of digests are found, but not listed."""

    is_read_only = True
    gains_names = True

    path: str
    services: ImageServices
    mtime_ns: Callable[[], int]

    @property
    def kind_of_children(self) -> Kind:
        return Kind.DIRECTORY

    def attr(self) -> Attr:
        return Attr(Kind.DIRECTORY, mtime_ns=self.mtime_ns())

    def lookup(self, name: str) -> Node:
        repository = self.services.repository
        digest = _digest_of(name)
        if digest is None:
            try:
                tag = Tag(name)
            except NameInvalid:
                raise NotFound(f"{self.path} has no {name[:160]!r}") from None
            digest = repository.tags.get(tag)
        mtime_ns = repository.manifests.links.stat(digest).mtime_ns or 0
        path = f"{self.path}/{name}"
        return ImageDirectory(path, self.services, digest, name, mtime_ns, "../../../")

    def names(self) -> Iterator[str]:
        return self.services.repository.tags.list_unchecked()


@dataclass(frozen=True, slots=True)
class ImageDirectory(NamedChildren):
    """The image of a revision; *name* is its tag or digest, *up* leads from ``layers`` upwards."""

    is_read_only = True

    path: str
    services: ImageServices
    digest: Digest
    name: str
    mtime_ns: int
    up: str

    @property
    def key(self) -> str:
        return f"{self.path}@{self.digest}"

    def attr(self) -> Attr:
        return Attr(Kind.DIRECTORY, mtime_ns=self.mtime_ns)

    def xattrs(self) -> Mapping[str, Callable[[], str]]:
        return {"user.blobfs.digest": lambda: str(self.digest)}

    def makers(self) -> _Nodes:
        services = self.services
        nodes = _Nodes()
        platforms = services.images.platforms(services.repository, self.digest)
        try:
            image = services.images.here(services.repository, self.digest)
        except NotFound:  # an index without images
            nodes["manifest.json"] = partial(services.revision, self.digest)
        else:
            nodes.update(_ImageNodes(self, image).nodes())
        if None not in platforms:
            nodes["platforms"] = partial(self._platforms, platforms)
        return nodes

    def _platforms(self, platforms: Mapping[Platform | None, Digest]) -> Node:
        path = f"{self.key}/platforms"
        return ReadOnlyDirectory(
            path,
            self.mtime_ns,
            {
                str(platform): partial(self._of_platform, f"{path}/{platform}", digest)
                for platform, digest in platforms.items()
            },
        )

    def _of_platform(self, path: str, digest: Digest) -> Node:
        return ImageDirectory(
            path, self.services, digest, self.name, self.mtime_ns, f"../../{self.up}"
        )


class _ImageNodes:
    """Makes the nodes of one image in a *directory*."""

    def __init__(self, directory: ImageDirectory, image: Image) -> None:
        self._directory = directory
        self._services = directory.services
        self._image = image

    def nodes(self) -> _Nodes:
        """Return the entries of the directory."""
        return _Nodes(
            {
                "manifest.json": partial(self._services.revision, self._image.digest),
                "config.json": partial(self._services.layer, self._image.config.digest),
                "layers": partial(self._fixed, "layers", self._layers),
                "rootfs": self._rootfs,
                "oci": partial(self._fixed, "oci", self._oci),
                "dir": partial(self._fixed, "dir", self._dir),
            }
        )

    def _fixed(self, name: str, nodes: Callable[[str], _Nodes]) -> Node:
        path = f"{self._directory.key}/{name}"
        return ReadOnlyDirectory(path, self._directory.mtime_ns, nodes(path))

    def _rootfs(self) -> Node:
        services = self._services
        return RootfsDirectory(
            f"{self._directory.key}/rootfs",
            services.images,
            services.repository,
            self._image,
            self._directory.mtime_ns,
            services.flatten_owners,
        )

    def _layers(self, path: str) -> _Nodes:
        nodes = _Nodes()
        for number, layer in enumerate(self._image.layers, 1):
            digest = layer.descriptor.digest
            name = f"{number:02}-{digest.encoded[:12]}{_suffix(layer.descriptor.media_type)}"
            target = f"{self._directory.up}_layers/{digest.algorithm}/{digest.encoded}"
            nodes[name] = partial(FixedLink, f"{path}/{name}", target, self._directory.mtime_ns)
        return nodes

    def _oci(self, path: str) -> _Nodes:
        manifest = self._services.repository.manifests.get(self._image.digest)
        descriptor = self._descriptor(manifest.media_type)
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor]}
        return _Nodes(
            {
                "oci-layout": self._file(path, "oci-layout", {"imageLayoutVersion": "1.0.0"}),
                "index.json": self._file(path, "index.json", index),
                "blobs": partial(self._fixed, "oci/blobs", self._algorithms),
            }
        )

    def _descriptor(self, media_type: str) -> dict[str, object]:
        image, directory = self._image, self._directory
        size = self._services.repository.manifests.links.stat(image.digest).size
        return {
            "mediaType": media_type,
            "digest": str(image.digest),
            "size": size,
            "annotations": {"org.opencontainers.image.ref.name": directory.name},
        }

    def _file(self, path: str, name: str, document: object) -> Callable[[], Node]:
        content = json.dumps(document, indent=2).encode() + b"\n"
        return partial(BytesFile, f"{path}/{name}", self._directory.mtime_ns, content)

    def _algorithms(self, _path: str) -> _Nodes:
        return _Nodes(
            {
                algorithm: partial(self._fixed, f"oci/blobs/{algorithm}", self._blobs(algorithm))
                for algorithm in sorted({digest.algorithm for digest in self._files()})
            }
        )

    def _blobs(self, algorithm: str) -> Callable[[str], _Nodes]:
        def nodes(_path: str) -> _Nodes:
            return _Nodes(
                {
                    digest.encoded: node
                    for digest, node in self._files().items()
                    if digest.algorithm == algorithm
                }
            )

        return nodes

    def _files(self) -> dict[Digest, Callable[[], Node]]:
        """Return the blobs of the image, with the functions that make their files."""
        found: dict[Digest, Callable[[], Node]] = {}
        descriptors: list[Descriptor] = [each.descriptor for each in self._image.layers]
        for descriptor in (self._image.config, *descriptors):
            found[descriptor.digest] = partial(self._services.layer, descriptor.digest)
        found[self._image.digest] = partial(self._services.revision, self._image.digest)
        return found

    def _dir(self, path: str) -> _Nodes:
        version = BytesFile(
            f"{path}/version", self._directory.mtime_ns, b"Directory Transport Version: 1.1\n"
        )
        files = self._files()
        manifest = files.pop(self._image.digest)
        return _Nodes(
            {
                "version": lambda: version,
                "manifest.json": manifest,
                **{digest.encoded: node for digest, node in files.items()},
            }
        )


def _digest_of(name: str) -> Digest | None:
    try:
        return Digest.parse(name)
    except DigestInvalid:
        return None


def _suffix(media_type: str) -> str:
    """Return the suffix of a layer's file name; ``.blob`` for a type that is no archive."""
    _, _, kind = media_type.rpartition(".diff.") if ".diff." in media_type else ("", "", "")
    if not kind:
        kind = media_type.rpartition(".v1.")[2]
    return _SUFFIXES.get(kind, ".blob")

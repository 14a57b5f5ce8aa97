"""The options of commands that look into images, and the indexes that these commands use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import click

from blobfs.cli.opening import ByteBar, digest_of
from blobfs.cli.types import DIRECTORY, Option, Parsed, Size
from blobfs.config.settings import default_indexes
from blobfs.images.image import Image
from blobfs.images.images import Images
from blobfs.images.index_store import IndexStore
from blobfs.images.layer import Layer
from blobfs.images.platforms import Platform
from blobfs.images.rootfs import RootFilesystem
from blobfs.reference import Reference
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository

T = TypeVar("T")

INDEX_OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "--index-dir": {
        "help": "Directory for indexes of images, which mounts and commands share.",
        "type": DIRECTORY,
        "show_default": "/var/cache/blobfs/images, or ~/.cache/blobfs/images",
    },
    "--index-size": {
        "help": "Largest size of --index-dir.",
        "type": Size(),
        "default": "4G",
        "show_default": True,
    },
}
"""The attributes of options by name."""


@dataclass(frozen=True, slots=True)
class Indexes:
    """The directory of indexes, and its largest size in bytes."""

    directory: Path
    size: int

    def images(self, registry: Registry, on_read: Callable[[int], object]) -> Images:
        """Return the images of *registry*; see ``Images``."""
        return Images(registry, IndexStore(self.directory, self.size), on_read)


class ImageFiles(NamedTuple):
    """An image and its root filesystem."""

    image: Image
    files: RootFilesystem


@dataclass(frozen=True, slots=True)
class ImageOpener:
    """Opens images; of an index the one for *platform*, by default for this machine."""

    indexes: Indexes
    platform: Platform | None

    def open(self, registry: Registry, *references: Reference) -> list[ImageFiles]:
        """Open the images of *references*; a bar is shown while layers are read.

        Raises RepositoryUnknown, TagUnknown, NotFound, Corrupt; AccessDenied and StorageFull if the
        indexes cannot be stored.
        """
        bar = ByteBar("Indexing")
        images = self.indexes.images(registry, bar.add)
        found = []
        for reference in references:
            repository = registry.existing(reference.repository)
            found.append((repository, self._image(images, repository, reference)))
        layers = [layer for _, image in found for layer in images.unindexed(image)]
        with bar.showing(bytes_of(layer for layer in layers if layer.table is None)):
            return [
                ImageFiles(image, images.rootfs(repository, image)) for repository, image in found
            ]

    def _image(self, images: Images, repository: Repository, reference: Reference) -> Image:
        digest = digest_of(repository, reference)
        if self.platform is None:
            return images.here(repository, digest)
        return images.for_platform(repository, digest, self.platform)


def bytes_of(layers: Iterable[Layer]) -> int:
    """Return the size of the blobs of *layers*."""
    return sum({layer.descriptor.digest: layer.descriptor.size for layer in layers}.values())


def image_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add the options for one image to a command, which takes them as the argument *opener*."""

    @click.option(
        "--platform",
        type=Parsed("platform", Platform.parse),
        metavar="OS/ARCH[/VARIANT]",
        help="Platform to choose from an image index.  [default: that of this machine]",
    )
    @index_options
    @wraps(command)
    def with_opener(*, indexes: Indexes, platform: Platform | None, **others: object) -> T:
        return command(opener=ImageOpener(indexes, platform), **others)

    return with_opener


def index_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add the options of indexes to a command, which takes them as the argument *indexes*."""

    @wraps(command)
    def with_indexes(*, index_dir: Path | None, index_size: int, **others: object) -> T:
        return command(indexes=Indexes(index_dir or default_indexes(), index_size), **others)

    for name, attributes in reversed([*INDEX_OPTIONS.items()]):
        with_indexes = click.option(name, cls=Option, **attributes)(with_indexes)
    return with_indexes

"""The options of commands that look into images, and the indexes that these commands use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from blobfs.cli.types import DIRECTORY, Option, Size
from blobfs.config.settings import default_indexes
from blobfs.images.images import Images
from blobfs.images.index_store import IndexStore
from blobfs.storage.registry import Registry

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


def index_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add the options of indexes to a command, which takes them as the argument *indexes*."""

    @wraps(command)
    def with_indexes(*, index_dir: Path | None, index_size: int, **others: object) -> T:
        return command(indexes=Indexes(index_dir or default_indexes(), index_size), **others)

    for name, attributes in reversed([*INDEX_OPTIONS.items()]):
        with_indexes = click.option(name, cls=Option, **attributes)(with_indexes)
    return with_indexes

"""A filesystem that shows the storage of a Docker/OCI registry.

The mount is built on a library, which needs neither FUSE nor a running registry:

>>> from blobfs import open_registry
>>> with open_registry("memory:") as registry:
...     repository = registry.repository("library/app")
...     with repository.uploads.create() as upload:
...         upload.write(b"what the ")
...         upload.write(b"blob holds")
...         layer = upload.commit()
...     print(layer.digest, layer.size)
...     with repository.layers.open(layer.digest) as reader:
...         print(reader.read_at(5, 3))
sha256:16fa00472b01e73ac146a09d548b80fa3af7d2d31d46e79b1a30de2ceec6d500 19
b'the'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blobfs.storage.registry import Registry, open_registry

__all__ = ["Registry", "open_registry"]


def __getattr__(name: str) -> object:
    """Import the library with its first use: a child process of a mount needs little of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("blobfs.storage.registry"), name)

"""From what a person types, ``/dir``, ``file:///dir`` or ``memory:``, to a driver."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from blobfs.drivers.base import StorageDriver
from blobfs.drivers.checked import CheckedDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.errors import MountRefused


def local_root(storage: str) -> Path | None:
    """The directory that *storage* names, absolute; None where it names something else.

    Raises MountRefused for a URL that no driver takes.
    """
    if storage.startswith(("/", ".")) or ":" not in storage:
        return Path(storage).absolute()
    url = urlsplit(storage)
    match url.scheme:
        case "file" if url.netloc in {"", "localhost"}:
            return Path(unquote(url.path)).absolute()
        case "memory" | "inmemory":
            return None
    raise MountRefused(
        f"{storage!r} is not a storage; give a directory, file:///directory or memory:"
    )


def driver_for(storage: str) -> StorageDriver:
    """A checked driver over *storage*, to be closed by the caller.

    Raises MountRefused, PathNotFound, AccessDenied, StorageUnavailable.
    """
    root = local_root(storage)
    return CheckedDriver(InMemoryDriver() if root is None else FilesystemDriver.below(root))

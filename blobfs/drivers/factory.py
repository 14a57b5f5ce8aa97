"""From what a person types, ``/dir``, ``file:///dir`` or ``memory:``, to a driver."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from blobfs.drivers.base import StorageDriver
from blobfs.drivers.checked import CheckedDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.errors import MountRefused


def local_root(storage: str) -> Path | None:
    """The directory that *storage* names, absolute; None where it names something else.

    Raises MountRefused for what no driver takes.
    """
    if storage.startswith(("/", ".")) or ":" not in storage:
        return _absolute(storage, storage)
    try:
        url = urlsplit(storage)
    except ValueError:
        raise _refusal(storage) from None
    match url:
        case SplitResult(scheme="file", netloc="" | "localhost", query="", fragment=""):
            return _absolute(unquote(url.path), storage)
        case SplitResult(scheme="memory" | "inmemory"):
            return None
    raise _refusal(storage)


def _absolute(directory: str, storage: str) -> Path:
    if not directory or "\0" in directory:
        raise _refusal(storage)
    return Path(directory).absolute()


def _refusal(storage: str) -> MountRefused:
    return MountRefused(
        f"{storage!r} is not a storage; give a directory, file:///directory or memory:"
    )


def driver_for(storage: str) -> StorageDriver:
    """A checked driver over *storage*, to be closed by the caller.

    Raises MountRefused, PathNotFound, AccessDenied, StorageUnavailable.
    """
    root = local_root(storage)
    return CheckedDriver(InMemoryDriver() if root is None else FilesystemDriver.below(root))

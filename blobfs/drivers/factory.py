"""The factory of drivers: from ``/dir``, ``s3://bucket/prefix`` or ``memory:`` to a driver."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from blobfs.drivers.base import StorageDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.drivers.measured import measured
from blobfs.drivers.s3.options import S3Options
from blobfs.errors import MountRefused


def is_s3(storage: str) -> bool:
    """True if *storage* is the URL of a bucket; schemes are case-insensitive."""
    return storage[:3].lower() == "s3:"


def local_root(storage: str) -> Path | None:
    """The absolute path of the directory that *storage* names; None for other storages.

    Raises MountRefused if there is no driver for *storage*.
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
        case SplitResult(scheme="memory" | "inmemory" | "s3"):
            return None
    raise _refusal(storage)


def endpoint_of(storage: str) -> str:
    """The bucket and its endpoint, or the path, of *storage*, for messages."""
    if not is_s3(storage):
        return storage
    options = S3Options.parse(storage)
    variables = (os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))
    endpoint = options.endpoint or next(filter(None, variables), None)
    return f"{options} at {endpoint}" if endpoint and "@" not in endpoint else str(options)


def key_of(storage: str) -> str:
    """16 digits for *storage*, the same for all of its URLs; for the names of state files."""
    if is_s3(storage):
        bucket = S3Options.parse(storage)  # without the access keys, which may change
        storage = f"{bucket.endpoint or ''} {bucket.bucket} {bucket.root}"
    elif root := local_root(storage):
        storage = str(root.resolve())
    return sha256(os.fsencode(storage)).hexdigest()[:16]


def _absolute(directory: str, storage: str) -> Path:
    if not directory or "\0" in directory:
        raise _refusal(storage)
    return Path(directory).absolute()


def _refusal(storage: str) -> MountRefused:
    return MountRefused(
        f"{storage!r} is not a storage; give a directory, s3://bucket/prefix or memory:"
    )


def driver_for(storage: str) -> StorageDriver:
    """Create the driver of *storage*; its calls are measured, but not checked.

    The caller closes it. Raises MountRefused, PathNotFound, AccessDenied, StorageUnavailable.
    """
    root = local_root(storage)
    if root is not None:
        return measured(FilesystemDriver.below(root))
    if not is_s3(storage):
        return measured(InMemoryDriver())
    from blobfs.drivers.s3.driver import S3Driver  # noqa: PLC0415  (boto3 takes 0.3 s to import)

    return measured(S3Driver.reached(S3Options.parse(storage)))

"""The location of a registry's storage: a directory, a bucket, or the memory of the process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Self
from urllib.parse import SplitResult, unquote, urlsplit

from blobfs.drivers.rate_limit import RateLimits
from blobfs.drivers.s3.options import S3Options
from blobfs.errors import MountRefused


@dataclass(frozen=True, slots=True)
class Location:
    """The directory *root*, or the bucket *bucket*; memory without either. Immutable.

    The drivers of the location keep within *limits*. A pickled location has no credentials: who
    loads it finds them in its environment.
    """

    root: Path | None = None
    bucket: S3Options | None = None
    limits: RateLimits | None = None

    @classmethod
    def of(cls, storage: str | Self) -> Self:
        """Parse ``/dir``, ``file:///dir``, ``s3://bucket/prefix?option=value`` or ``memory:``.

        A location is returned as it is. Raises MountRefused.
        """
        if not isinstance(storage, str):
            return storage
        root = local_root(storage)
        if root is None and storage[:3].lower() == "s3:":
            return cls(bucket=S3Options.parse(storage))
        return cls(root=root)

    def __str__(self) -> str:
        """The path, or the URL without its options."""
        return str(self.root or self.bucket or "memory:")

    @property
    def url(self) -> str:
        """The path, or the URL with its options; credentials are never in it."""
        return str(self) if self.bucket is None else self.bucket.url

    @property
    def address(self) -> str:
        """The path, or the bucket and its endpoint, for messages."""
        if self.bucket is None:
            return str(self)
        variables = (os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))
        endpoint = self.bucket.endpoint or next(filter(None, variables), None)
        return f"{self} at {endpoint}" if endpoint and "@" not in endpoint else str(self)

    @property
    def key(self) -> str:
        """16 digits that are the same for all names of the storage; for names of state files."""
        if self.bucket is not None:  # without the access keys, which may change
            name = f"{self.bucket.endpoint or ''} {self.bucket.bucket} {self.bucket.root}"
        else:
            name = str(self) if self.root is None else str(self.root.resolve())
        return sha256(os.fsencode(name)).hexdigest()[:16]


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


def _absolute(directory: str, storage: str) -> Path:
    if not directory or "\0" in directory:
        raise _refusal(storage)
    return Path(directory).absolute()


def _refusal(storage: str) -> MountRefused:
    return MountRefused(
        f"{storage!r} is not a storage; give a directory, s3://bucket/prefix, memory:,"
        " or a registry's config.yml"
    )

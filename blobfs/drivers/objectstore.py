"""The contract of object stores: a driver with flat listings, one request a page."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from blobfs.drivers.base import FileInfo, StorageDriver


def is_below(path: str, directory: str) -> bool:
    """True if *path* is *directory* or below it."""
    return path == directory or path.startswith(f"{directory.rstrip('/')}/")


class ListedFile(NamedTuple):
    """A file in a flat listing. *etag* identifies its version; for a small file it is the MD5."""

    path: str
    size: int
    mtime_ns: int
    etag: str


class Page(NamedTuple):
    """One page of a flat listing."""

    files: list[ListedFile]
    is_last: bool


class ObjectStore(StorageDriver):
    """A driver that stores objects by key; a directory is a common prefix of keys."""

    is_object_store = True

    @abstractmethod
    def pages(self, path: str, *, limit: int = 1000, after: str = "") -> Iterator[Page]:
        """List all files below a directory, sorted by key, at most *limit* a page.

        Only those *after* a path are listed, which need not exist.

        Each page is one request, made when the iterator reaches it; the first may be empty. A file
        may have the same path as a directory.
        """

    @abstractmethod
    def stat_files(self, paths: Sequence[str]) -> list[FileInfo | None]:
        """``stat_now`` of each path, by parallel requests; None for a missing one."""

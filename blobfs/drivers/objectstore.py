"""What a store of objects can do beyond what every driver can: list flatly, a page a request."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from blobfs.drivers.base import FileInfo, StorageDriver


class ListedFile(NamedTuple):
    """A file as a flat listing has it: *etag* is its version's name, the MD5 of a small file."""

    path: str
    size: int
    mtime_ns: int
    etag: str


class Page(NamedTuple):
    """What one request for a flat listing tells."""

    files: list[ListedFile]
    is_last: bool


class ObjectStore(StorageDriver):
    """A store of objects by key: a directory is nothing but what keys have in common."""

    is_object_store = True

    @abstractmethod
    def pages(self, path: str, *, limit: int = 1000) -> Iterator[Page]:
        """All files below a directory, in the order of their keys, at most *limit* on a page.

        Each page is one request, made when it is taken; the first may be empty. A file may have
        the path of a directory that other files are in.
        """

    @abstractmethod
    def stat_files(self, paths: Sequence[str]) -> list[FileInfo | None]:
        """``stat_now`` of each path, one request each, side by side; None for a missing one."""

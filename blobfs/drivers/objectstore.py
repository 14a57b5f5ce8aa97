"""The contract of object stores: a driver with flat listings, one request a page."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from blobfs.drivers.base import FileInfo, StorageDriver
from blobfs.drivers.resumable import ResumableUploads


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


@runtime_checkable
class RemoteStorage(Protocol):
    """Facilities of a storage behind a server. Thread-safe."""

    def write_refusal(self, path: str) -> str | None:
        """The reason why *path* may not be written, or None; checked without writing."""

    def redirect_url(self, path: str) -> str | None:
        """A presigned URL by which any client may fetch the file for a limited time.

        The file need not exist. None if the server has no such URLs. The URL is a secret: it must
        not be logged.
        """

    def watch(self, changed: Callable[[str], None]) -> None:
        """Call *changed* with the path of each file that a reader finds replaced or removed.

        It is called in the thread of the read, before the error is raised.
        """


class ObjectStore(StorageDriver, ResumableUploads, RemoteStorage):
    """A driver that stores objects by key; a directory is a common prefix of keys."""

    is_local = False
    is_object_store = True

    @abstractmethod
    def pages(self, path: str, *, limit: int = 1000, after: str = "") -> Iterator[Page]:
        """List all files below a directory, sorted by key, at most *limit* a page.

        Only those *after* a path are listed, which need not exist.

        Each page is one request, made when the iterator reaches it; the first may be empty. A file
        may have the same path as a directory.
        """

    @abstractmethod
    def stat_now(self, path: str) -> FileInfo:
        """The attributes of a file, by one request; raises PathNotFound, also for a directory."""

    @abstractmethod
    def stat_files(self, paths: Sequence[str]) -> list[FileInfo | None]:
        """``stat_now`` of each path, by parallel requests; None for a missing one."""


def remote_of(driver: StorageDriver) -> RemoteStorage | None:
    """Return *driver* if it is behind a server; call it once, as the check is slow."""
    return driver if isinstance(driver, RemoteStorage) else None

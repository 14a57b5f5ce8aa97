"""The contract of storage drivers, readers and writers.

Drivers are synchronous and thread-safe. The suite in ``tests/drivers`` checks this contract for all
drivers, bare and wrapped. Its source is distribution, ``registry/storage/driver/storagedriver.go``;
this text decides where distribution's is open.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from blobfs.concurrency import PARALLEL
from blobfs.errors import AppendOnly, NotAFile, PathNotFound, Unsupported

A = TypeVar("A")
T = TypeVar("T")


class FileInfo(NamedTuple):
    """A path's attributes. *size* is in bytes, and 0 for a directory.

    *mtime_ns* is in nanoseconds since the epoch, and 0 if the backend does not know it. *identity*
    is that of a stored directory: another directory at its path has another. It is None for a file,
    and if the backend does not store directories.
    """

    path: str
    size: int
    is_dir: bool
    mtime_ns: int
    identity: object = None


class NewFile(NamedTuple):
    """A small file that is to be stored."""

    path: str
    content: bytes
    is_immutable: bool


class DirEntry(NamedTuple):
    """A direct child of a directory.

    A symlink counts as a directory, which cannot be read: so it is not left out without an error.
    """

    name: str
    is_dir: bool


class Closing(ABC):
    """An object that a ``with`` block closes."""

    @abstractmethod
    def close(self) -> None:
        """Release the resources; idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


class FileReader(Closing):
    """An open file; its content is that at opening, as far as the backend can keep it."""

    @property
    @abstractmethod
    def size(self) -> int:
        """The length in bytes at opening."""

    @abstractmethod
    def read_at(self, offset: int, size: int) -> bytes:
        """Read up to *size* bytes from *offset*; short or empty only at the end."""

    def read_nowait(self, offset: int, size: int) -> bytes | memoryview | None:
        """``read_at`` if it takes microseconds; else None."""
        return None

    def chunks(self, size: int = 2**20) -> Iterator[bytes]:
        """Read the whole content, *size* bytes at a time."""
        offset = 0
        while chunk := self.read_at(offset, size):
            yield chunk
            offset += len(chunk)


class BytesReader(FileReader):
    """A reader of content in memory."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    @property
    def size(self) -> int:
        return len(self._content)

    def read_at(self, offset: int, size: int) -> bytes:
        return self._content[offset : offset + size]

    def read_nowait(self, offset: int, size: int) -> bytes:
        return self.read_at(offset, size)

    def close(self) -> None:
        """Do nothing: the reader holds only memory."""


class FileWriter(Closing):
    """A file that is being written from its start to its end.

    ``commit``, ``cancel`` and ``close`` end a writer: afterwards ``close`` does nothing, and every
    other method raises WriterClosed; ``size`` remains. A failed ``commit`` changes nothing. A full
    storage raises StorageFull; ``size`` then has the number of bytes that were written.
    """

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes written by this writer and those before it, including buffered ones."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Append *data*."""

    def can_write_nowait(self, size: int) -> bool:
        """True if ``write`` of *size* bytes takes microseconds, without waiting for a network."""
        return False

    def rewrite(self, offset: int, data: bytes) -> None:
        """Overwrite the bytes from *offset* on with *data*; *offset* is at most ``size``.

        *data* may extend the file. Raises AppendOnly if the backend cannot overwrite.
        """
        raise AppendOnly(f"{len(data)} bytes at {offset}: this storage cannot overwrite")

    def truncate(self, size: int) -> None:
        """Cut the file to *size* bytes, or extend it with zeros.

        Raises AppendOnly if the backend cannot truncate.
        """
        raise AppendOnly(f"truncate to {size} bytes: this storage can only append")

    def read_at(self, offset: int, size: int) -> bytes:
        """Read up to *size* of the written bytes from *offset*.

        Raises Unsupported if the backend cannot read them before ``commit``.
        """
        raise Unsupported(f"{size} bytes at {offset} cannot be read before they are committed")

    @property
    def token(self) -> str:
        """The token by which ``append`` finds the written bytes directly; ``""`` for none."""
        return ""

    def go_back(self, size: int) -> None:
        """Cut the bytes that ``append`` found to *size*, for a caller that knows no more of them.

        Unlike ``truncate`` it need not support every size. Raises AppendOnly for others.
        """
        self.truncate(size)

    def is_undisturbed(self) -> bool:
        """True if no other change of the file since its opening is visible.

        Raises Stale if the file was moved away or removed. Every change through the writer checks
        this first, and raises Stale, or Busy if another writer has changed the file.
        """
        return True

    @property
    def fingerprint(self) -> str:
        """A string that changes with any change of the file.

        ``""`` after another writer's change, and always if the backend has no such string.
        """
        return ""

    def move_to(self, target: str) -> bool:
        """Make the file immutable, commit it under *target*, which it replaces, and end the writer.

        False, with nothing changed, if only a copy is safe or possible: another writer has the
        file open, *target* is on another file system, or the backend cannot move.
        """
        return False

    @property
    def undisturbed_size(self) -> int:
        """The number of leading bytes that ``append`` found as they were flushed.

        A saved hash state is valid for those bytes only. It is ``size`` if the backend reports
        changes in another way.
        """
        return self.size

    @abstractmethod
    def flush(self) -> None:
        """Make the written bytes durable, as ``close`` does, and stay open."""

    @abstractmethod
    def commit(self) -> None:
        """Make the file durable and readable under its path."""

    @abstractmethod
    def cancel(self) -> None:
        """Discard the written bytes.

        Afterwards the path is missing; in an object store it is unchanged.
        """

    @abstractmethod
    def close(self) -> None:
        """Make the written bytes durable for a later ``append``; they need not be readable."""


class StorageDriver(ABC):
    """Stores files by absolute path. Thread-safe.

    Directories are created with their files, and may remain after their last file. A path is ``/``
    or components of ``[A-Za-z0-9._-]+``, each after a slash, neither ``.`` nor ``..``;
    ``BaseDriver`` checks this for all drivers. *name* is distribution's name of the driver.
    """

    name: str

    is_local: bool
    """True if calls are short enough for an event loop (microseconds).

    On an event loop a call that may take longer raises TakesLong, without a change.
    """

    is_object_store: bool = False
    """True if a file is an object, which is replaced atomically as a whole.

    The old object remains until ``FileWriter.commit``, and uncommitted bytes are invisible. A
    directory exists as long as files are below it.
    """

    @abstractmethod
    def stat(self, path: str) -> FileInfo:
        """The attributes of a file or directory; raises PathNotFound.

        For ``/`` it checks that the storage answers; raises AccessDenied, StorageUnavailable.
        """

    def stat_many(self, paths: Sequence[str]) -> list[FileInfo | None]:
        """``stat`` of each path, in their order; None for a missing one."""
        return [stat_or_none(self, path) for path in paths]

    @abstractmethod
    def listdir(self, path: str) -> Iterator[DirEntry]:
        """List the direct children, in no order; raises PathNotFound before the first.

        A child that is created or removed meanwhile may or may not be listed; all others are.
        Temporary files of unfinished writes are not listed.
        """

    @abstractmethod
    def open(self, path: str, size: int | None = None) -> FileReader:
        """Open a file to read it; raises PathNotFound, NotAFile.

        *size* in bytes is given if it is known. If opening costs a request, it is omitted then, and
        reading raises PathNotFound, FileChanged.
        """

    def read_at(self, path: str, offset: int, size: int) -> bytes:
        """Read up to *size* bytes from *offset*; short or empty only at the end.

        Raises PathNotFound, NotAFile.
        """
        with self.open(path) as reader:
            return reader.read_at(offset, size)

    @abstractmethod
    def put_content(self, path: str, content: bytes) -> None:
        """Create or replace a small file, durably and atomically.

        Raises NotAFile for a directory and NotADirectory below a file, except in an object store.
        """

    def put_immutable(self, path: str, chunks: Iterable[bytes], size: int | None = None) -> None:
        """``put_content`` of an immutable file of any length.

        If *size* is given, a file that has so many bytes is kept, and made durable; an object store
        replaces it. An exception of *chunks* is passed on, and nothing is changed.
        """
        info = None if size is None else stat_or_none(self, path)
        if info is not None and not info.is_dir and info.size == size:
            self.sync(path)
        else:
            self.put_content(path, b"".join(chunks))

    def put_files(self, files: Iterable[NewFile]) -> None:
        """``put_content`` or ``put_immutable`` of each of *files*, together.

        They become visible in no order. Some may be stored after a failure, as a whole.
        """
        for file in files:
            if file.is_immutable:
                self.put_immutable(file.path, (file.content,))
            else:
                self.put_content(file.path, file.content)

    def sync(self, path: str) -> None:  # noqa: B027  (most backends are durable at once)
        """Make the file at *path*, of any writer, durable; raises PathNotFound."""

    def set_mtime(self, path: str, mtime_ns: int) -> None:  # noqa: B027  (most backends cannot)
        """Set the modification time of a file, if the backend can; raises PathNotFound."""

    @abstractmethod
    def create(self, path: str) -> FileWriter:
        """Write a file from its start.

        An existing file is removed at once; in an object store it remains until ``commit``.
        Raises NotAFile for a directory and NotADirectory below a file.
        """

    @abstractmethod
    def append(self, path: str, token: str = "") -> FileWriter:
        """Continue a file that a writer closed, or that is empty; raises PathNotFound, NotAFile.

        With the *token* of that writer, no other writer's bytes are continued.
        """

    @abstractmethod
    def move(self, source: str, target: str) -> None:
        """Rename a file, replacing *target*; a failure changes neither.

        The file is copied if *target* is on another file system. *target* is durable afterwards;
        *source* may reappear after a crash.

        Raises PathNotFound without a source, NotAFile if either is a directory, and NotADirectory
        below a file.
        """

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove a file, or a directory and everything below it; raises PathNotFound."""

    def prune(self, path: str) -> None:  # noqa: B027  (most backends have no directories)
        """Remove the empty directories at *path* and below it.

        A missing directory is no error. A file that is created meanwhile is never lost.
        """

    def close(self) -> None:  # noqa: B027  (most drivers hold nothing)
        """Release the driver's resources; it is not used again."""


def is_below(path: str, directory: str) -> bool:
    """True if *path* is *directory* or below it."""
    return path == directory or path.startswith(f"{directory.rstrip('/')}/")


def stat_or_none(driver: StorageDriver, path: str) -> FileInfo | None:
    """The attributes of a path; None for a missing one."""
    try:
        return driver.stat(path)
    except PathNotFound:
        return None


def holds(driver: StorageDriver, file: NewFile) -> bool:
    """True if the immutable *file* is stored, so that it need not be sent again."""
    if not file.is_immutable:
        return False
    try:
        return driver.read_at(file.path, 0, len(file.content) + 1) == file.content
    except (PathNotFound, NotAFile):
        return False


def map_each(
    driver: StorageDriver, call: Callable[[A], T], items: Iterable[A]
) -> Iterator[tuple[A, T]]:
    """Yield each of *items* with the result of *call*, which uses *driver*, in order.

    A remote storage is used by up to 32 threads, which make the calls.
    """

    def pair(item: A) -> tuple[A, T]:
        return item, call(item)

    return map(pair, items) if driver.is_local else PARALLEL.map(pair, items)

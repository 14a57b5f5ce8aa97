"""The storage driver: a small file system that every backend can offer.

Drivers are synchronous and thread-safe. ``tests/drivers`` holds all of them, bare and
wrapped, to what is written here. Source of the contract: distribution,
``registry/storage/driver/storagedriver.go``; where it leaves room, this text decides.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

from blobfs.errors import AccessDenied, AppendOnly, PathNotFound, Unsupported


class FileInfo(NamedTuple):
    """A path's attributes. *size* is in bytes, and 0 for a directory.

    *mtime_ns* is in nanoseconds since the epoch, and 0 where the backend does not know it,
    as some do not for directories.
    """

    path: str
    size: int
    is_dir: bool
    mtime_ns: int


class DirEntry(NamedTuple):
    """A direct child of a directory."""

    name: str
    is_dir: bool


@dataclass(frozen=True, slots=True)
class Capacity:
    """A backend's room, in bytes and in files."""

    size: int
    free: int
    available: int
    files: int
    files_free: int


class Closing(ABC):
    """Something that ``with`` closes."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is held; more than once does no harm."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


class FileReader(Closing):
    """An open file, as it was when it was opened as far as the backend can keep it so."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Length in bytes when it was opened."""

    @abstractmethod
    def read_at(self, offset: int, size: int) -> bytes:
        """Up to *size* bytes from *offset*; short or empty past the end, and only there."""

    def read_nowait(self, offset: int, size: int) -> bytes | memoryview | None:
        """``read_at``, if that takes microseconds; else None."""
        return None

    def chunks(self, size: int = 2**20) -> Iterator[bytes]:
        """Everything from the start, *size* bytes at a time."""
        offset = 0
        while chunk := self.read_at(offset, size):
            yield chunk
            offset += len(chunk)


class BytesReader(FileReader):
    """Content that is all in memory."""

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
        """Nothing is held but memory."""


class FileWriter(Closing):
    """A file being written from its start to its end.

    After ``commit``, ``cancel`` or ``close`` it is over: ``close`` does nothing, and all else
    but ``size`` raises WriterClosed. A ``commit`` that fails leaves it as it was. What fails for
    want of room raises StorageFull, and ``size`` tells how much of it was written.
    """

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes written, by this writer and those it appends to, buffered ones included."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Add *data* at the end."""

    def can_write_nowait(self, size: int) -> bool:
        """Whether ``write`` of *size* bytes takes microseconds: it waits for no network."""
        return False

    def rewrite(self, offset: int, data: bytes) -> None:
        """Replace what was written from *offset* on, which is not beyond ``size``, by *data*.

        It may reach beyond the end. Raises AppendOnly where the backend cannot.
        """
        raise AppendOnly(f"{len(data)} bytes at {offset}: what was written stays as it is here")

    def truncate(self, size: int) -> None:
        """Cut the file to *size* bytes, or fill it with zeros up to there.

        Raises AppendOnly where the backend cannot.
        """
        raise AppendOnly(f"cut to {size} bytes: what was written stays as it is here")

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to *size* of the bytes written, from *offset*.

        Raises Unsupported where the backend shows nothing before ``commit``.
        """
        raise Unsupported(f"{size} bytes at {offset} cannot be read before they are committed")

    @property
    def token(self) -> str:
        """What ``append`` may be given to find what was written at once; ``""`` for nothing."""
        return ""

    def go_back(self, size: int) -> None:
        """Cut to *size* bytes what ``append`` goes on with, for a reader that knows no more of it.

        Raises AppendOnly where the backend cannot: not at every size.
        """
        self.truncate(size)

    def is_undisturbed(self) -> bool:
        """Whether nobody else has written to the file since it was opened, as far as that shows.

        Raises Stale where somebody has moved it away or removed it. Every change asks this first,
        and raises Stale, or Busy where somebody else has written.
        """
        return True

    @property
    def fingerprint(self) -> str:
        """Text that is another one after any change of the file.

        ``""`` after somebody else's, and always where the backend has no such text.
        """
        return ""

    def move_to(self, target: str) -> bool:
        """Commit the file under the path *target*, which it replaces, and end; immutable there.

        False, with nothing changed, where only a copy is safe or possible: somebody else has the
        file open for writing, *target* is on another file system, or the backend cannot move.
        """
        return False

    @property
    def undisturbed_size(self) -> int:
        """Bytes that ``append`` found as they were flushed: of no others a saved hash state counts.

        All of them, where the backend tells of a change in another way.
        """
        return self.size

    @abstractmethod
    def flush(self) -> None:
        """Make durable what was written, as ``close`` does, and go on."""

    @abstractmethod
    def commit(self) -> None:
        """Make the file durable and readable under its path."""

    @abstractmethod
    def cancel(self) -> None:
        """Throw away all that was written.

        The path is missing afterwards, in an object store what it was.
        """

    @abstractmethod
    def close(self) -> None:
        """Leave what was written, durable, to a later ``append``; it need not be readable."""


class Unfinished(NamedTuple):
    """A file that somebody began to write to an object store; *began* is in seconds."""

    path: str
    token: str
    began: float


class StorageDriver(ABC):
    """Files by absolute path. A directory need not be made, and may outlast its last file.

    A path is ``/`` or components of ``[A-Za-z0-9._-]+``, each after a slash, neither ``.``
    nor ``..``; ``CheckedDriver`` sees to that for all drivers. *name* is the driver's name
    as distribution has it.
    """

    name: str

    is_object_store: bool = False
    """Whether a file is an object, replaced as a whole and at once.

    Until ``FileWriter.commit`` it is then what it was, and nobody sees what was written; a
    directory is there as long as files are below it.
    """

    @property
    @abstractmethod
    def is_local(self) -> bool:
        """Whether calls are short enough to be made on an event loop (microseconds).

        One that turns out not to be raises TakesLong there, before it has changed anything.
        """

    def confirm(self) -> None:
        """Ask the storage itself whether it is there; raises AccessDenied, StorageUnavailable."""
        self.stat_now("/")

    def write_refusal(self, path: str) -> str | None:
        """The reason why *path* may not be written, as far as that shows without writing."""
        return None

    def identity(self, path: str) -> object:
        """A value that another directory at *path* would not have; raises PathNotFound.

        None where directories are not stored.
        """
        return None

    @abstractmethod
    def stat(self, path: str) -> FileInfo:
        """Attributes of a file or directory; raises PathNotFound."""

    def stat_now(self, path: str) -> FileInfo:
        """``stat`` of a file, in the storage itself: a writer trusts nothing that is remembered.

        Raises PathNotFound, and may do so for a directory.
        """
        return self.stat(path)

    def prefetch(self, paths: Sequence[str]) -> None:  # noqa: B027  (where a stat is cheap)
        """Get ready for a ``stat`` of each, by fewer requests than that many would take."""

    def is_known_to_hold(self, path: str, content: bytes) -> bool:
        """Whether it is known without a request that the file holds *content*."""
        return False

    @abstractmethod
    def listdir(self, path: str) -> Iterator[DirEntry]:
        """The direct children, in no order; raises PathNotFound, before the first of them.

        A child that comes or goes meanwhile may or may not be among them, all others are.
        A file that a writer of ours left half-made under a temporary name is not.
        """

    @abstractmethod
    def open(self, path: str) -> FileReader:
        """Open a file to read it; raises PathNotFound, NotAFile."""

    def open_of_size(self, path: str, size: int) -> FileReader:
        """``open`` a file that had *size* bytes when it was last asked for.

        Where opening costs a request it is believed, and reading raises what opening would:
        PathNotFound, FileChanged.
        """
        return self.open(path)

    def redirect_url(self, path: str) -> str | None:
        """A URL by which anybody may fetch the file for a while, there or not; None for no such.

        It holds what grants that, and belongs into no log.
        """
        return None

    def forget(self, path: str) -> None:  # noqa: B027  (most remember nothing)
        """Ask the storage anew for what was read of a file: it came wrong."""

    @abstractmethod
    def put_content(self, path: str, content: bytes) -> None:
        """Make or replace a small file, durably, and at once for readers.

        Raises NotAFile for a directory, NotADirectory below a file, but in an object store.
        """

    def put_immutable(self, path: str, chunks: Iterable[bytes]) -> None:
        """``put_content`` of a file that is never written again, of any length.

        What *chunks* raises is passed on, and nothing is changed then.
        """
        self.put_content(path, b"".join(chunks))

    def sync(self, path: str) -> None:  # noqa: B027  (most backends keep at once what they take)
        """Make durable what somebody else may have stored at *path*; raises PathNotFound."""

    @abstractmethod
    def create(self, path: str) -> FileWriter:
        """Write a file from its start; what was there goes at once, but in an object store.

        Raises NotAFile for a directory, NotADirectory below a file.
        """

    @abstractmethod
    def append(self, path: str, token: str = "") -> FileWriter:
        """Go on with a file that a writer closed, or that is empty.

        *token* is that writer's, if it is known: then no other's is taken.

        Raises PathNotFound, NotAFile.
        """

    def stat_unfinished(self, path: str, token: str = "") -> FileInfo:
        """Attributes of a file that ``append`` would go on with; raises PathNotFound."""
        return self.stat(path)

    def unfinished(self, path: str) -> Iterator[Unfinished]:
        """What was begun at paths that start with *path*, and shows nowhere else."""
        return iter(())

    def abandon(self, unfinished: Unfinished) -> None:  # noqa: B027  (there is none)
        """Remove something that ``unfinished`` told of; if it is gone, that is no error."""

    def delete_files(self, paths: Sequence[str]) -> None:
        """Remove files; a missing one is no error."""
        for path in paths:
            try:
                self.delete(path)
            except PathNotFound:
                pass

    @abstractmethod
    def move(self, source: str, target: str) -> None:
        """Rename a file, replacing *target*, and leave both alone if that fails.

        It is copied where *target* is on another file system. *target* is durable afterwards;
        *source* may be there again after a crash.

        Raises PathNotFound without a source, NotAFile where either is a directory,
        NotADirectory below a file.
        """

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove a file, or a directory and all below it; raises PathNotFound."""

    def prune(self, path: str) -> None:  # noqa: B027  (most backends have no directories)
        """Remove the directory *path* and those below it, as far as they hold no files.

        A missing one is no error, and nobody's new file can be lost by it.
        """

    @abstractmethod
    def capacity(self) -> Capacity | None:
        """The backend's room; None where it has no bound that it knows."""

    def close(self) -> None:  # noqa: B027  (most drivers hold nothing)
        """Let go of what the driver holds; it is not used again."""

    def get_content(self, path: str) -> bytes:
        """A whole small file; raises PathNotFound, NotAFile."""
        with self.open(path) as reader:
            return b"".join(reader.chunks())

    def read_at(self, path: str, offset: int, size: int) -> bytes:
        """Up to *size* bytes from *offset*; short or empty only past the end.

        Raises PathNotFound, NotAFile.
        """
        with self.open(path) as reader:
            return reader.read_at(offset, size)

    def stat_many(self, paths: Sequence[str]) -> list[FileInfo | None]:
        """``stat`` of each path, in their order; None for a missing one."""
        return [self._stat_or_none(path) for path in paths]

    def _stat_or_none(self, path: str) -> FileInfo | None:
        try:
            return self.stat(path)
        except PathNotFound:
            return None

    def walk(self, path: str) -> Iterator[FileInfo]:
        """Everything below *path*, a directory before what is in it; raises PathNotFound.

        What comes or goes meanwhile may or may not be among it; what the storage refuses to
        tell of is not.
        """
        pending = [self._children(path)]
        while pending:
            child = next(pending[-1], None)
            if child is None:
                pending.pop()
            elif (info := self._stat_if_allowed(child)) is not None:
                yield info
                if info.is_dir:
                    pending.append(self._children(child, missing_ok=True))

    def _stat_if_allowed(self, path: str) -> FileInfo | None:
        try:
            return self._stat_or_none(path)
        except AccessDenied:
            return None

    def _children(self, path: str, *, missing_ok: bool = False) -> Iterator[str]:
        base = path.rstrip("/")
        try:
            return iter(sorted(f"{base}/{entry.name}" for entry in self.listdir(path)))
        except PathNotFound:
            if missing_ok:
                return iter(())
            raise

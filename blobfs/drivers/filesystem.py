"""The driver of a local directory."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from blobfs.concurrency import refuse_to_take_long
from blobfs.drivers import openat2, ownership
from blobfs.drivers.base import DirEntry, FileInfo, FileReader, FileWriter, NewFile, StorageDriver
from blobfs.drivers.capacity import Bounded, Capacity
from blobfs.drivers.copying import Copying
from blobfs.drivers.directories import (
    DIRECTORY,
    READ,
    WRITE,
    UnsyncedDirectories,
    create_file,
    prune_tree,
    remove_tree,
    sync_if_whole,
)
from blobfs.drivers.file_batch import FileBatch
from blobfs.drivers.localfile import LocalReader, LocalWriter
from blobfs.drivers.oserrors import os_errors, raise_translated
from blobfs.drivers.reflinks import share
from blobfs.drivers.resumable import ResumableUploads, Unfinished
from blobfs.drivers.submounts import Submounts, is_on_local
from blobfs.drivers.temporaries import (
    closed_on_failure,
    is_temporary,
    owned_fd,
    remove_abandoned,
    replacing,
    unlink_if_there,
    write_all,
)
from blobfs.errors import (
    AccessDenied,
    NotADirectory,
    NotAFile,
    PathNotFound,
    StorageUnavailable,
)

_DISCONNECTED: Final = {errno.ENOTCONN, errno.ESTALE}
_NO_DIRECTORY: Final = {errno.ENOENT, errno.ENOTDIR}


class FilesystemDriver(StorageDriver, ResumableUploads, Bounded, Copying):
    """Stores the path ``/a/b`` as the file ``<root>/a/b``, and never leaves *root*. Thread-safe.

    It follows no symlink below *root*: a path through one raises AccessDenied.

    It owns a descriptor of the root. It compares it with the directory at the root's path before it
    reports a path as missing, lists a directory, or changes anything. If another directory is
    there, it is used from then on; if none is there, StorageUnavailable is raised. So a storage
    that was moved away or is not mounted never looks like an empty one.

    If the root is local, a call on an event loop does not enter a mount below it that is not known
    to be local: it raises TakesLong, and the caller repeats it in a thread.
    """

    name = "filesystem"

    def __init__(
        self, root: Path, root_fd: int, open_below: openat2.Opener, *, is_local: bool
    ) -> None:
        self._root = root
        self._root_fd = -1
        self._open_below = open_below
        self._submounts = Submounts(root)
        self._unsynced = UnsyncedDirectories()
        if is_local and open_below is not openat2.openat2:  # the other opener may enter any mount
            self._submounts.refresh()
            is_local = not self._submounts.has_any
        self.is_local = is_local
        self._root_fd = root_fd

    @classmethod
    def below(cls, root: Path) -> FilesystemDriver:
        """Create a driver of the directory *root*, which stays open until ``close``.

        Raises PathNotFound, AccessDenied, StorageUnavailable.
        """
        with os_errors(str(root)):
            fd = os.open(root, DIRECTORY | os.O_CLOEXEC)
            with closed_on_failure(fd):
                return cls(root, fd, openat2.opener(fd), is_local=is_on_local(fd))

    def stat(self, path: str) -> FileInfo:
        try:
            if path == "/":
                self._follow_root()
            fd = self._open(path, os.O_PATH)
            try:
                st = os.fstat(fd)
            finally:
                os.close(fd)
        except OSError as exc:
            raise_translated(exc, path if path != "/" else str(self._root))
        if stat.S_ISDIR(st.st_mode):
            return FileInfo(path, 0, True, st.st_mtime_ns, (st.st_dev, st.st_ino))
        return FileInfo(path, st.st_size, False, st.st_mtime_ns)

    def listdir(self, path: str) -> Iterator[DirEntry]:
        entries = self._entries(path)
        next(entries)  # opens the directory: PathNotFound comes before the first child
        return entries

    def _entries(self, path: str) -> Iterator[DirEntry]:
        """Yield the directory itself, which ``listdir`` skips, and then its children."""
        # *fd* stays open: if readdir(3) gives no types, a stat of each child needs it.
        with os_errors(path), self._directory(path) as fd, os.scandir(fd) as entries:
            found = (
                DirEntry(entry.name, entry.is_dir(follow_symlinks=False) or entry.is_symlink())
                for entry in entries
                # A repository and a tag may have the name of a temporary file.
                if not (is_temporary(entry.name) and entry.is_file(follow_symlinks=False))
            )
            # A remote directory is read at once, as the caller may iterate on an event loop.
            children = found if self._stays_local(path) else iter(list(found))
            yield DirEntry(".", is_dir=True)
            yield from children

    def open(self, path: str, size: int | None = None) -> FileReader:
        with os_errors(path):
            fd = self._open(path, READ)
            return LocalReader.of(path, fd, is_local=self._stays_local(path))

    def read_at(self, path: str, offset: int, size: int) -> bytes:
        try:
            fd = self._open(path, READ)
            try:
                return os.pread(fd, size, offset)  # EISDIR, ESPIPE if it is not a regular file
            finally:
                os.close(fd)
        except OSError as exc:
            raise_translated(exc, path)

    def put_content(self, path: str, content: bytes) -> None:
        self._put(path, (content,), ownership.FILE)

    def put_immutable(self, path: str, chunks: Iterable[bytes], size: int | None = None) -> None:
        self._put(path, chunks, ownership.IMMUTABLE, size)

    def _put(
        self, path: str, chunks: Iterable[bytes], permissions: int, size: int | None = None
    ) -> None:
        parent, name = _split(path)
        with os_errors(path), self._made_directory(parent) as directory:
            if size is None or not sync_if_whole(name, directory, size):
                with replacing(name, directory, permissions) as fd:
                    for chunk in chunks:
                        write_all(fd, chunk)
            os.fsync(directory)

    def put_files(self, files: Iterable[NewFile]) -> None:
        files = list(files)
        made = {path for file in files if (path := _split(file.path)[0].strip("/"))}
        self._unsynced.add(made)
        with closing(FileBatch(partial(self._opened_or_made, made=made))) as batch:
            batch.put(files)
        self._unsynced.synced(made)

    def copy_from(self, other: StorageDriver, source: str, path: str, size: int) -> bool:
        if not isinstance(other, FilesystemDriver):
            return False
        parent, name = _split(path)
        with os_errors(source), other.opened(source) as fd, self._made_directory(parent) as above:
            return share(fd, size, name, above)

    def opened(self, path: str) -> owned_fd:
        """Open a file, which another driver shares."""
        return owned_fd(self._open(path, READ))

    def sync(self, path: str) -> None:
        parent, name = _split(path)
        with os_errors(path), self._directory(parent) as directory:
            with owned_fd(os.open(name, READ | os.O_NOFOLLOW, dir_fd=directory)) as fd:
                os.fsync(fd)
            os.fsync(directory)

    def set_mtime(self, path: str, mtime_ns: int) -> None:
        parent, name = _split(path)
        with os_errors(path), self._directory(parent) as directory:
            os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=directory, follow_symlinks=False)

    def create(self, path: str) -> FileWriter:
        parent, name = _split(path)
        with os_errors(path), self._made_directory(parent) as directory:
            fd = create_file(name, directory)
            return self._writer(path, fd, directory)

    def append(self, path: str, token: str = "") -> FileWriter:
        parent, name = _split(path)
        with os_errors(path), self._directory(parent) as directory:
            fd = os.open(name, WRITE, dir_fd=directory)
            return self._writer(path, fd, directory)

    def move(self, source: str, target: str) -> None:
        parent, name = _split(source)
        if self.stat(source).is_dir:
            raise NotAFile(f"not a file: {source}")
        with os_errors(source), self._directory(parent) as directory:
            if self._rename(directory, name, target):
                return
            with self.open(source) as reader:
                self._put(target, reader.chunks(), ownership.FILE)
            unlink_if_there(name, directory)
            os.fsync(directory)

    def _rename(self, directory: int, name: str, target: str) -> bool:
        """Rename a file durably; False if *target* is on another file system."""
        parent, new_name = _split(target)
        with self._made_directory(parent) as new:
            try:
                os.rename(name, new_name, src_dir_fd=directory, dst_dir_fd=new)
            except OSError as exc:
                if exc.errno == errno.ENOTEMPTY:  # rename(2): a directory above the source
                    raise NotAFile(f"not a file: {target}") from None
                if exc.errno == errno.EXDEV:
                    return False
                raise
            os.fsync(new)
        return True

    def delete(self, path: str) -> None:
        # Empty parents stay: a registry may be about to create a file in them.
        parent, name = _split(path)
        with os_errors(path), self._directory(parent) as directory:
            os.stat(name, dir_fd=directory, follow_symlinks=False)
            remove_tree(name, directory)
            os.fsync(directory)
        self._unsynced.removed(path.strip("/"))

    def prune(self, path: str) -> None:
        parent, name = _split(path)
        try:
            with os_errors(path), self._directory(parent) as directory:
                prune_tree(name, directory)
        except PathNotFound:
            pass

    def stat_unfinished(self, path: str, token: str = "") -> FileInfo:
        return self.stat(path)

    def unfinished(self, path: str) -> Iterator[Unfinished]:
        """List the temporary files of blobfs and of distribution below *path*."""
        pending = [path]
        while pending:
            above = pending.pop()
            try:
                with os_errors(above), self._directory(above) as fd, os.scandir(fd) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(f"{above.rstrip('/')}/{entry.name}")
                        elif is_temporary(entry.name) and entry.is_file(follow_symlinks=False):
                            changed = entry.stat(follow_symlinks=False).st_mtime
                            found = f"{above.rstrip('/')}/{entry.name}"
                            yield Unfinished(found, f"temporary {found}", changed)
            except (PathNotFound, AccessDenied):
                continue

    def abandon(self, unfinished: Unfinished) -> None:
        parent, name = _split(unfinished.path)
        try:
            with os_errors(unfinished.path), self._directory(parent) as directory:
                remove_abandoned(name, directory)
        except PathNotFound:
            pass

    def capacity(self) -> Capacity:
        with os_errors(str(self._root)):
            return Capacity.of(os.fstatvfs(self._root_fd))

    def close(self) -> None:
        if self._root_fd >= 0:
            os.close(self._root_fd)
            self._root_fd = -1
        self._submounts.close()

    def __del__(self) -> None:
        self.close()  # a failure left the driver without an owner

    def _open(self, path: str, flags: int) -> int:
        below = path[1:] or "."
        try:
            return self._reach(below, flags)
        except FileNotFoundError:
            if not self._follow_root():
                raise
        except OSError as exc:
            if exc.errno not in _DISCONNECTED:
                raise
            self._open_root()
        return self._reach(below, flags)

    def _reach(self, below: str, flags: int) -> int:
        """Open *below*, relative to the root; raises TakesLong if it may block an event loop."""
        if self.is_local and self._open_below is openat2.openat2:
            try:
                return openat2.openat2(self._root_fd, below, flags, 0, openat2.NO_XDEV)
            except OSError as exc:
                if exc.errno != errno.EXDEV:
                    raise
            if not self._submounts.are_local(f"/{below}"):
                refuse_to_take_long()
                self._submounts.refresh()
        return self._open_below(self._root_fd, below, flags, 0)

    def _writer(self, path: str, fd: int, directory: int) -> FileWriter:
        is_local = self._stays_local(path)
        return LocalWriter.at_end(path, fd, directory, self._rename, is_local=is_local)

    def _stays_local(self, path: str) -> bool:
        """True if calls are short for *path*, which this thread has opened."""
        return self.is_local and not self._submounts.are_remote(path)

    def _follow_root(self) -> bool:
        """Open the directory at the root's path if it is another one; True if it is.

        Raises StorageUnavailable if there is none.
        """
        try:
            if os.path.samestat(os.stat(self._root), os.fstat(self._root_fd)):
                return False
        except OSError as exc:
            if exc.errno not in _DISCONNECTED and exc.errno not in _NO_DIRECTORY:
                raise
        self._open_root()
        return True

    def _open_root(self) -> None:
        try:
            fd = os.open(self._root, DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise StorageUnavailable(
                f"the storage's directory {self._root} is missing; restore or mount it there"
            ) from None
        with owned_fd(fd):
            os.dup2(fd, self._root_fd, inheritable=False)  # atomic for all threads

    def _directory(self, path: str) -> owned_fd:
        self._follow_root()
        return owned_fd(self._open(path, DIRECTORY))

    @contextmanager
    def _made_directory(self, path: str) -> Iterator[int]:
        """Open the directory *path*; create it if it is missing, durably when the block ends.

        The files that the block creates are synced before the parents: one commit of the file
        system's journal covers all of them, and the later syncs have nothing left to do.
        """
        made: set[str] = set()
        with self._opened_or_made(path, made) as opened:
            yield opened[-1]
            for directory in opened[-2::-1]:
                os.fsync(directory)
        self._unsynced.synced(made)

    @contextmanager
    def _opened_or_made(self, path: str, made: set[str]) -> Iterator[list[int]]:
        """Open the directory *path*, the last one, and those above it that may not be durable.

        Each but the first may be new; their paths are added to *made*.
        """
        self._follow_root()
        names = path.strip("/").split("/")
        if ".." in names:
            raise AccessDenied(f"{path}: leads out of the storage")
        opened: list[int] = []
        try:
            try:
                self._unsynced.open_or_make(names, self._reach, opened, made)
            except NotADirectoryError:
                raise NotADirectory(f"below a file: {path}") from None
            yield opened
        finally:
            for directory in opened:
                os.close(directory)


def _split(path: str) -> tuple[str, str]:
    parent, _, name = path.rpartition("/")
    if name == "..":  # the opener refuses it in *parent*
        raise AccessDenied(f"{path}: leads out of the storage")
    return parent or "/", name

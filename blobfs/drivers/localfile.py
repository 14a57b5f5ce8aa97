"""Open files of the local file system, and what its errors mean to a driver."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Final, Self

from blobfs.drivers.base import FileReader, FileWriter
from blobfs.drivers.filelock import lock_exclusive, lock_shared
from blobfs.drivers.ownership import make_immutable, make_writable
from blobfs.drivers.temporaries import unlink_if_there
from blobfs.errors import (
    AccessDenied,
    Busy,
    NotAFile,
    PathNotFound,
    QuotaExceeded,
    Stale,
    StorageFull,
    StorageReadOnly,
    StorageUnavailable,
    TooLarge,
    WriterClosed,
)
from blobfs.eventloop import refuse_to_take_long

_MISSING: Final = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}
# ENXIO: a FIFO that nobody reads, a socket; ESPIPE: one that somebody does.
_NOT_A_FILE: Final = {errno.EISDIR, errno.ENXIO, errno.ESPIPE}
_REFUSED: Final = {
    errno.EACCES: AccessDenied,
    errno.EPERM: AccessDenied,
    errno.EROFS: StorageReadOnly,
}
_OUT_OF_ROOM: Final = {
    errno.ENOSPC: StorageFull,
    errno.EDQUOT: QuotaExceeded,
    errno.EFBIG: TooLarge,
}
_LED_AWAY: Final = {
    errno.ELOOP: "a symlink; use a bind mount, none is followed in a storage",
    errno.EXDEV: "leads out of the storage",  # of openat2; rename(2)'s is handled by its callers
}


class os_errors:  # noqa: N801  (a context manager; @contextmanager costs a fifth of a stat)
    """Say an OSError in the driver's own terms: the one place that knows both."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if not isinstance(exc, OSError):
            return
        if exc.errno in _MISSING:
            raise PathNotFound(self._path) from None
        if exc.errno in _NOT_A_FILE:
            raise NotAFile(f"not a file: {self._path}") from None
        if exc.errno in _REFUSED:
            raise _REFUSED[exc.errno](f"{self._path}: {exc.strerror}") from None
        if exc.errno in _LED_AWAY:
            raise AccessDenied(f"{self._path}: {_LED_AWAY[exc.errno]}") from None
        kind_of_ours = _OUT_OF_ROOM.get(exc.errno or 0, StorageUnavailable)
        raise kind_of_ours(f"{self._path}: {exc.strerror}") from exc


_WRITE_BACK: Final = 16 * 2**20
"""Bytes after which the kernel is told to begin writing them to the disk, for a short last sync."""

_ZEROS: Final = bytes(2**20)
"""Bytes of a hole, as many as the hash of an upload reads at a time."""

_SYNC_FILE_RANGE_WRITE: Final = 2  # sync_file_range(2)

_libc = ctypes.CDLL(None)


def _write_back(fd: int, start: int, end: int) -> None:
    """Begin to write a range to the disk; nobody waits for it, and what fails shows in the sync."""
    if hasattr(_libc, "sync_file_range"):
        _libc.sync_file_range(
            fd, ctypes.c_int64(start), ctypes.c_int64(end - start), _SYNC_FILE_RANGE_WRITE
        )


class _OpenFile:
    """A descriptor, and how many readers share it."""

    __slots__ = ("fd", "identity", "readers")

    def __init__(self, fd: int, identity: tuple[int, int]) -> None:
        self.fd = fd
        self.identity = identity
        self.readers = 1


class _OpenFiles:
    """The files that readers have open, by device and inode. Thread-safe.

    An open file keeps its inode number, so a file that replaces it has another one. The lock is
    reentrant, as the garbage collector may close a reader at any allocation. Nothing that the
    collector tracks is allocated under it.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._files: dict[tuple[int, int], _OpenFile] = {}

    def share(self, fd: int, st: os.stat_result) -> _OpenFile:
        """The file that *fd* is of, for one reader more; takes *fd* over."""
        opened = _OpenFile(fd, (st.st_dev, st.st_ino))
        with self._lock:
            held = self._files.get(opened.identity)
            if held is None:
                self._files[opened.identity] = opened
                return opened
            held.readers += 1
        os.close(fd)
        return held

    def release(self, file: _OpenFile) -> None:
        """Close *file* if this was its last reader."""
        with self._lock:
            file.readers -= 1
            if file.readers:
                return
            del self._files[file.identity]
        os.close(file.fd)


_open_files: Final = _OpenFiles()


class LocalReader(FileReader):
    """A descriptor, so the bytes stay although the file is renamed or removed.

    All readers of one file share it: many handles of a blob cost one descriptor.
    """

    def __init__(self, path: str, file: _OpenFile, size: int, *, is_local: bool) -> None:
        self._path = path
        self._file: _OpenFile | None = file
        self._fd = file.fd
        self._size = size
        self._is_local = is_local

    @classmethod
    def of(cls, path: str, fd: int, *, is_local: bool) -> Self:
        """A reader of the regular file *fd*, which it takes over; raises NotAFile."""
        try:
            st = _stat_of_file(path, fd)
        except BaseException:
            os.close(fd)
            raise
        return cls(path, _open_files.share(fd, st), st.st_size, is_local=is_local)

    @property
    def size(self) -> int:
        return self._size

    def read_at(self, offset: int, size: int) -> bytes:
        if not self._is_local:
            refuse_to_take_long()
        with os_errors(self._path):
            return os.pread(self._fd, size, offset)

    def read_nowait(self, offset: int, size: int) -> bytes | None:
        return self.read_at(offset, size) if self._is_local else None

    def close(self) -> None:
        if self._file is None:
            return
        if not self._is_local:  # close(2) asks a network file system
            refuse_to_take_long()
        file, self._file, self._fd = self._file, None, -1
        with os_errors(self._path):
            _open_files.release(file)

    def __del__(self) -> None:
        if self._file is not None:
            _open_files.release(self._file)  # opened for somebody who had stopped waiting


Mover = Callable[[int, str, str], bool]
"""``move(directory_fd, name, target)`` renames a file; False for a *target* elsewhere."""


class LocalWriter(FileWriter):
    """Writes straight to the file, whose name is in *directory_fd*.

    Its shared lock tells other writers of this machine that they are not alone. Before every
    change it looks at the name: a file that was moved away may be a blob now.
    """

    def __init__(
        self, path: str, fd: int, directory_fd: int, move: Mover, *, is_local: bool
    ) -> None:
        self._path = path
        self._name = path.rpartition("/")[2]
        self._fd = fd
        self._directory_fd = directory_fd
        self._move = move
        self._is_local = is_local
        st = os.fstat(fd)
        self._identity = (st.st_dev, st.st_ino)
        self._size = st.st_size
        self._mtime_ns = st.st_mtime_ns
        self._is_disturbed = False
        self._writing_back_to = self._size

    @classmethod
    def at_end(cls, path: str, fd: int, directory_fd: int, move: Mover, *, is_local: bool) -> Self:
        """Go on at the end of *fd*, which it takes over, unlike *directory_fd*.

        Raises NotAFile, Busy where somebody is committing the file, Stale where that is done.
        """
        try:
            size_of_file(path, fd)
            _lock_beside_others(path, fd)
            directory_fd = os.dup(directory_fd)
        except BaseException:
            os.close(fd)
            raise
        writer = cls(path, fd, directory_fd, move, is_local=is_local)
        try:
            writer.is_undisturbed()
        except BaseException:
            writer._let_go()
            raise
        return writer

    @property
    def size(self) -> int:
        return self._size

    def write(self, data: bytes) -> None:
        self._put(self._size, data)

    def can_write_nowait(self, size: int) -> bool:
        return self._is_local

    def rewrite(self, offset: int, data: bytes) -> None:
        self._put(offset, data)

    def _put(self, offset: int, data: bytes) -> None:
        with os_errors(self._path), self._our_own_change():
            rest = memoryview(data)
            while rest:
                written = os.pwrite(self._fd, rest, offset)
                offset += written
                self._size = max(self._size, offset)
                rest = rest[written:]
            if offset - self._writing_back_to >= _WRITE_BACK:
                _write_back(self._fd, self._writing_back_to, offset)
                self._writing_back_to = offset

    def truncate(self, size: int) -> None:
        with os_errors(self._path), self._our_own_change():
            os.ftruncate(self._fd, size)
            self._size = size
            self._writing_back_to = min(self._writing_back_to, size)

    @contextmanager
    def _our_own_change(self) -> Iterator[None]:
        """What somebody else has written shows before a change of ours, and not after it."""
        self._refuse_disturbed()
        try:
            yield
        finally:
            self._mtime_ns = os.fstat(self._fd).st_mtime_ns

    def _refuse_disturbed(self) -> None:
        if not self.is_undisturbed():
            raise Busy(f"{self._path} is being written by somebody else")

    def is_undisturbed(self) -> bool:
        self._check_open()
        st = None
        with os_errors(self._path), suppress(FileNotFoundError):
            st = os.stat(self._name, dir_fd=self._directory_fd, follow_symlinks=False)
        if st is None or (st.st_dev, st.st_ino) != self._identity:
            raise Stale(f"{self._path} was committed or removed by somebody else")
        if (st.st_size, st.st_mtime_ns) != (self._size, self._mtime_ns):
            self._is_disturbed = True
        return not self._is_disturbed

    @property
    def fingerprint(self) -> str:
        # Without the device: its number changes with a reboot on NFS and btrfs, and a change of
        # the bytes changes the ctime on any.
        self._check_open()
        with os_errors(self._path):
            st = os.fstat(self._fd)
        if self._is_disturbed or (st.st_size, st.st_mtime_ns) != (self._size, self._mtime_ns):
            return ""
        return f"{st.st_ino}:{st.st_size}:{st.st_mtime_ns}:{st.st_ctime_ns}"

    def read_at(self, offset: int, size: int) -> bytes:
        self._check_open()
        with os_errors(self._path):
            if size <= len(_ZEROS) and _is_hole(self._fd, offset, size):
                return _ZEROS[:size]
            return os.pread(self._fd, size, offset)

    def flush(self) -> None:
        with os_errors(self._path):
            self.is_undisturbed()  # Stale comes before a sync of what has gone
            os.fsync(self._fd)
            os.fsync(self._directory_fd)

    def commit(self) -> None:
        self.flush()
        self._let_go()

    def move_to(self, target: str) -> bool:
        self._check_open()
        with os_errors(self._path):
            if not lock_exclusive(self._fd):
                return False
            mode = os.fstat(self._fd).st_mode
            moved = False
            try:
                self._refuse_disturbed()
                make_immutable(self._fd)
                os.fsync(self._fd)
                self._refuse_disturbed()  # the sync may have taken long
                moved = self._move(self._directory_fd, self._name, target)
            finally:
                if not moved:
                    make_writable(self._fd, mode)
                    lock_shared(self._fd)
        if moved:
            self._let_go()
        return moved

    def cancel(self) -> None:
        self._check_open()
        try:
            with os_errors(self._path):
                unlink_if_there(self._name, self._directory_fd)
                os.fsync(self._directory_fd)
        finally:
            self._let_go()

    def close(self) -> None:
        if self._fd < 0:
            return
        try:
            with os_errors(self._path):
                os.fsync(self._fd)
                os.fsync(self._directory_fd)
        finally:
            self._let_go()

    def __del__(self) -> None:
        if self._fd >= 0:  # dropped where a failure left nobody to close it
            self._let_go()

    def _check_open(self) -> None:
        if self._fd < 0:
            raise WriterClosed(f"no longer open for writing: {self._path}")

    def _let_go(self) -> None:
        os.close(self._fd)
        os.close(self._directory_fd)
        self._fd = self._directory_fd = -1


def size_of_file(path: str, fd: int) -> int:
    """Length of the regular file *fd* in bytes; raises NotAFile."""
    return _stat_of_file(path, fd).st_size


def _stat_of_file(path: str, fd: int) -> os.stat_result:
    st = os.fstat(fd)
    if not stat.S_ISREG(st.st_mode):
        raise NotAFile(f"not a file: {path}")
    return st


def _is_hole(fd: int, offset: int, size: int) -> bool:
    """Whether the file has *size* bytes from *offset* on, all of them in one hole."""
    try:
        return os.lseek(fd, offset, os.SEEK_DATA) >= offset + size
    except OSError as exc:  # ENXIO: no data come after it
        return exc.errno == errno.ENXIO and os.fstat(fd).st_size >= offset + size


def _lock_beside_others(path: str, fd: int) -> None:
    if not lock_shared(fd):
        raise Busy(f"{path} is being committed by another process")

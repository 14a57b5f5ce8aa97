"""Readers and writers of local files."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Self

from blobfs.concurrency import reentrant_guard, refuse_to_take_long
from blobfs.drivers.base import FileReader, FileWriter
from blobfs.drivers.filelock import EXCLUSIVE, SHARED, lock
from blobfs.drivers.oserrors import os_errors, raise_translated
from blobfs.drivers.ownership import make_immutable, make_writable
from blobfs.drivers.temporaries import closed_on_failure, unlink_if_there
from blobfs.errors import (
    Busy,
    NotAFile,
    Stale,
    WriterClosed,
)

_WRITE_BACK: Final = 16 * 2**20
"""Bytes after which the kernel starts to write them to the disk, so that the last sync is short."""

_ZEROS: Final = bytes(2**20)
"""The content of a hole, as long as the largest read of an upload's hash."""

_SYNC_FILE_RANGE_WRITE: Final = 2  # sync_file_range(2)

_libc = ctypes.CDLL(None)


def _write_back(fd: int, start: int, end: int) -> None:
    """Start to write a range to the disk, without waiting; the later sync reports failures."""
    if hasattr(_libc, "sync_file_range"):
        _libc.sync_file_range(
            fd, ctypes.c_int64(start), ctypes.c_int64(end - start), _SYNC_FILE_RANGE_WRITE
        )


class _OpenFile:
    """A descriptor and the number of readers that share it."""

    __slots__ = ("fd", "identity", "readers")

    def __init__(self, fd: int, identity: tuple[int, int]) -> None:
        self.fd = fd
        self.identity = identity
        self.readers = 1


class _OpenFiles:
    """The files that readers have open, by device and inode. Thread-safe.

    An open file keeps its inode number, so a file that replaces it has another one. The lock guards
    the table and the counts. It is reentrant, as the garbage collector may close a reader at any
    allocation; no object that the collector tracks is allocated under it.
    """

    def __init__(self) -> None:
        self._lock = reentrant_guard()
        self._files: dict[tuple[int, int], _OpenFile] = {}

    def share(self, fd: int, st: os.stat_result) -> _OpenFile:
        """Add a reader to the file of *fd*; takes ownership of *fd*."""
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
        """Remove a reader from *file*, and close it after the last one."""
        with self._lock:
            file.readers -= 1
            if file.readers:
                return
            del self._files[file.identity]
        os.close(file.fd)


_open_files: Final = _OpenFiles()


class LocalReader(FileReader):
    """Reads a file through a descriptor, so the bytes remain after a rename or a removal.

    All readers of one file share the descriptor: many handles of a blob cost one.
    """

    def __init__(self, path: str, file: _OpenFile, size: int, *, is_local: bool) -> None:
        self._path = path
        self._file: _OpenFile | None = file
        self._fd = file.fd
        self._size = size
        self._is_local = is_local

    @classmethod
    def of(cls, path: str, fd: int, *, is_local: bool) -> Self:
        """Create a reader, which owns *fd*; raises NotAFile if that is not a regular file."""
        with closed_on_failure(fd):
            st = _stat_of_file(path, fd)
        return cls(path, _open_files.share(fd, st), st.st_size, is_local=is_local)

    @property
    def size(self) -> int:
        return self._size

    def read_at(self, offset: int, size: int) -> bytes:
        if not self._is_local:
            refuse_to_take_long()
        try:
            return os.pread(self._fd, size, offset)
        except OSError as exc:
            raise_translated(exc, self._path)

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
            _open_files.release(self._file)  # the caller had stopped waiting for ``open``


Mover = Callable[[int, str, str], bool]
"""``move(directory_fd, name, target)``: rename a file; False on another file system."""


class LocalWriter(FileWriter):
    """Writes directly to the file *fd*, whose name is in the directory *directory_fd*; owns both.

    It holds a shared lock on the file, which keeps other writers from taking an exclusive one.
    Before every change it checks the name: a file that was moved away may be a blob now. One thread
    at a time may call it.
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
        """Create a writer at the end of *fd*, which it owns; it duplicates *directory_fd*.

        Raises NotAFile, Busy if another writer is committing the file, and Stale after that.
        """
        with closed_on_failure(fd):
            size_of_file(path, fd)
            _lock_shared_or_busy(path, fd)
            directory_fd = os.dup(directory_fd)
        writer = cls(path, fd, directory_fd, move, is_local=is_local)
        try:
            writer.is_undisturbed()
        except BaseException:
            writer._close_files()
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
        with os_errors(self._path):
            self._refuse_disturbed()
            try:
                rest = memoryview(data)
                while rest:
                    written = os.pwrite(self._fd, rest, offset)
                    offset += written
                    self._size = max(self._size, offset)
                    rest = rest[written:]
            finally:
                self._mtime_ns = os.fstat(self._fd).st_mtime_ns
            if offset - self._writing_back_to >= _WRITE_BACK:
                _write_back(self._fd, self._writing_back_to, offset)
                self._writing_back_to = offset

    def truncate(self, size: int) -> None:
        with os_errors(self._path):
            self._refuse_disturbed()
            try:
                os.ftruncate(self._fd, size)
                self._size = size
            finally:
                self._mtime_ns = os.fstat(self._fd).st_mtime_ns
            self._writing_back_to = min(self._writing_back_to, size)

    def _refuse_disturbed(self) -> None:
        if not self._is_undisturbed():
            raise Busy(f"{self._path} is being written by another writer")

    def is_undisturbed(self) -> bool:
        with os_errors(self._path):
            return self._is_undisturbed()

    def _is_undisturbed(self) -> bool:
        self._check_open()
        st = None
        with suppress(FileNotFoundError):
            st = os.stat(self._name, dir_fd=self._directory_fd, follow_symlinks=False)
        if st is None or (st.st_dev, st.st_ino) != self._identity:
            raise Stale(f"{self._path} was committed or removed by another writer")
        if (st.st_size, st.st_mtime_ns) != (self._size, self._mtime_ns):
            self._is_disturbed = True
        return not self._is_disturbed

    @property
    def fingerprint(self) -> str:
        # Without the device number, which a reboot changes on NFS and btrfs. On every file system
        # a change of the bytes changes the ctime.
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
            self._is_undisturbed()  # raises Stale before a sync of a removed file
            os.fsync(self._fd)
            os.fsync(self._directory_fd)

    def commit(self) -> None:
        self.flush()
        self._close_files()

    def move_to(self, target: str) -> bool:
        self._check_open()
        with os_errors(self._path):
            if not lock(self._fd, EXCLUSIVE):
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
                    lock(self._fd, SHARED)
        if moved:
            self._close_files()
        return moved

    def cancel(self) -> None:
        self._check_open()
        try:
            with os_errors(self._path):
                unlink_if_there(self._name, self._directory_fd)
                os.fsync(self._directory_fd)
        finally:
            self._close_files()

    def close(self) -> None:
        if self._fd < 0:
            return
        try:
            with os_errors(self._path):
                os.fsync(self._fd)
                os.fsync(self._directory_fd)
        finally:
            self._close_files()

    def __del__(self) -> None:
        if self._fd >= 0:  # a failure left the writer without an owner
            self._close_files()

    def _check_open(self) -> None:
        if self._fd < 0:
            raise WriterClosed(f"no longer open for writing: {self._path}")

    def _close_files(self) -> None:
        os.close(self._fd)
        os.close(self._directory_fd)
        self._fd = self._directory_fd = -1


def size_of_file(path: str, fd: int) -> int:
    """The length of the regular file *fd* in bytes; raises NotAFile."""
    return _stat_of_file(path, fd).st_size


def _stat_of_file(path: str, fd: int) -> os.stat_result:
    st = os.fstat(fd)
    if not stat.S_ISREG(st.st_mode):
        raise NotAFile(f"not a file: {path}")
    return st


def _is_hole(fd: int, offset: int, size: int) -> bool:
    """True if the file has *size* bytes from *offset* on, and all of them are in one hole."""
    try:
        return os.lseek(fd, offset, os.SEEK_DATA) >= offset + size
    except OSError as exc:  # ENXIO: there is no data after *offset*
        return exc.errno == errno.ENXIO and os.fstat(fd).st_size >= offset + size


def _lock_shared_or_busy(path: str, fd: int) -> None:
    if not lock(fd, SHARED):
        raise Busy(f"{path} is being committed by another process")

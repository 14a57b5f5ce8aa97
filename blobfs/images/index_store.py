"""Indexes and trees of images in a directory, which all processes of a machine share.

::

    v1/<kind>/<digest>            a file, and at its end a trailer with its checksum
    v1/building/<kind>-<digest>/  the directory of the process that makes the file
        lock                      locked while it does
        <32 hex digits>           the file that is being made, under a new name each time
    v1/building/used              an upper bound of the size of all files, and the number of
                                  additions before their sizes are added up again

A file is complete and immutable. Neither it nor its directory is synced: the checksum shows what a
crash has damaged. Its mtime is the time of its last use.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, NoReturn
from uuid import uuid4

from blobfs.concurrency import SingleFlight, guard, refuse_to_take_long, stop_check
from blobfs.digest import Digest
from blobfs.drivers.filelock import EXCLUSIVE, SHARED, lock
from blobfs.errors import AccessDenied, Interrupted, StorageFull, StorageUnavailable
from blobfs.images.stored_file import (
    TRAILER_SIZE,
    WRITE,
    StoredFile,
    append_trailer,
    is_at,
    is_ours,
    is_whole,
)

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

_BUILDING: Final = "building"
_ATTEMPTS: Final = 5

_LOOK_S: Final = 0.05
"""Interval at which a process looks at a lock that another one holds."""

_MIN_ADDITIONS: Final = 64
"""Additions after which all files are looked at again, or as many as there are files."""

_USE_STEP_NS: Final = 60 * 10**9
"""The precision of the time of the last use, so that few uses write it."""

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED: Final = {errno.EACCES, errno.EPERM, errno.EROFS}

Make = Callable[[Path], None]
"""Creates a file at a path, with what it needs meanwhile beside it; the directory is private."""


class _Stored(NamedTuple):
    """The time of the last use, the size, and the path of a file."""

    used_ns: int
    size: int
    path: str


class IndexStore:
    """Immutable files by kind and digest in *directory*, of at most *limit* bytes in all.

    A file that is being made counts when it is complete. The kind of a file names the version of
    its format, too. Files of other users, symlinks and damaged files count as missing.

    Thread-safe: the guard protects the inodes of the files that this process has verified. Errors
    of the directory are AccessDenied, StorageFull and StorageUnavailable.
    """

    def __init__(self, directory: Path, limit: int) -> None:
        self.directory = directory
        self.limit = limit
        self._root = directory / "v1"
        self._running: SingleFlight[str, None] = SingleFlight()
        self._lock = guard()
        self._verified: dict[str, int] = {}

    def open(self, kind: str, key: Digest, make: Make, size: int = 0) -> StoredFile:
        """Open the file of *key*, which *make* creates if it is missing; raises its errors.

        One process and thread makes it, and the others wait. *size* is the size that it will have,
        if it is known; other files make room first. Raises StorageFull if it is over the limit.
        """
        path = self._path(kind, key)
        for _ in range(_ATTEMPTS):
            found = self.find(kind, key)
            if found is not None:
                return found
            refuse_to_take_long()
            try:
                self._running.run(str(path), partial(self._make, path, make, size))
            except Interrupted:
                stop_check.get()()  # else the thread that makes the file was stopped, and not this
        raise StorageUnavailable(
            f"{path}: removed or damaged as soon as it is made; {self._advice()}"
        )

    def find(self, kind: str, key: Digest) -> StoredFile | None:
        """Open the file of *key*; None if it is missing, or damaged and so removed now."""
        path = self._path(kind, key)
        with self._errors():
            try:
                fd = os.open(path, _READ)
            except OSError as exc:
                if exc.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}:
                    return None
                raise
            try:
                found = self._checked(path, fd)
            except BaseException:
                os.close(fd)
                raise
            if found is None:
                os.close(fd)
            return found

    def used(self) -> int:
        """Return the size of all files in bytes."""
        with self._errors():
            return sum(each.size for each in self._scan())

    def _path(self, kind: str, key: Digest) -> Path:
        return self._root / kind / f"{key.algorithm}-{key.encoded}"

    def _checked(self, path: Path, fd: int) -> StoredFile | None:
        """Return the file that is open as *fd*, if it is whole, ours, and not being evicted."""
        info = os.fstat(fd)
        if not is_ours(info) or not lock(fd, SHARED) or not is_at(path, info):
            return None
        with self._lock:
            is_verified = self._verified.get(str(path)) == info.st_ino
        if not is_verified:
            refuse_to_take_long()
            if not is_whole(fd, info.st_size, path):
                self._remove(path, info)
                return None
            with self._lock:
                self._verified[str(path)] = info.st_ino
        if time.time_ns() - info.st_mtime_ns > _USE_STEP_NS:
            with suppress(OSError):  # a directory that is only readable
                os.utime(fd)
        return StoredFile(path, fd, info.st_size - TRAILER_SIZE)

    def _remove(self, path: Path, info: os.stat_result) -> None:
        """Remove the damaged file of *info*."""
        try:
            if is_at(path, info):
                path.unlink(missing_ok=True)
        except OSError as exc:
            raise AccessDenied(
                f"{path}: damaged, and not removable: {exc.strerror}; remove it"
            ) from None

    def _make(self, path: Path, make: Make, size: int) -> None:
        with self._errors():
            for directory in (self._root, path.parent, self._root / _BUILDING):
                self._create(directory)
            _remove_leftovers(self._root / _BUILDING)
        with self._building(path) as directory, self._errors():
            if _exists(path):  # another process has made it
                return
            if size:
                self._make_room(size)
            file = directory / uuid4().hex  # a child that outlives its parent may write another
            make(file)
            append_trailer(file, path)
            with self._locked(self._root / _BUILDING / "lock"):  # nobody else adds a file
                self._make_room(file.stat().st_size)
                _replace(file, path)

    def _create(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=directory == self._root, exist_ok=True)
        info = directory.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
            raise AccessDenied(f"{directory}: not a directory of this user; {self._advice()}")

    @contextmanager
    def _building(self, path: Path) -> Iterator[Path]:
        """Create the empty directory in which the file *path* is made, for this thread only."""
        directory = self._root / _BUILDING / f"{path.parent.name}-{path.name}"
        with self._locked(directory / "lock"):
            try:
                with self._errors():
                    _clear(directory)
                yield directory
            finally:
                shutil.rmtree(directory, ignore_errors=True)

    @contextmanager
    def _locked(self, path: Path) -> Iterator[int]:
        """Hold the lock file *path*, which is created with its directory; yield its descriptor."""
        fd = -1
        try:
            while fd < 0:
                with self._errors():
                    fd = _try_to_lock(path)
                if fd < 0:
                    stop_check.get()()
                    time.sleep(_LOOK_S)
            yield fd
        finally:
            if fd >= 0:
                os.close(fd)

    def _make_room(self, size: int) -> None:
        """Evict the files that were not used for longest until *size* more bytes fit.

        The file ``used`` has a bound of the size of all files, so few calls look at all of them.
        """
        if size > self.limit:
            raise StorageFull(f"{self.directory}: no room for {size} bytes; {self._advice()}")
        with self._locked(self._root / _BUILDING / "used") as fd:
            used, additions = _read_used(fd)
            if not additions or used + size > self.limit:
                files = sorted(self._scan())
                used = self._evict(files, size)
                additions = max(_MIN_ADDITIONS, len(files))
            os.pwrite(fd, b"%-20d %-20d" % (used + size, additions - 1), 0)

    def _evict(self, files: Sequence[_Stored], size: int) -> int:
        """Evict the first of *files* until *size* bytes fit; return the size of the others."""
        used = sum(each.size for each in files)
        for each in files:
            if used + size <= self.limit:
                break
            if _evict(each.path):
                used -= each.size
        else:
            if used + size > self.limit:
                raise StorageFull(
                    f"{self.directory}: no room for {size} bytes beside files in use;"
                    f" {self._advice()}"
                )
        return used

    def _scan(self) -> Iterator[_Stored]:
        for kind in _entries(self._root):
            if kind.name == _BUILDING or not kind.is_dir(follow_symlinks=False):
                continue
            for entry in _entries(kind.path):
                with suppress(FileNotFoundError):
                    info = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(info.st_mode):
                        yield _Stored(info.st_mtime_ns, info.st_size, entry.path)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            self._raise(exc)

    def _raise(self, exc: OSError) -> NoReturn:
        text = f"{self.directory}: {exc.strerror}; {self._advice()}"
        if exc.errno in _REFUSED:
            raise AccessDenied(text) from None
        if exc.errno in _FULL:
            raise StorageFull(text) from None
        raise StorageUnavailable(text) from exc

    def _advice(self) -> str:
        return "choose a directory with --index-dir, and its limit with --index-size"


def _exists(path: Path) -> bool:
    """True if a file is at *path*; anything else there is removed."""
    try:
        info = path.lstat()
    except FileNotFoundError:
        return False
    if is_ours(info):
        return True
    if stat.S_ISDIR(info.st_mode):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return False


def _replace(file: Path, path: Path) -> None:
    try:
        file.rename(path)
    except FileNotFoundError:  # the directory was removed meanwhile
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.rename(path)


def _read_used(fd: int) -> tuple[int, int]:
    """Return the content of the file ``used``; no additions if it is damaged."""
    try:
        used, additions = map(int, os.pread(fd, 64, 0).split())
    except ValueError:
        return 0, 0
    return (used, additions) if used >= 0 <= additions else (0, 0)


def _try_to_lock(path: Path) -> int:
    """Lock the file *path* and return its descriptor; -1 if another one has it."""
    try:
        with suppress(FileExistsError):
            path.parent.mkdir(mode=0o700)
        fd = os.open(path, WRITE | os.O_CREAT, 0o600)
    except FileNotFoundError:  # its owner removed the directory just now
        return -1
    # The one that held the lock may have removed the file.
    if lock(fd, EXCLUSIVE) and is_at(path, os.fstat(fd)):
        return fd
    os.close(fd)
    return -1


def _clear(directory: Path) -> None:
    """Remove what a process that has crashed left in *directory*, except its lock."""
    for entry in list(_entries(directory)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        elif entry.name != "lock":
            Path(entry.path).unlink()


def _remove_leftovers(building: Path) -> None:
    """Remove the directories of processes that have crashed."""
    for entry in list(_entries(building)):
        if entry.is_dir(follow_symlinks=False):
            with suppress(OSError):  # no directory of this program
                fd = _try_to_lock(Path(entry.path, "lock"))
                if fd >= 0:
                    shutil.rmtree(entry.path, ignore_errors=True)
                    os.close(fd)


def _evict(path: str) -> bool:
    """Remove the file *path* unless it is in use; False if it stays."""
    try:
        fd = os.open(path, WRITE)
    except OSError:
        return False
    try:
        if not lock(fd, EXCLUSIVE) or not is_at(Path(path), os.fstat(fd)):
            return False
        Path(path).unlink()
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _entries(directory: Path | str) -> Iterator[os.DirEntry[str]]:
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as entries:
        yield from entries

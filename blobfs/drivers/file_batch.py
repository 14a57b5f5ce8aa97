"""Small files of a local directory that are made durable together."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import wait
from contextlib import AbstractContextManager, suppress
from itertools import groupby
from typing import Final

from blobfs.concurrency import PARALLEL
from blobfs.drivers import ownership
from blobfs.drivers.base import NewFile
from blobfs.drivers.directories import made_below
from blobfs.drivers.oserrors import os_errors
from blobfs.drivers.temporaries import owned_fd, temporary_name, unlink_if_there, write_all
from blobfs.errors import BlobfsError

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_PARENT: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW

_THREADS: Final = 4

_FEW: Final = 32
"""The most files that one thread writes."""

_Make = Callable[[str], AbstractContextManager[list[int]]]

_libc: Final = ctypes.CDLL(None, use_errno=True)


class FileBatch:
    """Files under temporary names, which are synced together and then renamed.

    Two syncs of the file system replace a sync of each file and of each new directory. No lock
    protects the temporary names, as a process may not hold so many descriptors. They are as young
    as those of a registry, which other programs leave alone. Used by one thread, which divides the
    files among ``_THREADS`` threads.

    *make* opens a directory, the last of its list, and creates it if it is missing.
    """

    def __init__(self, make: _Make) -> None:
        self._make = make
        self._parts: list[_Part] = []

    def put(self, files: Iterable[NewFile]) -> None:
        """Create or replace *files* durably, each atomically."""
        listed = sorted(files)
        parts: list[list[NewFile]] = [[] for _ in range(_THREADS if len(listed) > _FEW else 1)]
        for turn, (above, equal) in enumerate(groupby(sorted(listed, key=_above), _above)):
            # No two threads make a directory, so each has its owner before files get it.
            with os_errors(above), self._make(above):
                parts[turn % len(parts)].extend(equal)
        self._parts = [_Part(self._make, part) for part in parts]
        _run([part.write for part in self._parts])
        self._sync()
        _run([part.rename for part in self._parts])
        self._sync()

    def _sync(self) -> None:
        file_systems = {dev: fd for part in self._parts for dev, fd in part.file_systems.items()}
        for fd in file_systems.values():
            with os_errors("the file system"):
                _sync_file_system(fd)

    def close(self) -> None:
        """Remove the files that are not renamed, and close the descriptors."""
        for part in self._parts:
            part.close()


class _Part:
    """The files of one thread; those of a directory above their own follow each other.

    It owns a descriptor of that directory, and one of each file system that has a file.
    """

    def __init__(self, make: _Make, files: Sequence[NewFile]) -> None:
        self._make = make
        self._files = files
        self._written: list[tuple[str, str]] = []
        """Paths and temporary names of files that are not renamed yet."""
        self._above = ""
        self._above_fd = -1
        self.file_systems: dict[int, int] = {}  # by device

    def write(self) -> None:
        """Write the files under temporary names."""
        for file in self._files:
            with os_errors(file.path):
                self._write(file)

    def _write(self, file: NewFile) -> None:
        above, directory, name = self._opened(file.path)
        temporary = temporary_name(name)
        permissions = ownership.IMMUTABLE if file.is_immutable else ownership.FILE
        with owned_fd(made_below(directory, above)) as parent:
            owner = os.fstat(parent)
            mode = owner.st_mode & permissions
            fd = os.open(temporary, _CREATE, mode, dir_fd=parent)
            self._written.append((file.path, temporary))
            with owned_fd(fd):
                ownership.adopt_from(fd, owner, permissions)
                write_all(fd, file.content)
        if owner.st_dev not in self.file_systems:
            self.file_systems[owner.st_dev] = os.dup(above)

    def rename(self) -> None:
        """Rename the files that were written."""
        while self._written:
            self._rename(*self._written[-1])
            self._written.pop()

    def _rename(self, path: str, temporary: str) -> None:
        # By a descriptor: rename(2) resolves two paths, and another user may replace the directory
        # by a symlink between them.
        with os_errors(path):
            above, directory, name = self._opened(path)
            with owned_fd(os.open(directory, _PARENT, dir_fd=above)) as parent:
                os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)

    def _opened(self, path: str) -> tuple[int, str, str]:
        """Open the directory above that of a file; return it, and the names of both."""
        parent, _, name = path.rpartition("/")
        above, _, directory = parent.rpartition("/")
        if above != self._above or self._above_fd < 0:
            with self._make(above or "/") as opened:
                self._close_above()
                self._above, self._above_fd = above, os.dup(opened[-1])
        return self._above_fd, directory or ".", name

    def close(self) -> None:
        """Remove the files that are not renamed, after a failure, and close the descriptors."""
        for path, temporary in self._written:
            with suppress(BlobfsError), os_errors(path):
                above, directory, _ = self._opened(path)
                with owned_fd(os.open(directory, _PARENT, dir_fd=above)) as parent:
                    unlink_if_there(temporary, parent)
        self._close_above()
        while self.file_systems:
            os.close(self.file_systems.popitem()[1])

    def _close_above(self) -> None:
        if self._above_fd >= 0:
            os.close(self._above_fd)
            self._above_fd = -1


def _above(file: NewFile) -> str:
    """The directory above that of a file."""
    return file.path.rpartition("/")[0].rpartition("/")[0] or "/"


def _run(calls: Sequence[Callable[[], None]]) -> None:
    """Make *calls* in threads, and raise the first error after all have ended."""
    if len(calls) == 1:
        calls[0]()
        return
    running = [PARALLEL.submit(call) for call in calls]
    wait(running)
    for each in running:
        each.result()


def _sync_file_system(fd: int) -> None:
    if not hasattr(_libc, "syncfs"):
        os.sync()
    elif _libc.syncfs(fd):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))

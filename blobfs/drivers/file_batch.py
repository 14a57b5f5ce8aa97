"""Small files of a local directory that are made durable together."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from typing import Final

from blobfs.drivers import ownership
from blobfs.drivers.base import NewFile
from blobfs.drivers.directories import made_below
from blobfs.drivers.oserrors import os_errors
from blobfs.drivers.temporaries import owned_fd, temporary_name, unlink_if_there, write_all
from blobfs.errors import BlobfsError

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL

_libc: Final = ctypes.CDLL(None, use_errno=True)


class FileBatch:
    """Files under temporary names, which are synced together and then renamed.

    Two syncs of the file system replace a sync of each file and of each new directory. No lock
    protects the temporary names, as a process may not hold so many descriptors. They are as young
    as those of a registry, which other programs leave alone. Used by one thread.

    *make* opens a directory, the last of its list, and creates it if it is missing. In the order of
    their paths, many files have the same directory above their own. The batch owns a descriptor of
    it, and one of each file system that has a file.
    """

    def __init__(self, make: Callable[[str], AbstractContextManager[list[int]]]) -> None:
        self._make = make
        self._written: list[tuple[str, str]] = []
        """Paths and temporary names of files that are not renamed yet."""
        self._above = ""
        self._above_fd = -1
        self._file_systems: dict[int, int] = {}  # by device

    def put(self, files: Iterable[NewFile]) -> None:
        """Create or replace *files* durably, each atomically."""
        try:
            for file in sorted(files):
                with os_errors(file.path):
                    self._write(file)
            self._sync()
            while self._written:
                self._rename(*self._written[-1])
                self._written.pop()
            self._sync()
        finally:
            for path, temporary in self._written:  # after a failure
                with suppress(BlobfsError), os_errors(path):
                    self._remove(path, temporary)

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
        if owner.st_dev not in self._file_systems:
            self._file_systems[owner.st_dev] = os.dup(above)

    def _rename(self, path: str, temporary: str) -> None:
        # A symlink in the place of the directory has no file of the temporary name.
        with os_errors(path):
            above, directory, name = self._opened(path)
            old, new = f"{directory}/{temporary}", f"{directory}/{name}"
            os.rename(old, new, src_dir_fd=above, dst_dir_fd=above)

    def _remove(self, path: str, temporary: str) -> None:
        above, directory, _ = self._opened(path)
        unlink_if_there(f"{directory}/{temporary}", above)

    def _opened(self, path: str) -> tuple[int, str, str]:
        """Open the directory above that of a file; return it, and the names of both."""
        parent, _, name = path.rpartition("/")
        above, _, directory = parent.rpartition("/")
        if above != self._above or self._above_fd < 0:
            with self._make(above or "/") as opened:
                self._close_above()
                self._above, self._above_fd = above, os.dup(opened[-1])
        return self._above_fd, directory or ".", name

    def _sync(self) -> None:
        for fd in self._file_systems.values():
            with os_errors("the file system"):
                _sync_file_system(fd)

    def close(self) -> None:
        """Close the descriptors."""
        self._close_above()
        while self._file_systems:
            os.close(self._file_systems.popitem()[1])

    def _close_above(self) -> None:
        if self._above_fd >= 0:
            os.close(self._above_fd)
            self._above_fd = -1


def _sync_file_system(fd: int) -> None:
    if not hasattr(_libc, "syncfs"):
        os.sync()
    elif _libc.syncfs(fd):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))

"""Small files of a local directory that are made durable together."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from typing import Final

from blobfs.drivers import ownership
from blobfs.drivers.base import NewFile
from blobfs.drivers.oserrors import os_errors
from blobfs.drivers.temporaries import owned_fd, temporary_name, unlink_if_there, write_all
from blobfs.errors import BlobfsError

_libc: Final = ctypes.CDLL(None, use_errno=True)


class FileBatch:
    """Files under temporary names, which are synced together and then renamed.

    Two syncs of the file system replace a sync of each file and of each new directory. No lock
    protects the temporary names, as a process may not hold so many descriptors. They are as young
    as those of a registry, which other programs leave alone. Used by one thread.

    *make* opens a directory, the last of its list, and creates it if it is missing; *find* opens an
    existing one. It owns a descriptor of each file system that has one of the files.
    """

    def __init__(
        self,
        make: Callable[[str], AbstractContextManager[list[int]]],
        find: Callable[[str], AbstractContextManager[int]],
    ) -> None:
        self._make = make
        self._find = find
        self._written: dict[str, str] = {}
        """The temporary name of each path."""
        self._file_systems: dict[int, int] = {}  # by device

    def put(self, files: Iterable[NewFile]) -> None:
        """Create or replace *files* durably, each atomically."""
        try:
            for file in files:
                with os_errors(file.path), self._make(_parent(file.path)) as opened:
                    self._write(file, opened[-1])
            self._sync()
            for path, temporary in tuple(self._written.items()):
                with os_errors(path), self._find(_parent(path)) as fd:
                    os.rename(temporary, _name(path), src_dir_fd=fd, dst_dir_fd=fd)
                del self._written[path]
            self._sync()
        finally:
            self._remove_written()

    def _write(self, file: NewFile, directory: int) -> None:
        name = temporary_name(_name(file.path))
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
        self._written[file.path] = name
        permissions = ownership.IMMUTABLE if file.is_immutable else ownership.FILE
        with owned_fd(fd):
            ownership.adopt(fd, directory, permissions)
            write_all(fd, file.content)
            device = os.fstat(fd).st_dev
        if device not in self._file_systems:
            self._file_systems[device] = os.dup(directory)

    def _sync(self) -> None:
        for fd in self._file_systems.values():
            with os_errors("the file system"):
                _sync_file_system(fd)

    def _remove_written(self) -> None:
        """Remove the temporary files that a failure has left."""
        for path, temporary in self._written.items():
            with suppress(BlobfsError), os_errors(path), self._find(_parent(path)) as fd:
                unlink_if_there(temporary, fd)

    def close(self) -> None:
        """Close the descriptors."""
        while self._file_systems:
            os.close(self._file_systems.popitem()[1])


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _sync_file_system(fd: int) -> None:
    if not hasattr(_libc, "syncfs"):
        os.sync()
    elif _libc.syncfs(fd):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))

"""Files with a checksum at their end, which only this user and root can have written.

The trailer is a magic text, and the sha256 of the file's kind, name, size and content.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from blobfs.concurrency import stop_check
from blobfs.drivers.base import FileReader
from blobfs.drivers.oserrors import os_errors

_MAGIC: Final = b"\nblobfs index 1\n"
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH

TRAILER_SIZE: Final = len(_MAGIC) + hashlib.sha256().digest_size

WRITE: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class StoredFile(FileReader):
    """A file of an IndexStore in use, which is not evicted before ``close``. Owns the descriptor.

    Readers see the content without the trailer. Programs that open *path* see the trailer, too.
    """

    def __init__(self, path: Path, fd: int, size: int) -> None:
        self.path = path
        self._fd = fd
        self._size = size

    @property
    def size(self) -> int:
        return self._size

    def read_at(self, offset: int, size: int) -> bytes:
        with os_errors(str(self.path)):
            return os.pread(self._fd, max(0, min(size, self._size - offset)), offset)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def is_ours(info: os.stat_result) -> bool:
    """True if only this user and root can have written the file of *info*."""
    is_ours = info.st_uid in (0, os.geteuid()) and not info.st_mode & _OTHERS_WRITE
    return stat.S_ISREG(info.st_mode) and is_ours


def is_at(path: Path, info: os.stat_result) -> bool:
    """True if the file of *info* has the name *path*."""
    try:
        return os.path.samestat(path.lstat(), info)
    except FileNotFoundError:
        return False


def is_whole(fd: int, size: int, path: Path) -> bool:
    """True if the trailer of the file of *size* bytes is right."""
    content = size - TRAILER_SIZE
    if content < 0:
        return False
    trailer = os.pread(fd, TRAILER_SIZE, content)
    return trailer.startswith(_MAGIC) and trailer == _MAGIC + _checksum(fd, content, path)


def append_trailer(file: Path, path: Path) -> None:
    """Complete *file*, which will have the name *path*."""
    fd = os.open(file, WRITE)
    try:
        os.fchmod(fd, 0o600)
        size = os.fstat(fd).st_size
        trailer = _MAGIC + _checksum(fd, size, path)
        os.lseek(fd, size, os.SEEK_SET)
        while trailer:
            trailer = trailer[os.write(fd, trailer) :]
    finally:
        os.close(fd)


def _checksum(fd: int, size: int, path: Path) -> bytes:
    """Return the checksum of the first *size* bytes, and of the kind and digest of the file."""
    hasher = hashlib.sha256(f"{path.parent.name}/{path.name}/{size}/".encode())
    offset = 0
    while offset < size:
        stop_check.get()()
        chunk = os.pread(fd, min(2**20, size - offset), offset)
        if not chunk:
            break
        hasher.update(chunk)
        offset += len(chunk)
    return hasher.digest()

"""Opening of files below a directory, without following symlinks and without leaving it.

Other programs write to the storage, and the mount may run as root: a symlink must not give access
to the rest of the machine. Linux's openat2(2) does this in one call. If a kernel or a container
does not allow it, every component is opened in turn. Both are free of races.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Callable
from functools import cache
from typing import Final

Opener = Callable[[int, str, int, int], int]
"""``open(directory_fd, relative_path, flags, mode)``: open a file; raises OSError."""

_OPENAT2: Final = 437  # the same on every architecture (Linux 5.6)
_RESOLVE_NO_SYMLINKS: Final = 0x04
_RESOLVE_BENEATH: Final = 0x08

NO_XDEV: Final = 0x01
"""The flag of openat2(2) that forbids to enter another mount."""

_syscall: Final = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (
    ctypes.c_long,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_size_t,
)


def opener(directory: int) -> Opener:
    """The opener that this kernel allows, tested on *directory*."""
    try:
        os.close(openat2(directory, ".", os.O_PATH, 0))
    except OSError as exc:
        if exc.errno not in {errno.ENOSYS, errno.EPERM}:
            raise
        return open_by_component
    return openat2


def openat2(directory: int, path: str, flags: int, mode: int, resolve: int = 0) -> int:
    """Open *path*; ELOOP for any symlink in it, EXDEV if it leads out of *directory*.

    With ``NO_XDEV`` as *resolve* it enters no other mount: EXDEV if *path* leads into one.
    """
    how = _open_how(flags | os.O_CLOEXEC, mode, resolve)
    encoded = os.fsencode(path)
    while True:
        fd: int = _syscall(_OPENAT2, directory, encoded, how, len(how))
        if fd >= 0:
            return fd
        if (number := ctypes.get_errno()) != errno.EINTR:
            raise OSError(number, os.strerror(number), path)


@cache
def _open_how(flags: int, mode: int, resolve: int) -> bytes:
    """The kernel's ``struct open_how``."""
    return struct.pack("=QQQ", flags, mode, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | resolve)


def open_by_component(directory: int, path: str, flags: int, mode: int) -> int:
    """Open *path* by its components; ELOOP or ENOTDIR for any symlink, EXDEV for ``..``."""
    *parents, name = path.split("/")
    if ".." in (*parents, name):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    fd = os.open(".", os.O_PATH | os.O_DIRECTORY, dir_fd=directory)
    try:
        for parent in parents:
            below = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = below
        found = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=fd)
    finally:
        os.close(fd)
    # O_PATH opens a symlink itself; without it, open(2) fails with ELOOP.
    if flags & os.O_PATH and stat.S_ISLNK(os.fstat(found).st_mode):
        os.close(found)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    return found

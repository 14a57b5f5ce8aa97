"""Opening files below a directory without ever leaving it, whatever symlinks lie there.

Linux's openat2(2) does it in one call; where a kernel or a container does not allow that,
every component is opened in turn and no symlink is followed at all. Neither can be raced.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable
from typing import Final

Opener = Callable[[int, str, int, int], int]
"""``open(directory_fd, relative_path, flags, mode)`` gives a descriptor; raises OSError."""

_OPENAT2: Final = 437  # the same on every architecture (Linux 5.6)
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_BENEATH: Final = 0x08

_ATTEMPTS: Final = 100
"""At opening a path that EAGAIN kept us from; three in a hundred did, at worst."""

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    """The kernel's ``struct open_how``."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def opener(directory: int) -> Opener:
    """The way to open files below *directory* that this kernel allows."""
    try:
        os.close(openat2(directory, ".", os.O_PATH, 0))
    except OSError as exc:
        if exc.errno not in {errno.ENOSYS, errno.EPERM}:
            raise
        return open_by_component
    return openat2


def openat2(directory: int, path: str, flags: int, mode: int) -> int:
    """Open *path*, following symlinks that stay below *directory*; EXDEV for the others."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    encoded = os.fsencode(path)
    attempts = 0
    while True:
        fd: int = _libc.syscall(
            ctypes.c_long(_OPENAT2),
            ctypes.c_int(directory),
            encoded,
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        # EAGAIN: a rename anywhere in the system got in the way of a symlink's "..".
        attempts += number == errno.EAGAIN
        if number not in {errno.EINTR, errno.EAGAIN} or attempts == _ATTEMPTS:
            raise OSError(number, os.strerror(number), path)


def open_by_component(directory: int, path: str, flags: int, mode: int) -> int:
    """Open *path* step by step; ELOOP or ENOTDIR for any symlink on the way."""
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
    # O_PATH opens a symlink itself, where every other way of opening says ELOOP.
    if flags & os.O_PATH and stat.S_ISLNK(os.fstat(found).st_mode):
        os.close(found)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    return found

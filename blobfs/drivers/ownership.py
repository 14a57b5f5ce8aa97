"""Owner, group and permissions of new files and directories: those of the directory around them.

A registry runs as a user of its own, and a mount often as root. What root makes must be writable
for the registry, so its directory decides, as it does for whoever set up the storage.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

FILE: Final = 0o666
"""The permissions that a file takes from its directory."""

IMMUTABLE: Final = 0o444
"""The permissions that a file takes if nobody is to write it again."""

_DIRECTORY: Final = 0o2777  # with the set-group-ID bit

_REFUSED: Final = {errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP}
"""Answers to those who are not root, and of file systems without owners or modes."""


def adopt_file(fd: int, directory: int, permissions: int) -> None:
    """Give the new file *fd* the owner and group of *directory*, and its mode in *permissions*."""
    above, new = os.fstat(directory), os.fstat(fd)
    _take_owner(fd, new, above)
    _take_mode(fd, new, above.st_mode & permissions)


def adopt_directory(fd: int, directory: int) -> None:
    """Give the new directory *fd* the owner, group and mode of *directory*.

    One that is not empty stays as it is: somebody who may write to *directory* has put another
    one in place of the new one, and must not be given it.
    """
    above, new = os.fstat(directory), os.fstat(fd)
    if not os.listdir(fd):
        _take_owner(fd, new, above)
        _take_mode(fd, new, above.st_mode & _DIRECTORY)


def make_immutable(fd: int) -> None:
    """Take the right to write from everybody, as far as the file system knows of it."""
    st = os.fstat(fd)
    _take_mode(fd, st, st.st_mode & IMMUTABLE)


def make_writable(fd: int, mode: int) -> None:
    """Give a file back the mode that it had before ``make_immutable``."""
    _take_mode(fd, os.fstat(fd), stat.S_IMODE(mode))


def _take_owner(fd: int, new: os.stat_result, above: os.stat_result) -> None:
    if (new.st_uid, new.st_gid) == (above.st_uid, above.st_gid):
        return
    for owner in (above.st_uid, -1):  # who is not root may still give it a group of his own
        try:
            os.fchown(fd, owner, above.st_gid)
        except OSError as exc:
            if exc.errno not in _REFUSED:
                raise
        else:
            return


def _take_mode(fd: int, new: os.stat_result, mode: int) -> None:
    if stat.S_IMODE(new.st_mode) == mode:
        return  # chmod(2) may take the set-group-ID bit away
    try:
        os.fchmod(fd, mode)
    except OSError as exc:
        if exc.errno not in _REFUSED:
            raise

"""Owner, group and permissions of new files and directories: those of their parent directory.

A registry runs as a user of its own, and a mount often as root. The registry must be able to write
to files that root creates, so they inherit from the directory.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

FILE: Final = 0o666
"""The permissions that a file inherits from its directory."""

IMMUTABLE: Final = 0o444
"""The permissions that an immutable file inherits from its directory."""

_DIRECTORY: Final = 0o2777  # with the set-group-ID bit

_REFUSED: Final = {errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP}
"""Errors for users other than root, and of file systems without owners or modes."""


def adopt_file(fd: int, directory: int, permissions: int) -> None:
    """Give the new file *fd* the owner, group and mode (within *permissions*) of *directory*."""
    above, new = os.fstat(directory), os.fstat(fd)
    _set_owner(fd, new, above)
    _set_mode(fd, new, above.st_mode & permissions)


def adopt_directory(fd: int, directory: int) -> None:
    """Give the new directory *fd* the owner, group and mode of *directory*.

    A directory that is not empty is left unchanged: a program that may write to *directory* has
    replaced the new one, and must not become the owner of the other.
    """
    above, new = os.fstat(directory), os.fstat(fd)
    if not os.listdir(fd):
        _set_owner(fd, new, above)
        _set_mode(fd, new, above.st_mode & _DIRECTORY)


def make_immutable(fd: int) -> None:
    """Remove all write permissions, if the file system has permissions."""
    st = os.fstat(fd)
    _set_mode(fd, st, st.st_mode & IMMUTABLE)


def make_writable(fd: int, mode: int) -> None:
    """Restore the *mode* that the file had before ``make_immutable``."""
    _set_mode(fd, os.fstat(fd), stat.S_IMODE(mode))


def _set_owner(fd: int, new: os.stat_result, above: os.stat_result) -> None:
    if (new.st_uid, new.st_gid) == (above.st_uid, above.st_gid):
        return
    for owner in (above.st_uid, -1):  # users other than root may still set one of their groups
        try:
            os.fchown(fd, owner, above.st_gid)
        except OSError as exc:
            if exc.errno not in _REFUSED:
                raise
        else:
            return


def _set_mode(fd: int, new: os.stat_result, mode: int) -> None:
    if stat.S_IMODE(new.st_mode) == mode:
        return  # chmod(2) may clear the set-group-ID bit
    try:
        os.fchmod(fd, mode)
    except OSError as exc:
        if exc.errno not in _REFUSED:
            raise

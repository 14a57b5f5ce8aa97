"""Owner, group and permissions of new files and directories: those of their parent directory.

A registry runs as a user of its own, and a mount often as root. The registry must be able to write
to files that root creates, so they inherit from the directory.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

FILE: Final = 0o666
"""The permissions that a file inherits from its directory."""

IMMUTABLE: Final = 0o444
"""The permissions that an immutable file inherits from its directory."""

DIRECTORY: Final = 0o2777
"""The permissions that a directory inherits, with the set-group-ID bit."""

_REFUSED: Final = {errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP}
"""Errors for users other than root, and of file systems without owners or modes."""


def is_of_another(file: os.stat_result, directory: Path) -> bool:
    """True for a file of another user in a directory that all may write, such as ``/tmp``.

    Its name may have been foreseen, so a program must not take it for its own.
    """
    above = directory.stat()
    is_for_all = bool(above.st_mode & stat.S_IWOTH)
    return is_for_all and file.st_uid not in {os.geteuid(), above.st_uid}


def differs(fd: int, directory: int, permissions: int) -> bool:
    """True if ``adopt`` would change *fd*."""
    new, above = os.fstat(fd), os.fstat(directory)
    return _owner(new) != _owner(above) or stat.S_IMODE(new.st_mode) != above.st_mode & permissions


def adopt(fd: int, directory: int, permissions: int) -> None:
    """Give the new file or directory *fd* the owner, group and mode of *directory*.

    The mode is within *permissions*.
    """
    adopt_from(fd, os.fstat(directory), permissions)


def adopt_from(fd: int, above: os.stat_result, permissions: int) -> None:
    """Do the same as ``adopt``, with the attributes of the directory *above*."""
    new = os.fstat(fd)
    if _owner(new) != _owner(above):
        _set_owner(fd, above)
    mode = above.st_mode & permissions
    if stat.S_IMODE(new.st_mode) != mode:  # chmod(2) may clear the set-group-ID bit
        _set_mode(fd, mode)


def make_immutable(fd: int) -> None:
    """Remove all write permissions, if the file system has permissions."""
    _set_mode(fd, os.fstat(fd).st_mode & IMMUTABLE)


def make_writable(fd: int, mode: int) -> None:
    """Restore the *mode* that the file had before ``make_immutable``."""
    if stat.S_IMODE(os.fstat(fd).st_mode) != stat.S_IMODE(mode):
        _set_mode(fd, stat.S_IMODE(mode))


def _owner(st: os.stat_result) -> tuple[int, int]:
    return st.st_uid, st.st_gid


def _set_owner(fd: int, above: os.stat_result) -> None:
    for owner in (above.st_uid, -1):  # users other than root may still set one of their groups
        try:
            os.fchown(fd, owner, above.st_gid)
        except OSError as exc:
            if exc.errno not in _REFUSED:
                raise
        else:
            return


def _set_mode(fd: int, mode: int) -> None:
    try:
        os.fchmod(fd, mode)
    except OSError as exc:
        if exc.errno not in _REFUSED:
            raise

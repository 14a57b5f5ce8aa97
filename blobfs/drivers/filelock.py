"""Locks that processes of one machine, and NFS clients, hold on files while they write them.

They belong to an open file description (fcntl(2), F_OFD_SETLK), so two writers of one process
exclude each other too, and the kernel drops them with the descriptor, also after a crash. A
file system without locks grants every lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Final

_HELD_ELSEWHERE: Final = {errno.EAGAIN, errno.EACCES}
_NO_LOCKS: Final = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


def lock_shared(fd: int) -> bool:
    """Lock the file *fd* beside other writers; False if one of them has it for itself."""
    return _lock(fd, fcntl.F_RDLCK)


def lock_exclusive(fd: int) -> bool:
    """Keep all other writers out, or change nothing and return False if there is one."""
    return _lock(fd, fcntl.F_WRLCK)


def _lock(fd: int, kind: int) -> bool:
    whole_file = struct.pack("hhqqi0q", kind, os.SEEK_SET, 0, 0, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, whole_file)
    except OSError as exc:
        if exc.errno in _HELD_ELSEWHERE:
            return False
        if exc.errno not in _NO_LOCKS:
            raise
    return True

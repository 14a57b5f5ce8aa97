"""Locks on files, which writers on one machine and NFS clients hold while they write.

They belong to an open file description (fcntl(2), F_OFD_SETLK): two writers of one process exclude
each other too, and the kernel releases a lock with the descriptor, also after a crash. On a file
system without locks every lock succeeds.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Final

_HELD_ELSEWHERE: Final = {errno.EAGAIN, errno.EACCES}
_NO_LOCKS: Final = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


SHARED: Final = fcntl.F_RDLCK
EXCLUSIVE: Final = fcntl.F_WRLCK


def lock(fd: int, kind: int) -> bool:
    """Take a ``SHARED`` or ``EXCLUSIVE`` lock on the file *fd*.

    False, with nothing changed, if another writer has an exclusive one, or any for ``EXCLUSIVE``.
    """
    whole_file = struct.pack("hhqqi0q", kind, os.SEEK_SET, 0, 0, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, whole_file)
    except OSError as exc:
        if exc.errno in _HELD_ELSEWHERE:
            return False
        if exc.errno not in _NO_LOCKS:
            raise
    return True

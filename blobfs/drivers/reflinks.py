"""Files of two names on one file system: reflinks and hard links."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import Final

from blobfs.drivers import ownership
from blobfs.drivers.temporaries import owned_fd, replacing, temporary_name, unlink_if_there

_FICLONE: Final = 0x40049409  # ioctl_ficlone(2)

_IMPOSSIBLE: Final = {
    errno.EXDEV,
    errno.EOPNOTSUPP,
    errno.ENOTTY,
    errno.EINVAL,
    errno.EPERM,
    errno.EMLINK,
    errno.ENOSYS,
    errno.ENOENT,
}
"""Errors of file systems that cannot share these files."""


def share(source: int, size: int, name: str, directory: int) -> bool:
    """Create or replace *name* by a durable reflink of the open file *source*, or a hard link.

    False, with nothing changed, if neither is possible, or if it has not *size* bytes.
    """
    st = os.fstat(source)
    if not stat.S_ISREG(st.st_mode) or st.st_size != size:
        return False
    for way in (_reflink, _hard_link):
        try:
            way(source, name, directory)
        except OSError as exc:
            if exc.errno not in _IMPOSSIBLE:
                raise
        else:
            return True
    return False


def _reflink(source: int, name: str, directory: int) -> None:
    with replacing(name, directory, ownership.IMMUTABLE) as fd:
        fcntl.ioctl(fd, _FICLONE, source)


def _hard_link(source: int, name: str, directory: int) -> None:
    temporary = temporary_name(name)
    os.link(f"/proc/self/fd/{source}", temporary, dst_dir_fd=directory, follow_symlinks=True)
    try:
        with owned_fd(os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)) as fd:
            os.fsync(fd)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        unlink_if_there(temporary, directory)  # rename(2) leaves two names of one file

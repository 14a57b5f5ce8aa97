"""The mounts below a storage's directory, and whether calls to them are short.

One storage may lie on several file systems: ``blobs/`` on NFS is common. A call that an event loop
makes must not reach one that may hang, so such mounts are found out and remembered.
"""

from __future__ import annotations

import os
import select
from pathlib import Path
from typing import Final

from blobfs.mountinfo import Mount, mount_of, mounts

_REMOTE: Final = ("nfs", "cifs", "smb", "ceph", "gluster", "lustre", "9p", "afs", "fuse", "autofs")
"""Prefixes of the types of file systems on which a call may take long."""


class Submounts:
    """The mounts below *root*, by their path in the storage. Thread-safe.

    ``look`` replaces the table by one assignment. The kernel reports a change of the mount table
    through ``poll``; from then on no mount counts as local until the next ``look``.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.path.realpath(root)
        self._local: dict[str, bool] = {}
        self._table = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._changes = select.poll()
        self._changes.register(self._table, select.POLLPRI)

    def look(self) -> None:
        """Read the table of mounts, without touching any of them."""
        start = self._root.rstrip("/") + "/"
        self._local = {
            f"/{path.removeprefix(start)}": is_local(mount)
            for mount in mounts()
            if (path := str(mount.mountpoint)).startswith(start)
        }

    def are_local(self, path: str) -> bool:
        """Whether *path* leads through mounts that are known, and through local ones only."""
        if self._changes.poll(0):
            self._local = {}
        found = self._on_the_way(path)
        return bool(found) and all(found)

    def lead_far(self, path: str) -> bool:
        """Whether *path* leads through a known mount that is not local."""
        return not all(self._on_the_way(path))

    @property
    def are_there(self) -> bool:
        """Whether the last ``look`` found any."""
        return bool(self._local)

    def _on_the_way(self, path: str) -> list[bool]:
        below = f"{path}/"
        return [local for mount, local in self._local.items() if below.startswith(f"{mount}/")]

    def close(self) -> None:
        """Let go of the kernel's table; more than once does no harm."""
        if self._table >= 0:
            os.close(self._table)
            self._table = -1

    def __del__(self) -> None:
        self.close()


def is_local(mount: Mount) -> bool:
    """Whether a file system is one of this machine."""
    return not mount.fstype.startswith(_REMOTE)


def is_on_local(fd: int) -> bool:
    """Whether the file system of *fd* is one of this machine."""
    mount = mount_of(fd)
    return mount is None or is_local(mount)

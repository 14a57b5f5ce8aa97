"""The mounts below a storage's directory, local and remote ones.

One storage may be on several file systems; ``blobs/`` on NFS is common. A call on an event loop
must not enter a file system that may hang, so the mounts are cached by their path.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from blobfs.drivers.base import is_below
from blobfs.mountinfo import Mount, mount_of, mounts

_REMOTE: Final = ("nfs", "cifs", "smb", "ceph", "gluster", "lustre", "9p", "afs", "fuse", "autofs")
"""Prefixes of the file system types whose calls may take long."""


class Submounts:
    """A cache of the mounts below *root*, by their path in the storage.

    It owns a descriptor of the kernel's mount table, which reports changes through ``poll``. After
    a change no mount counts as local until the next ``refresh``. Thread-safe without a lock:
    ``refresh`` replaces the cache by one assignment.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.path.realpath(root)
        self._local: dict[str, bool] = {}
        self._table = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._changes = select.poll()
        self._changes.register(self._table, select.POLLPRI)

    def refresh(self) -> None:
        """Read the kernel's mount table, without a call to any of the mounts."""
        self._local = {path: is_local(mount) for path, mount in mounts_below(self._root)}

    def are_local(self, path: str) -> bool:
        """True if all mounts on the way to *path* are known to be local, and there is one."""
        if self._changes.poll(0):
            self._local = {}
        found = self._on_the_way(path)
        return bool(found) and all(found)

    def are_remote(self, path: str) -> bool:
        """True if a mount on the way to *path* is known not to be local."""
        return not all(self._on_the_way(path))

    @property
    def has_any(self) -> bool:
        """True if the last ``refresh`` found a mount."""
        return bool(self._local)

    def _on_the_way(self, path: str) -> list[bool]:
        return [local for mount, local in self._local.items() if is_below(path, mount)]

    def close(self) -> None:
        """Close the kernel's mount table; idempotent."""
        if self._table >= 0:
            os.close(self._table)
            self._table = -1

    def __del__(self) -> None:
        self.close()


def mounts_below(root: str) -> Iterator[tuple[str, Mount]]:
    """Yield the mounts below *root*, a path without symlinks, with their paths from there."""
    for mount in mounts():
        path = path_below(root, mount.mountpoint)
        if path is not None:
            yield path, mount


def path_below(root: str, mountpoint: Path) -> str | None:
    """Return the path of *mountpoint* from *root*; None if it is not below it."""
    start = root.rstrip("/") + "/"
    path = str(mountpoint)
    return f"/{path.removeprefix(start)}" if path.startswith(start) else None


def is_local(mount: Mount) -> bool:
    """True if the file system is on this machine."""
    return not mount.fstype.startswith(_REMOTE)


def is_on_local(fd: int) -> bool:
    """True if the file system of *fd* is on this machine."""
    mount = mount_of(fd)
    return mount is None or is_local(mount)

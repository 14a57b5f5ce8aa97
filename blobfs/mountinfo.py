"""The mounts that a process sees, and those of fstab(5), read without access to the mounts.

A dead or hung mount blocks every call that reaches it, stat(2) too. So this module reads only
``/proc/<pid>/mountinfo``; proc_pid_mountinfo(5) describes its format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FSTAB: Final = Path("/etc/fstab")

_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount. *device* is ``major:minor``, *mountpoint* absolute."""

    mount_id: int
    device: str
    mountpoint: Path
    fstype: str
    source: str


def mounts(process: str = "self") -> Iterator[Mount]:
    """Yield the mounts that *process* sees; a later one covers earlier ones at its mount point."""
    with open(f"/proc/{process}/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            mount_id, _parent, device, _root, mountpoint, *_ = before.split(" ")
            fstype, source, *_ = after.split(" ")
            yield Mount(
                int(mount_id), device, Path(_unescaped(mountpoint)), fstype, _unescaped(source)
            )


def mount_at(mountpoint: Path) -> Mount | None:
    """Return the topmost mount at *mountpoint*, an absolute path without symlinks, or None."""
    found = None
    for mount in mounts():
        if mount.mountpoint == mountpoint:
            found = mount
    return found


def mount_of(fd: int) -> Mount | None:
    """Return the mount of an open file, from ``/proc/self/fdinfo`` (see proc(5))."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as fdinfo:
        mount_id = next(int(line.split()[1]) for line in fdinfo if line.startswith("mnt_id:"))
    return next((mount for mount in mounts() if mount.mount_id == mount_id), None)


def mountpoints_of_fstab() -> list[Path]:
    """Return the mount points that fstab(5) names; none if there is no such file."""
    try:
        lines = FSTAB.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    fields = (line.split() for line in lines if not line.lstrip().startswith("#"))
    return [Path(_unescaped(found[1])) for found in fields if found[1:]]


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)

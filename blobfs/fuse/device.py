"""The reasons why the kernel or fusermount3(1) refuses a mount, with what to do.

The search runs only after a mount has failed, because libfuse may find other ways to mount.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Final

_DEVICE: Final = "/dev/fuse"
_GIVE_DEVICE: Final = "give the container the device, as docker run --device /dev/fuse does"
_CAP_SYS_ADMIN: Final = 21


def obstacle(*, allow_other: bool) -> str | None:
    """Return the first known reason that applies now; None if none applies."""
    if (refusal := _refusal_of_device()) is not None:
        return refusal
    if os.geteuid() == 0:
        if not _has_capability(_CAP_SYS_ADMIN):
            return "root may not mount here; a container needs docker run --cap-add SYS_ADMIN"
        return None
    if shutil.which("fusermount3") is None:
        return "fusermount3 is missing, and only root can mount without it; install fuse3"
    if allow_other:
        return "--allow-other needs user_allow_other in /etc/fuse.conf"
    return None


def _refusal_of_device() -> str | None:
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        message = f"{_DEVICE} cannot be used: {exc.strerror}"
        if exc.errno == errno.EACCES:
            return f"{message}; as root: chmod 666 {_DEVICE}, or mount as root"
        if exc.errno == errno.EPERM:
            return f"{message}; {_GIVE_DEVICE}"
        return f"{message}; load the fuse module (modprobe fuse), or {_GIVE_DEVICE}"
    return None


def _has_capability(number: int) -> bool:
    for line in (
        Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    ):
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return True

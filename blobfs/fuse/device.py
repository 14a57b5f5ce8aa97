"""The reasons why the kernel or fusermount3(1) refuses a mount, with what to do.

They are looked for after a mount has failed: libfuse has ways that are not known here.
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
    """The commonest reason that holds at this moment; None if none does."""
    if (refusal := _refusal_of_device()) is not None:
        return refusal
    if os.geteuid() == 0:
        if not _has_capability(_CAP_SYS_ADMIN):
            return "root may not mount here; a container needs docker run --cap-add SYS_ADMIN"
        return None
    if shutil.which("fusermount3") is None:
        return "fusermount3 is missing, without which only root can mount; install fuse3"
    if allow_other:
        return "--allow-other needs user_allow_other in /etc/fuse.conf"
    return None


def _refusal_of_device() -> str | None:
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        said = f"{_DEVICE} cannot be used: {exc.strerror}"
        if exc.errno == errno.EACCES:
            return f"{said}; as root: chmod 666 {_DEVICE}, or mount as root"
        if exc.errno == errno.EPERM:
            return f"{said}; {_GIVE_DEVICE}"
        return f"{said}; load the fuse module (modprobe fuse), or {_GIVE_DEVICE}"
    return None


def _has_capability(number: int) -> bool:
    for line in (
        Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    ):
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return True

"""The reasons why the kernel or fusermount3(1) refuses a mount, with what to do.

``obstacle`` is for a mount that has failed, because libfuse may find other ways to mount.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import Final

_DEVICE: Final = "/dev/fuse"
_CONFIG: Final = "/etc/fuse.conf"
_GIVE_DEVICE: Final = "give the container the device, as docker run --device /dev/fuse does"
_CAP_SYS_ADMIN: Final = 21


def obstacle(*, allow_other: bool) -> str | None:
    """Return the first known reason that applies now; None if none applies."""
    return (
        refusal_of_device()
        or refusal_of_user()
        or (refusal_of_allow_other() if allow_other else None)
    )


def refusal_of_user() -> str | None:
    """Return why this user cannot mount; None if nothing is known against it."""
    if os.geteuid() == 0:
        if not _has_capability(_CAP_SYS_ADMIN):
            return "root may not mount here; a container needs docker run --cap-add SYS_ADMIN"
        return None
    program = shutil.which("fusermount3")
    if program is None:
        return "fusermount3 is missing, and only root can mount without it; install fuse3"
    if not os.stat(program).st_mode & stat.S_ISUID and not os.listxattr(program):
        return f"{program} is not setuid root, so only root can mount; reinstall fuse3"
    return None


def refusal_of_allow_other() -> str | None:
    """Return why this user cannot give others access to a mount; None if nothing is known."""
    if os.geteuid() == 0 or _is_configured("user_allow_other"):
        return None
    return f"--allow-other needs user_allow_other in {_CONFIG}; add that line as root"


def _is_configured(word: str) -> bool:
    try:
        lines = Path(_CONFIG).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == word for line in lines)


def refusal_of_device() -> str | None:
    """Return why this user cannot open the kernel's FUSE device; None if it can."""
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

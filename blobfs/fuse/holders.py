"""Who has an upload open, as far as proc(5) tells; a close says nothing of the others.

Only ``readlink`` and ``lstat`` on ``/proc/<pid>/fd`` are used, which ask nothing of the mount. They
can wait all the same: a child that closes the file while it is in execve(2) holds a lock that they
need until its close is answered, which is us. So whoever asks waits for a short while, and takes no
answer for another holder. ``/proc/<pid>/stat`` needs that lock too, ``/proc/<pid>/status`` does not
(Linux 6.18). Numbers below are Linux's (``include/linux/sched.h``, proc_pid_stat(5)).
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterator
from typing import Final

from blobfs.vfs.openupload import Survey

_GLANCE_S: Final = 0.025
"""How often it is looked whether the search goes on; it takes 3 ms on a machine at rest."""

_DEADLINE_S: Final = 1.0

_PF_SIGNALED: Final = 0x400
"""The flag of a thread that a signal has ended; all threads of a killed process have it."""

_FLAGS_FIELD: Final = 6
"""Where the flags are in ``/proc/<pid>/stat``, behind the name in parentheses."""


def survey(opener: int, path: str, *, everybody: bool) -> Survey:
    """What is known of those who have the upload at *path* in the tree open to write it.

    *opener* is the process that opened it. With *everybody*, a process that we may not look into
    counts as a holder: it may be one where other users are let into the mount.
    """
    looking = _Looking(opener, os.fsencode(path), everybody=everybody)
    thread = threading.Thread(target=looking.look, name="blobfs-holders", daemon=True)
    thread.start()
    _wait_for(thread, looking)
    return Survey(looking.opener_killed, looking.held)


def _wait_for(thread: threading.Thread, looking: _Looking) -> None:
    """Wait until *thread* has ended, waits for a lock, or takes too long."""
    deadline = time.monotonic() + _DEADLINE_S
    seen = -1
    while thread.is_alive() and time.monotonic() < deadline:
        thread.join(_GLANCE_S)
        # A busy machine may let it rest for that long as well, but not in an uninterruptible sleep.
        if looking.seen == seen and _state(thread.native_id) == b"D":
            break
        seen = looking.seen


def process_of(thread: int) -> int:
    """The process that *thread* is of, which outlives it; the thread itself if that is unknown."""
    try:
        with open(f"/proc/{thread}/status", "rb") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(b"Tgid:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return thread


class _Looking:
    def __init__(self, opener: int, path: bytes, *, everybody: bool) -> None:
        self.opener_killed = False
        self.held = True  # until it is known to be otherwise
        self.seen = 0  # processes
        self._opener = opener
        # The mount may be seen elsewhere too, below another directory; its last two names stay.
        self._tail = b"/" + b"/".join(path.split(b"/")[-2:])
        self._everybody = everybody

    def look(self) -> None:
        self.opener_killed = _is_killed(self._opener)
        self.held = any(self._holds(pid) for pid in self._processes())

    def _processes(self) -> Iterator[int]:
        ourselves = os.getpid()
        yield self._opener
        for name in os.listdir("/proc"):
            if name.isdecimal() and int(name) not in (self._opener, ourselves):
                yield int(name)

    def _holds(self, pid: int) -> bool:
        self.seen += 1
        directory = f"/proc/{pid}/fd"
        try:
            return any(self._is_ours(f"{directory}/{fd}") for fd in os.listdir(directory))
        except PermissionError:
            return self._everybody
        except OSError:
            return False  # it has ended

    def _is_ours(self, link: str) -> bool:
        try:
            target = os.readlink(os.fsencode(link)).removesuffix(b" (deleted)")
            # The link's own mode says whether the file was opened for writing.
            return target.endswith(self._tail) and bool(os.lstat(link).st_mode & stat.S_IWUSR)
        except FileNotFoundError:
            return False


def _is_killed(process: int) -> bool:
    try:
        with open(f"/proc/{process}/status", "rb") as file:
            if any(line.startswith(b"VmSize:") for line in file):
                return False  # it has memory, so it goes on, and may be in execve(2)
        return bool(int(_stat(f"/proc/{process}/stat")[_FLAGS_FIELD]) & _PF_SIGNALED)
    except (OSError, ValueError, IndexError):
        return False  # gone already: it ended by itself as far as anybody can tell


def _state(thread: int | None) -> bytes:
    """What a thread of ours does: ``R``, ``S``, ``D`` and so on; nothing once it has ended."""
    try:
        return _stat(f"/proc/self/task/{thread}/stat")[0]
    except (OSError, IndexError):
        return b""


def _stat(path: str) -> list[bytes]:
    """The fields from the state on."""
    with open(path, "rb") as file:
        return file.read().rpartition(b")")[2].split()

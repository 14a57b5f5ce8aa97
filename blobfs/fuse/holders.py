"""Who has an upload open, as far as proc(5) tells; a close says nothing of the others.

Only ``readlink`` and ``lstat`` on ``/proc/<pid>/fd`` are used, and ``fdinfo``, which ask nothing of
the mount. They can wait all the same: a child that closes the file while it is in execve(2) holds a
lock that they need until its close is answered, which is us. So whoever asks waits for a short
while, and takes no answer for another holder. ``/proc/<pid>/stat`` needs that lock too,
``/proc/<pid>/status`` does not (Linux 6.18). Numbers below are Linux's (``include/linux/sched.h``,
proc_pid_stat(5)).
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

_EXIT_CODE_FIELD: Final = 49

_SIGNAL_BITS: Final = 0x7F
"""Those of an exit code that say which signal it was (wait(2)'s status)."""


def survey(opener: int, name: str, inode: int, *, everybody: bool) -> Survey:
    """What is known of those who have the upload called *name* open to write it.

    *inode* is its number in the mount, 0 if that is unknown, and *opener* the process that opened
    it. With *everybody*, a process that we may not look into counts as a holder: it may be one
    where other users are let into the mount.
    """
    looking = _Looking(opener, os.fsencode(name), inode, everybody=everybody)
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
    def __init__(self, opener: int, name: bytes, inode: int, *, everybody: bool) -> None:
        self.opener_killed = False
        self.held = True  # until it is known to be otherwise
        self.seen = 0  # processes
        self._opener = opener
        # The mount, or a part of it, may be seen elsewhere too, but not under another last name.
        self._names = (name, name + b" (deleted)")
        self._inode = inode
        self._everybody = everybody

    def look(self) -> None:
        self.opener_killed = _is_killed(self._opener)
        self.held = any(self._holds(pid) for pid in self._processes())

    def _processes(self) -> Iterator[int]:
        """The opener, all others, and those that came while these were looked at.

        A holder may have made a child and ended before it was its turn.
        """
        seen = {self._opener, os.getpid()}
        yield self._opener
        while new := {int(name) for name in os.listdir("/proc") if name.isdecimal()} - seen:
            seen |= new
            yield from sorted(new)

    def _holds(self, pid: int) -> bool:
        self.seen += 1
        process = f"/proc/{pid}"
        try:
            return any(self._is_ours(process, fd) for fd in os.listdir(f"{process}/fd"))
        except PermissionError:
            return self._everybody
        except OSError:
            return False  # it has ended

    def _is_ours(self, process: str, fd: str) -> bool:
        link = f"{process}/fd/{fd}"
        try:
            if os.readlink(os.fsencode(link)).rpartition(b"/")[2] not in self._names:
                return False
            # The link's own mode says whether the file was opened for writing.
            is_written = bool(os.lstat(link).st_mode & stat.S_IWUSR)
            return is_written and _has_inode(f"{process}/fdinfo/{fd}", self._inode)
        except FileNotFoundError:
            return False


def _has_inode(fdinfo: str, inode: int) -> bool:
    """Whether an open file is the *inode*; Linux before 5.14 does not tell, so it may be."""
    with open(fdinfo, "rb") as file:
        return all(inode in (0, int(line[4:])) for line in file if line.startswith(b"ino:"))


def _is_killed(process: int) -> bool:
    try:
        with open(f"/proc/{process}/status", "rb") as file:
            if any(line.startswith(b"VmSize:") for line in file):
                return False  # it has memory, so it goes on, and may be in execve(2)
        fields = _stat(f"/proc/{process}/stat")
        # The flag alone may also mean that another thread has ended them all, by itself.
        signaled = bool(int(fields[_FLAGS_FIELD]) & _PF_SIGNALED)
        return signaled and bool(int(fields[_EXIT_CODE_FIELD]) & _SIGNAL_BITS)
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

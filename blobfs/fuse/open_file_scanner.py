"""Search of proc(5) for other processes that have an upload open.

Processes inherit descriptors. So only the opener, its descendants, and processes that started after
the opening can hold one. A search looks at the opener and its descendants first; of all others it
reads the start time in ``/proc/<pid>/stat``.

Some reads of /proc wait for a process in execve(2), and that process may wait for this mount or for
a dead file system. On Linux 6.18 ``stat`` and readlink(2) of ``fd/<n>`` wait; ``status``,
``task/<tid>/children``, the names in ``fd`` and ``fdinfo/<n>`` do not. So a search prefers the
latter, runs in its own thread, and has a deadline. Later searches skip a process that hung one.
Source of the numbers: Linux, ``include/linux/sched.h``, proc_pid_stat(5).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, NamedTuple

from blobfs import metrics
from blobfs.concurrency import guard, start_thread
from blobfs.errors import StorageUnavailable
from blobfs.vfs.upload_handle import OpenersReport

_MAX_THREADS: Final = 8
"""Searches at a time, with those that hang."""

_DEADLINE_S: Final = 1.0

_POLL_S: Final = 0.025
"""Time between two looks at a search; a search takes 3 ms on an idle machine."""

_MANY_DESCRIPTORS: Final = 1024
"""A descendant with more descriptors must be younger than the opening before they are read."""

_PF_SIGNALED: Final = 0x400
"""The flag of a thread that a signal has ended; all threads of a killed process have it."""

_FLAGS_FIELD: Final = 6  # indexes into the result of ``_stat``
_START_FIELD: Final = 19
_EXIT_CODE_FIELD: Final = 49

_SIGNAL_BITS: Final = 0x7F
"""The bits of an exit code that hold the signal (the status of wait(2))."""

_TICK_NS: Final = 10**9 // os.sysconf("SC_CLK_TCK")


class Opener(NamedTuple):
    """The *process* that opened a file; *opened_at* is in clock ticks since boot.

    Linux rounds start times down to a tick (10 ms), and *opened_at* is rounded down too. A process
    with an equal start time may have inherited the descriptor.
    """

    process: int
    opened_at: int

    @classmethod
    def of_thread(cls, thread: int) -> Opener:
        """Return the opener for a *thread* that is opening a file, and has no descriptor yet."""
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return cls(process_of(thread), now_ns // _TICK_NS)


UNKNOWN_OPENER: Final = Opener(0, 0)


class OpenFileScanner:
    """Finds other open descriptors of an upload. Thread-safe.

    It owns up to *max_threads* threads. A thread that hangs counts until it returns.
    """

    def __init__(self, *, max_threads: int = _MAX_THREADS, deadline_s: float = _DEADLINE_S) -> None:
        self._places = threading.BoundedSemaphore(max_threads)
        self._deadline_s = deadline_s
        self._hung = _HungProcesses()

    def report(self, opener: Opener, name: str, inode: int) -> OpenersReport:
        """Search for holders of the file *name*, whose number in the mount is *inode*.

        A search that misses the deadline reports no other holder.
        """
        killed = OpenersReport(opener_killed=True, held_elsewhere=False)
        if _is_killed(opener.process):
            return killed
        if self._is_held(_Search(opener, os.fsencode(name), inode, self._hung)):
            return OpenersReport(opener_killed=False, held_elsewhere=True)
        # A killed opener has no descriptors left, even before the mount has answered its closes.
        # So if it was killed after the first check, the search has not found it.
        if _is_killed(opener.process):
            return killed
        return OpenersReport(opener_killed=False, held_elsewhere=False)

    def _is_held(self, search: _Search) -> bool:
        """Run *search* until the deadline; True if it found a holder."""
        deadline = time.monotonic() + self._deadline_s
        if not self._places.acquire(timeout=self._deadline_s):
            return False
        try:
            thread = start_thread("scanner", partial(self._run, search))
        except StorageUnavailable:
            self._places.release()
            raise
        _wait_for(thread, search, deadline)
        return search.result()

    def _run(self, search: _Search) -> None:
        with metrics.SCANNER_THREADS.track_inprogress():
            try:
                search.run()
            finally:
                self._places.release()


def process_of(thread: int) -> int:
    """Return the process of *thread*; the thread itself if the process is unknown."""
    try:
        with open(f"/proc/{thread}/status", "rb") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(b"Tgid:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return thread


def is_being_killed(thread: int) -> bool:
    """True if a signal is to end the program of *thread*, which waits in the kernel.

    The kernel makes each signal that ends a program one of SIGKILL for all its threads.
    """
    try:
        with open(f"/proc/{thread}/status", "rb") as file:
            pending = next(line for line in file if line.startswith(b"SigPnd:"))
        return bool(int(pending.split()[1], 16) >> signal.SIGKILL - 1 & 1)
    except (OSError, ValueError, IndexError, StopIteration):
        return False


def _wait_for(thread: threading.Thread, search: _Search, deadline: float) -> None:
    """Wait until *thread* has ended, or hangs in the kernel, or the *deadline* has passed."""
    seen = -1
    while thread.is_alive() and time.monotonic() < deadline:
        thread.join(_POLL_S)
        # On a busy machine a search may also pause that long, but not in an uninterruptible sleep.
        if search.seen == seen and _state(thread.native_id) == b"D":
            return
        seen = search.seen


class _HungProcesses:
    """Processes that hang a search whose caller has given up. ``lock`` guards it."""

    def __init__(self) -> None:
        self.lock = guard()  # also guards the process and the end of each search
        self.processes: set[int] = set()


class _Search:
    """One search; ``run`` and ``result`` are called in different threads.

    The lock of *hung* guards the current process, and the end of the search.
    """

    def __init__(self, opener: Opener, name: bytes, inode: int, hung: _HungProcesses) -> None:
        self.seen = 0  # processes
        self._opener = opener
        self._inode_line = b"\nino:\t%d\n" % inode
        self._names = (name, name + b" (deleted)")
        self._hung = hung
        self._process = 0  # the current one
        self._is_over = threading.Event()  # the caller has taken the result, or given up
        self._is_held = False

    def run(self) -> None:
        """Look at one process after the other until a holder is found."""
        opener = self._opener.process
        descendants = dict.fromkeys(_descendants(opener))
        strangers = _others({opener, os.getpid(), *descendants})
        self._is_held = (
            self._visit(opener, self._opener_holds)
            or any(self._visit(process, self._descendant_holds) for process in descendants)
            or any(self._visit(process, self._stranger_holds) for process in strangers)
        )

    def result(self) -> bool:
        """End the search; True if it found a holder. Its current process counts as hung."""
        with self._hung.lock:
            self._is_over.set()
            if self._process:
                self._hung.processes.add(self._process)
        return self._is_held

    def _visit(self, process: int, look: Callable[[int], bool]) -> bool:
        """Return ``look(process)``; False if the process is hung, or the search is over."""
        with self._hung.lock:
            if self._is_over.is_set() or process in self._hung.processes:
                return False
            self._process = process
        self.seen += 1
        try:
            return look(process)
        finally:
            with self._hung.lock:
                self._process = 0
                if self._is_over.is_set():
                    self._hung.processes.discard(process)

    def _opener_holds(self, process: int) -> bool:
        try:
            return self._has_it(process)
        except PermissionError:
            return False

    def _descendant_holds(self, process: int) -> bool:
        """True for an unreadable process too: it has inherited the descriptor."""
        try:
            return self._has_it(process)
        except PermissionError:
            return self._is_younger(process)

    def _stranger_holds(self, process: int) -> bool:
        return self._is_younger(process) and self._opener_holds(process)

    def _is_younger(self, process: int) -> bool:
        """True if *process* was started after the opening, or in the same clock tick."""
        try:
            return int(_stat(f"/proc/{process}/stat")[_START_FIELD]) >= self._opener.opened_at
        except (OSError, ValueError, IndexError):
            return False  # it has ended

    def _has_it(self, process: int) -> bool:
        """True if *process* has the file open for writing; raises PermissionError."""
        try:
            directory, descriptors = _descriptors(process)
        except PermissionError:
            raise
        except OSError:
            return False  # it has ended
        is_quick = process == self._opener.process or len(descriptors) <= _MANY_DESCRIPTORS
        return (is_quick or self._is_younger(process)) and any(
            self._is_ours(directory, descriptor) for descriptor in descriptors
        )

    def _is_ours(self, directory: str, descriptor: str) -> bool:
        if self._is_over.is_set():
            return False
        try:
            info = _read(f"{directory}/fdinfo/{descriptor}", 256)
            if self._inode_line not in info:
                return b"\nino:" not in info and self._has_name(f"{directory}/fd/{descriptor}")
            flags = int(info.partition(b"flags:")[2].split(maxsplit=1)[0], base=8)
            return flags & os.O_ACCMODE != os.O_RDONLY
        except (FileNotFoundError, ValueError, IndexError):
            return False  # it was closed meanwhile

    def _has_name(self, link: str) -> bool:
        """True if an open file has the name. Linux before 5.14 does not show its inode."""
        return os.readlink(os.fsencode(link)).rpartition(b"/")[2] in self._names


def _descriptors(process: int) -> tuple[str, list[str]]:
    """Return the directory of a process in /proc, and the names of its descriptors.

    If its first thread has ended, the directory is that of another thread.
    """
    directory = f"/proc/{process}"
    names = os.listdir(f"{directory}/fd")
    if not names:
        for thread in os.listdir(f"{directory}/task"):
            if names := os.listdir(f"{directory}/task/{thread}/fd"):
                return f"{directory}/task/{thread}", names
    return directory, names


def _descendants(process: int) -> Iterator[int]:
    """Yield the children of *process*, their children, and so on; not those of ended processes."""
    found = [process]
    for parent in found:
        for child in _children(parent):
            found.append(child)
            yield child


def _children(process: int) -> list[int]:
    """Return the children of all threads of *process*; none if Linux is built without that file."""
    found = []
    try:
        for thread in os.listdir(f"/proc/{process}/task"):
            children = _read(f"/proc/{process}/task/{thread}/children", 2**16)
            found += [int(child) for child in children.split()]
    except (OSError, ValueError):
        pass  # it has ended
    return found


def _others(seen: set[int]) -> Iterator[int]:
    """Yield all processes except those *seen*, and then those that started meanwhile.

    A holder may have made a child and ended before the search reached it.
    """
    while new := {int(name) for name in os.listdir("/proc") if name.isdecimal()} - seen:
        seen |= new
        yield from sorted(new)


def _is_killed(process: int) -> bool:
    """True if a signal has ended *process*; does not wait for a process in execve(2)."""
    try:
        with open(f"/proc/{process}/status", "rb") as file:
            if any(line.startswith(b"VmSize:") for line in file):
                return False  # it has memory, so it is alive, and may be in execve(2)
        fields = _stat(f"/proc/{process}/stat")
        # The flag alone may also mean that one thread has ended all others with exit_group(2).
        signaled = bool(int(fields[_FLAGS_FIELD]) & _PF_SIGNALED)
        return signaled and bool(int(fields[_EXIT_CODE_FIELD]) & _SIGNAL_BITS)
    except (OSError, ValueError, IndexError):
        return False  # it does not exist any more, so nothing shows a signal


def _state(thread: int | None) -> bytes:
    """Return the state of our *thread* (``R``, ``S``, ``D``, …); empty if it has ended."""
    try:
        return _stat(f"/proc/self/task/{thread}/stat")[0]
    except (OSError, IndexError):
        return b""


def _stat(path: str) -> list[bytes]:
    """Return the fields of a ``stat`` file, from the state on."""
    return _read(path, 4096).rpartition(b")")[2].split()


def _read(path: str, size: int) -> bytes:
    """Read up to *size* bytes from the start of a file, at half the cost of a file object."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, size)
    finally:
        os.close(file)

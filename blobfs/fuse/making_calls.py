"""System calls that make a name which a mount has made already.

cp(1) makes each directory of a new copy, and fails if one exists. But a repository has its
directories from its begin, and the history of a tag its entries. A lookup does not say for which
call the kernel makes it. proc(5) does: so a lookup of mkdir(2) or symlink(2) can be answered with
ENOENT. Then the kernel sends the request to make the name. Where the daemon may not see the call
(``ptrace(2)``), programs get EEXIST. Source of the numbers: Linux, ``arch/x86/entry/syscalls``,
``include/uapi/asm-generic/unistd.h``.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from blobfs.vfs.nodes import Kind

_MAX_PATH: Final = 4096

_NUMBERS: Final[Mapping[str, Mapping[bytes, tuple[Kind, int]]]] = {
    "x86_64": {
        b"83": (Kind.DIRECTORY, 0),  # mkdir(2)
        b"258": (Kind.DIRECTORY, 1),  # mkdirat(2)
        b"88": (Kind.SYMLINK, 1),  # symlink(2)
        b"266": (Kind.SYMLINK, 2),  # symlinkat(2)
    },
    "aarch64": {b"34": (Kind.DIRECTORY, 1), b"36": (Kind.SYMLINK, 2)},
}
"""For each machine and call: the kind of the new node, and the index of the argument its path."""

_CALLS: Final = _NUMBERS.get(platform.machine(), {})


@dataclass(frozen=True, slots=True)
class MakingCall:
    """A system call of *thread*, whose path is at *address* in its memory."""

    thread: int
    address: int

    def is_of(self, name: str) -> bool:
        """True if the last component of the path is *name*. It may wait for the program."""
        try:
            with open(f"/proc/{self.thread}/mem", "rb", buffering=0) as file:
                path = b"".join(self._pages(file.fileno()))
        except (OSError, OverflowError):
            return False
        last = path.partition(b"\0")[0].rstrip(b"/").rpartition(b"/")[2]
        return os.fsdecode(last) == name

    def _pages(self, fd: int) -> list[bytes]:
        """Read up to the end of the path, page by page: the next page may not exist."""
        pages: list[bytes] = []
        at, end = self.address, self.address + _MAX_PATH
        while at < end and not (pages and b"\0" in pages[-1]):
            pages.append(os.pread(fd, min(end, (at // 4096 + 1) * 4096) - at, at))
            at += len(pages[-1])
            if not pages[-1]:
                break
        return pages


def call_making(kind: Kind, thread: int) -> MakingCall | None:
    """Return the call by which *thread* makes a node of *kind*; None if it makes another call."""
    try:
        with open(f"/proc/{thread}/syscall", "rb", buffering=0) as file:
            fields = file.read(256).split()
    except OSError:
        return None
    made, index = _CALLS.get(fields[0] if fields else b"", (None, 0))
    return MakingCall(thread, int(fields[1 + index], 16)) if made is kind else None

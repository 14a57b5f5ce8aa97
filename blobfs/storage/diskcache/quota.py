"""The room of a blob cache, which the processes that use it share.

::

    v1/lock                   locked by whoever changes this; holds the bytes that the entries take
    v1/tmp/<pid>-<random>/    what one process is download, until it ends
        lock                  locked as long as it lives; holds the bytes that it may write there
        <number>              a blob on its way

The bytes of the entries and of all processes together are at most the limit. What a crash leaves
of the numbers is too much, never too little, and counted anew before anything is evicted.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Final

from blobfs.digest import Digest
from blobfs.storage.diskcache.entries import Entries, allocated_size, is_private, write_at

_PATIENCE_S: Final = 20.0
"""How long another process may hold the cache when this one begins."""

_STEP_SHARE: Final = 64
_MAX_STEP: Final = 64 * 2**20
"""What a process asks for at once, as a share of the limit, and in bytes."""

_SLACK_SHARE: Final = 16
"""What is evicted beyond need, as a share of the limit: each eviction looks at all entries."""

_WRITE: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_DIGITS: Final = 20


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most bytes of a cache, those it leaves free, and how long a reader waits for others."""

    limit: int
    min_free: int
    patience_s: float


class SpaceQuota:
    """This process's part of a cache's room. Thread-safe; what fails in it raises OSError."""

    def __init__(self, root: Path, entries: Entries, bounds: Bounds) -> None:
        self.evicted = 0
        self._root = root
        self._entries = entries
        self._limit = bounds.limit
        self._min_free = bounds.min_free
        self._patience_s = bounds.patience_s
        self._step = min(_MAX_STEP, bounds.limit // _STEP_SHARE)
        self._mutex = Lock()
        self._numbers = count()
        self._own: Path | None = None
        self._own_fd = -1
        self._granted = 0  # what v1/tmp/…/lock says
        self._used = 0  # at most as much

    def open(self) -> None:
        """``prepare`` at the start, when there is time."""
        self._prepare(_PATIENCE_S)

    def prepare(self) -> None:
        """Make what there is not of the directories, remove what dead processes left, count."""
        self._prepare(self._patience_s)

    def _prepare(self, patience_s: float) -> None:
        with self._mutex:
            for directory in (self._root.parent, self._root, self._root / "tmp"):
                directory.mkdir(mode=0o700, parents=directory == self._root.parent, exist_ok=True)
                if not is_private(directory.lstat()):
                    raise PermissionError(
                        errno.EPERM, "is another's, or others may write it", str(directory)
                    )
            with self._locked(patience_s) as lock:
                if self._own is None or not self._own.exists():
                    self._create_own()
                self._remove_dead()
                _write_number(lock, sum(entry.size for entry in self._entries.found()))

    def _create_own(self) -> None:
        self._remove_own()
        own = self._root / "tmp" / f"{os.getpid()}-{secrets.token_hex(4)}"
        own.mkdir(mode=0o700)
        self._own_fd = os.open(own / "lock", _WRITE, 0o600)
        fcntl.flock(self._own_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._own = own
        _write_number(self._own_fd, self._granted)

    def _remove_own(self) -> None:
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)
            os.close(self._own_fd)
            self._own, self._own_fd = None, -1

    def close(self) -> None:
        """Remove what this process was download, and ask for nothing more."""
        with self._mutex:
            self._remove_own()

    def new_file(self) -> Path:
        """Where a blob on its way may be."""
        return self._directory() / str(next(self._numbers))

    def _directory(self) -> Path:
        if self._own is None:
            raise FileNotFoundError(errno.ENOENT, "it is closed", str(self._root))
        return self._own

    def held_bytes(self) -> int:
        """What the entries take, and what this process is download, as far as is known."""
        with open(self._root / "lock", "rb") as lock:
            return (_read_number(lock.fileno()) or 0) + self._used

    def is_enough(self, size: int) -> bool:
        """Whether a blob of *size* bytes may have room, if others make way."""
        free = max(0, self._free() - self._min_free)
        return allocated_size(size) <= min(self._limit, self.held_bytes() + free)

    def take(self, size: int) -> bool:
        """Whether *size* more bytes may be written; entries that were not used lately make way."""
        with self._mutex:
            self._directory()
            needed = self._used + size
            if needed > self._granted:
                with self._locked() as lock:
                    spare = self._make_room(lock, needed)
                    if spare >= 0:
                        self._set_granted(needed + min(spare, self._step))
            if needed > self._granted:
                return False
            self._used = needed
            return True

    def give_back(self, size: int) -> None:
        """Let go of bytes that were taken, and are not in a file any more."""
        with self._mutex:
            self._used -= size
            if self._own is not None and self._granted > self._used + 2 * self._step:
                with self._locked():
                    self._set_granted(self._used + self._step)

    def add_entry(self, file: Path, digest: Digest, size: int, taken: int) -> bool:
        """Whether *file*, which is sealed, is an entry now: there may have been one.

        The blob has *size* bytes, and *taken* bytes were taken for it; they are given back.
        """
        with self._mutex, self._locked() as lock:
            self._directory()
            is_new = not self._entries.has(digest)
            if is_new:
                _write_number(lock, self._total(lock) + allocated_size(size))
                self._entries.add(file, digest)
            self._set_granted(self._granted - taken)
            self._used -= taken
        return is_new

    def _set_granted(self, size: int) -> None:
        _write_number(self._own_fd, size)
        self._granted = size

    @contextmanager
    def _locked(self, patience_s: float | None = None) -> Iterator[int]:
        fd = os.open(self._root / "lock", _WRITE, 0o600)
        try:
            deadline = time.monotonic() + (self._patience_s if patience_s is None else patience_s)
            while not _is_locked(fd):
                if time.monotonic() > deadline:
                    raise TimeoutError(errno.ETIMEDOUT, "in use by another", str(self._root))
                time.sleep(0.002)
            yield fd
        finally:
            os.close(fd)

    def _total(self, lock: int) -> int:
        """What the entries take."""
        known = _read_number(lock)
        return sum(entry.size for entry in self._entries.found()) if known is None else known

    def _make_room(self, lock: int, granted: int) -> int:
        """What is left if this process has *granted* bytes; less than nothing if it cannot."""
        if (spare := self._spare(self._total(lock), granted)) >= 0:
            return spare
        self._remove_dead()
        entries = sorted(self._entries.found())
        total = sum(entry.size for entry in entries)
        lacking = -self._spare(total, granted)
        if self._limit - self._granted_to_others() < granted:
            lacking = 0  # whatever is evicted
        if lacking > 0:
            lacking += self._limit // _SLACK_SHARE
        for entry in entries:
            if lacking <= 0:
                break
            Path(entry.path).unlink(missing_ok=True)
            self.evicted += 1
            total -= entry.size
            lacking -= entry.size
        _write_number(lock, total)
        return self._spare(total, granted)

    def _spare(self, total: int, granted: int) -> int:
        limit = self._limit - total - self._granted_to_others() - granted
        return min(limit, self._free() - self._min_free - (granted - self._used))

    def _free(self) -> int:
        info = os.statvfs(self._root)
        return info.f_bavail * info.f_frsize

    def _others(self) -> list[Path]:
        return [path for path in (self._root / "tmp").iterdir() if path != self._own]

    def _granted_to_others(self) -> int:
        granted = 0
        for other in self._others():
            try:
                with (other / "lock").open("rb") as lock:
                    granted += _read_number(lock.fileno()) or 0
            except FileNotFoundError:
                continue  # it ends at this moment
        return granted

    def _remove_dead(self) -> None:
        """Remove what processes left that have ended; everybody begins under the lock."""
        for other in self._others():
            try:
                fd = os.open(other / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                shutil.rmtree(other, ignore_errors=True)
                continue
            try:
                if _is_locked(fd):
                    shutil.rmtree(other, ignore_errors=True)
            finally:
                os.close(fd)


def _is_locked(fd: int) -> bool:
    """Whether nobody else has the lock; then we have."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_number(fd: int) -> int | None:
    text = os.pread(fd, _DIGITS, 0)
    return int(text) if len(text) == _DIGITS and text.isdigit() else None


def _write_number(fd: int, number: int) -> None:
    write_at(fd, f"{number:0{_DIGITS}}".encode(), 0)

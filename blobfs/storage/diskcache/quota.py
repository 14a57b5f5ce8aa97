"""The disk space of a blob cache, which several processes share.

::

    v1/lock                   locked during changes; holds the disk space of all entries in bytes
    v1/tmp/<pid>-<random>/    the downloads of one process, until it ends
        lock                  locked while the process lives; holds the bytes granted to it
        <number>              a download

The entries and the grants of all processes together stay within the limit. After a crash the
numbers may be too high, never too low; they are counted again before an eviction.
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
from typing import Final

from blobfs.concurrency import CallLock
from blobfs.digest import Digest
from blobfs.drivers.temporaries import owned_fd, write_at
from blobfs.storage.diskcache.entries import Entries, allocated_size, is_private

_PATIENCE_S: Final = 20.0
"""The longest wait for another process's lock at the start."""

_STEP_SHARE: Final = 64
_MAX_STEP: Final = 64 * 2**20
"""The step of a grant: a divisor of the limit, and at most so many bytes."""

_SLACK_SHARE: Final = 16
"""Divisor of the limit: the extra eviction, because each eviction scans all entries."""

_WRITE: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_DIGITS: Final = 20


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limit of a cache in bytes, the free bytes it leaves, and a reader's wait for the lock."""

    limit: int
    min_free: int
    patience_s: float


class SpaceQuota:
    """The disk space granted to this process. It owns the process's directory in ``v1/tmp``.

    Thread-safe: the mutex serializes the changes, with their I/O. ``v1/lock`` is taken under it,
    and no other lock. Failures raise OSError.
    """

    def __init__(self, root: Path, entries: Entries, bounds: Bounds) -> None:
        self.evicted = 0
        self._root = root
        self._entries = entries
        self._limit = bounds.limit
        self._min_free = bounds.min_free
        self._patience_s = bounds.patience_s
        self._step = min(_MAX_STEP, bounds.limit // _STEP_SHARE)
        self._mutex = CallLock()
        self._numbers = count()
        self._own: Path | None = None
        self._own_fd = -1
        self._granted = 0  # the number in v1/tmp/…/lock
        self._used = 0  # at most _granted
        self._entries_size = 0  # as last read or written

    def open(self) -> None:
        """Do the same as ``prepare`` at the start, with a longer wait for the lock."""
        self._prepare(_PATIENCE_S)

    def prepare(self) -> None:
        """Create the directories, remove those of dead processes, and count the entries."""
        self._prepare(self._patience_s)

    def _prepare(self, patience_s: float) -> None:
        with self._mutex:
            for directory in (self._root.parent, self._root, self._root / "tmp"):
                directory.mkdir(mode=0o700, parents=directory == self._root.parent, exist_ok=True)
                if not is_private(directory.lstat()):
                    raise PermissionError(
                        errno.EPERM,
                        "it belongs to another user, or others can write it",
                        str(directory),
                    )
            with self._locked(patience_s) as lock:
                if self._own is None or not self._own.exists():
                    self._create_own()
                self._remove_dead()
                self._record(lock, sum(entry.size for entry in self._entries.scan()))

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
        """Remove the directory of this process; ``take`` fails from now on."""
        with self._mutex:
            self._remove_own()

    def new_file(self) -> Path:
        """Return the path for a new download."""
        return self._directory() / str(next(self._numbers))

    def _directory(self) -> Path:
        if self._own is None:
            raise FileNotFoundError(errno.ENOENT, "the cache is closed", str(self._root))
        return self._own

    def held_bytes(self) -> int:
        """Return the disk space of the entries and of this process's downloads, as recorded."""
        with open(self._root / "lock", "rb") as lock:
            self._entries_size = _read_number(lock.fileno()) or 0
        return self.last_held_bytes

    @property
    def last_held_bytes(self) -> int:
        """The disk space when this process last looked; does not touch the disk."""
        return self._entries_size + self._used

    def can_fit(self, size: int) -> bool:
        """True if a blob of *size* bytes could fit after evictions."""
        free = max(0, self._free() - self._min_free)
        return allocated_size(size) <= min(self._limit, self.held_bytes() + free)

    def take(self, size: int) -> bool:
        """Take *size* bytes, evicting the least recently used entries; False if that fails."""
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
        """Release bytes that were taken and are in no file any more."""
        with self._mutex:
            self._used -= size
            if self._own is not None and self._granted > self._used + 2 * self._step:
                with self._locked():
                    self._set_granted(self._used + self._step)

    def add_entry(self, file: Path, digest: Digest, size: int, taken: int) -> bool:
        """Turn *file*, which has checksums, into an entry; False if there is one already.

        The blob has *size* bytes. *taken* bytes were taken for it, and are released.
        """
        with self._mutex, self._locked() as lock:
            self._directory()
            is_new = not self._entries.has(digest)
            if is_new:
                self._record(lock, self._total(lock) + allocated_size(size))
                self._entries.add(file, digest)
            self._set_granted(self._granted - taken)
            self._used -= taken
        return is_new

    def _set_granted(self, size: int) -> None:
        _write_number(self._own_fd, size)
        self._granted = size

    @contextmanager
    def _locked(self, patience_s: float | None = None) -> Iterator[int]:
        with owned_fd(os.open(self._root / "lock", _WRITE, 0o600)) as fd:
            deadline = time.monotonic() + (self._patience_s if patience_s is None else patience_s)
            while not _try_lock(fd):
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        errno.ETIMEDOUT, "another process holds the lock", str(self._root)
                    )
                time.sleep(0.002)
            yield fd

    def _total(self, lock: int) -> int:
        """Return the disk space of the entries, counted if the record is damaged."""
        known = _read_number(lock)
        if known is None:
            known = sum(entry.size for entry in self._entries.scan())
        self._entries_size = known
        return known

    def _record(self, lock: int, total: int) -> None:
        _write_number(lock, total)
        self._entries_size = total

    def _make_room(self, lock: int, granted: int) -> int:
        """Evict until this process can have *granted* bytes; return the space left beyond that.

        The result is negative if it cannot have them.
        """
        if (spare := self._spare(self._total(lock), granted)) >= 0:
            return spare
        self._remove_dead()
        entries = sorted(self._entries.scan())
        total = sum(entry.size for entry in entries)
        lacking = -self._spare(total, granted)
        if self._limit - self._granted_to_others() < granted:
            lacking = 0  # no eviction helps
        if lacking > 0:
            lacking += self._limit // _SLACK_SHARE
        for entry in entries:
            if lacking <= 0:
                break
            Path(entry.path).unlink(missing_ok=True)
            self.evicted += 1
            total -= entry.size
            lacking -= entry.size
        self._record(lock, total)
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
                continue  # that process has just ended
        return granted

    def _remove_dead(self) -> None:
        """Remove the directories of dead processes; each is created under the lock of the cache."""
        for other in self._others():
            try:
                fd = os.open(other / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                shutil.rmtree(other, ignore_errors=True)
                continue
            with owned_fd(fd):
                if _try_lock(fd):
                    shutil.rmtree(other, ignore_errors=True)


def _try_lock(fd: int) -> bool:
    """Try to lock the file; True if this process has the lock now."""
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

"""The entries of a blob cache: one file for each blob, with a checksum of each block.

::

    v1/<algorithm>/<hex[:2]>/<hex>     the blob's bytes, then the checksums of its blocks

A checksum is the SHA-256 of the digest, the block's index and the block, so a damaged block fails,
and so does a valid block in the wrong place. Checksums are computed while the whole blob is
verified.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from blobfs.digest import ALGORITHMS, Descriptor, Digest
from blobfs.drivers.temporaries import owned_fd, write_at
from blobfs.errors import DigestMismatch
from blobfs.logs import about

_BLOCK: Final = 256 * 2**10
"""Bytes of a block; the first size of a prefetch. A smaller read hashes a whole block too."""

_CHECKSUM: Final = 32  # bytes

_PAGE: Final = 4096
"""Bytes that a file system allocates at once; some allocate more."""


_TOUCH_S: Final = 60
"""The precision of an entry's time of last use."""

_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO would hang

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH

log = logging.getLogger(__name__)


def on_disk(start: int, end: int) -> int:
    """Return the disk space of the bytes from *start* to *end* of a file."""
    return (-(-end // _PAGE) - start // _PAGE) * _PAGE


def file_size(size: int) -> int:
    """Return the length of the entry of a blob of *size* bytes."""
    return size + _CHECKSUM * -(-size // _BLOCK)


def allocated_size(size: int) -> int:
    """Return the disk space of the entry of a blob of *size* bytes."""
    return on_disk(0, file_size(size))


def is_private(info: os.stat_result) -> bool:
    """True if only this user and root can have written the file of *info*."""
    return info.st_uid == os.geteuid() and not info.st_mode & _OTHERS_WRITE


def write_checksums(fd: int, blob: Descriptor, may_continue: Callable[[], bool]) -> bool:
    """Verify that the file holds *blob*; if so, append the checksums, sync it and return True.

    Raises InterruptedError when *may_continue* returns False.
    """
    hasher = hashlib.new(blob.digest.algorithm)
    checksums = bytearray()
    for index, offset in enumerate(range(0, blob.size, _BLOCK)):
        if not may_continue():
            raise InterruptedError
        block = os.pread(fd, min(_BLOCK, blob.size - offset), offset)
        hasher.update(block)
        checksums += _checksum(blob.digest, index, block)
    if hasher.hexdigest() != blob.digest.encoded:
        return False
    write_at(fd, checksums, blob.size)
    os.fsync(fd)
    return True


def _checksum(digest: Digest, index: int, block: bytes | memoryview) -> bytes:
    hasher = hashlib.sha256(f"{digest}/{index}/".encode())
    hasher.update(block)
    return hasher.digest()


class Range(NamedTuple):
    """The bytes from *start* up to *end*."""

    start: int
    end: int


class Ranges:
    """Sorted ranges of bytes that do not touch each other; *allocated* is their disk space.

    Not thread-safe.
    """

    def __init__(self) -> None:
        self.allocated = 0
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __len__(self) -> int:
        return len(self._starts)

    def missing(self, start: int, end: int) -> list[Range]:
        """Return the parts of *start* to *end* that are in no range."""
        found = []
        index = bisect_right(self._ends, start)
        while start < end and index < len(self._starts) and self._starts[index] < end:
            if start < self._starts[index]:
                found.append(Range(start, self._starts[index]))
            start = self._ends[index]
            index += 1
        if start < end:
            found.append(Range(start, end))
        return found

    def add(self, start: int, end: int) -> None:
        """Add the range from *start* to *end*, which must not be empty."""
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        bounds = zip(self._starts[first:last], self._ends[first:last], strict=True)
        joined = [Range(*both) for both in bounds]
        if joined:
            start = min(start, joined[0].start)
            end = max(end, joined[-1].end)
        self.allocated += on_disk(start, end) - sum(on_disk(*range_) for range_ in joined)
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]


class EntryInfo(NamedTuple):
    """The path of an entry, the time of its last use, and its disk space in bytes."""

    used_ns: int
    path: str
    size: int


class Entries:
    """The entries below the directory *root*, which several processes may add and remove.

    Thread-safe without a lock: entries are added by a rename. Failures raise OSError.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, digest: Digest) -> Path:
        """Return the path of the entry of *digest*, which need not exist."""
        return self._root / digest.algorithm / digest.encoded[:2] / digest.encoded

    def read_at(self, blob: Descriptor, offset: int, size: int) -> bytes | None:
        """Return up to *size* verified bytes of *blob* at *offset*; None without an entry.

        Raises DigestMismatch for an entry that is damaged, which is then removed.
        """
        path = self.path(blob.digest)
        try:
            fd = os.open(path, _READ)
        except FileNotFoundError:
            return None
        except OSError as exc:
            if exc.errno != errno.ELOOP:
                raise
            path.unlink(missing_ok=True)
            raise DigestMismatch(f"{path} is a symlink") from None
        with owned_fd(fd):
            try:
                return self._verified(fd, blob, offset, min(offset + size, blob.size))
            except (OSError, DigestMismatch):
                self._drop(fd, blob.digest)
                raise

    def _verified(self, fd: int, blob: Descriptor, offset: int, end: int) -> bytes:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or not is_private(info):
            raise DigestMismatch(
                f"{self.path(blob.digest)} belongs to another user, or others can write it"
            )
        if info.st_size != file_size(blob.size):
            raise DigestMismatch(f"{self.path(blob.digest)} has {info.st_size} bytes")
        first, last = offset // _BLOCK, -(-end // _BLOCK)
        start = first * _BLOCK
        blocks = os.pread(fd, min(last * _BLOCK, blob.size) - start, start)
        checksums = os.pread(fd, _CHECKSUM * (last - first), blob.size + _CHECKSUM * first)
        view = memoryview(blocks)
        for number in range(last - first):
            checksum = _checksum(blob.digest, first + number, view[number * _BLOCK :][:_BLOCK])
            if checksum != checksums[number * _CHECKSUM :][:_CHECKSUM]:
                raise DigestMismatch(f"{self.path(blob.digest)} is damaged")
        if abs(time.time() - info.st_mtime) > _TOUCH_S:
            os.utime(fd)
        return blocks[offset - start : end - start]

    def _drop(self, fd: int, digest: Digest) -> None:
        """Remove the entry that *fd* is open on, unless a newer one has replaced it."""
        path = self.path(digest)
        try:
            if os.path.samestat(os.fstat(fd), os.lstat(path)):
                path.unlink()
        except OSError as exc:
            fields = about(digest=digest, path=path, errno=exc.errno)
            log.warning("%s cannot be removed: %s", path, exc, extra=fields)

    def has(self, digest: Digest) -> bool:
        """True if there is an entry, valid or damaged."""
        return self.path(digest).exists()

    def add(self, temporary: Path, digest: Digest) -> None:
        """Rename a file that has checksums to an entry."""
        path = self.path(digest)
        for directory in (path.parent.parent, path.parent):
            directory.mkdir(mode=0o700, exist_ok=True)
        temporary.rename(path)

    def sync(self, digest: Digest) -> None:
        """Make the name of an entry durable."""
        with owned_fd(os.open(self.path(digest).parent, os.O_RDONLY | os.O_CLOEXEC)) as fd:
            os.fsync(fd)

    def scan(self) -> Iterator[EntryInfo]:
        """All entries, in no order."""
        for algorithm in ALGORITHMS:
            for shard in _scanned(self._root / algorithm):
                for entry in _scanned(shard.path):
                    try:
                        info = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # a reader found it damaged and removed it
                    yield EntryInfo(info.st_mtime_ns, entry.path, on_disk(0, info.st_size))


def _scanned(path: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except FileNotFoundError:
        return []

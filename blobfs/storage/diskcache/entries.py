"""The entries of a blob cache: a file a blob, with checks that each part of it is held to.

::

    v1/<algorithm>/<hex[:2]>/<hex>     the blob's bytes, then a check of each block of them

A check is the SHA-256 of the digest, the block's index and the block, so that neither what rotted
nor what is in the wrong place passes. They are computed while the whole is held to its digest.
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
from blobfs.errors import DigestMismatch
from blobfs.logs import about

_BLOCK: Final = 256 * 2**10
"""What reading ahead asks for first; a smaller read hashes as much."""

_CHECK: Final = 32  # bytes

_PAGE: Final = 4096
"""What a file system gives at a time; some give more at once."""


_TOUCH_S: Final = 60
"""How exact it is known when an entry was last used."""

_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO would hang

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH

log = logging.getLogger(__name__)


def on_disk(start: int, end: int) -> int:
    """The bytes that a file system takes for what is from *start* to *end* of a file."""
    return (-(-end // _PAGE) - start // _PAGE) * _PAGE


def file_size(size: int) -> int:
    """The bytes in the file of a blob of *size* bytes."""
    return size + _CHECK * -(-size // _BLOCK)


def allocated_size(size: int) -> int:
    """The bytes that the file of a blob of *size* bytes takes."""
    return on_disk(0, file_size(size))


def is_private(info: os.stat_result) -> bool:
    """Whether nobody else, but root, can have written what *info* is of."""
    return info.st_uid == os.geteuid() and not info.st_mode & _OTHERS_WRITE


def write_at(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of *data*."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written


def write_checksums(fd: int, blob: Descriptor, go_on: Callable[[], bool]) -> bool:
    """Whether the file holds *blob*; then its checks are there too, and all is durable.

    Raises InterruptedError once *go_on* says no.
    """
    hasher = hashlib.new(blob.digest.algorithm)
    checks = bytearray()
    for index, offset in enumerate(range(0, blob.size, _BLOCK)):
        if not go_on():
            raise InterruptedError
        block = os.pread(fd, min(_BLOCK, blob.size - offset), offset)
        hasher.update(block)
        checks += _check(blob.digest, index, block)
    if hasher.hexdigest() != blob.digest.encoded:
        return False
    write_at(fd, checks, blob.size)
    os.fsync(fd)
    return True


def _check(digest: Digest, index: int, block: bytes | memoryview) -> bytes:
    hasher = hashlib.sha256(f"{digest}/{index}/".encode())
    hasher.update(block)
    return hasher.digest()


class Range(NamedTuple):
    """The bytes from *start* up to *end*."""

    start: int
    end: int


class Ranges:
    """Ranges of bytes that do not touch each other, in order; *allocated* is their room."""

    def __init__(self) -> None:
        self.allocated = 0
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __len__(self) -> int:
        return len(self._starts)

    def missing(self, start: int, end: int) -> list[Range]:
        """What is not there of the bytes from *start* to *end*."""
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
        """Have the bytes from *start* to *end*, one at least."""
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


class Found(NamedTuple):
    """An entry, when it was last used, and the room that it takes in bytes."""

    used_ns: int
    path: str
    size: int


class Entries:
    """The entries below a directory, which several processes may add to and take from.

    Thread-safe. What fails in it raises OSError.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, digest: Digest) -> Path:
        """Where the entry of *digest* is, or would be."""
        return self._root / digest.algorithm / digest.encoded[:2] / digest.encoded

    def read_at(self, blob: Descriptor, offset: int, size: int) -> bytes | None:
        """Up to *size* bytes of *blob* from *offset*, checked; None without an entry.

        Raises DigestMismatch for an entry that is not what was stored; it is gone then.
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
        try:
            data = self._checked(fd, blob, offset, min(offset + size, blob.size))
        except (OSError, DigestMismatch):
            self._drop(fd, blob.digest)
            raise
        finally:
            os.close(fd)
        return data

    def _checked(self, fd: int, blob: Descriptor, offset: int, end: int) -> bytes:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or not is_private(info):
            raise DigestMismatch(f"{self.path(blob.digest)} is another's, or others may write it")
        if info.st_size != file_size(blob.size):
            raise DigestMismatch(f"{self.path(blob.digest)} has {info.st_size} bytes")
        first, last = offset // _BLOCK, -(-end // _BLOCK)
        start = first * _BLOCK
        blocks = os.pread(fd, min(last * _BLOCK, blob.size) - start, start)
        checks = os.pread(fd, _CHECK * (last - first), blob.size + _CHECK * first)
        view = memoryview(blocks)
        for number in range(last - first):
            check = _check(blob.digest, first + number, view[number * _BLOCK :][:_BLOCK])
            if check != checks[number * _CHECK :][:_CHECK]:
                raise DigestMismatch(f"{self.path(blob.digest)} is damaged")
        if abs(time.time() - info.st_mtime) > _TOUCH_S:
            os.utime(fd)
        return blocks[offset - start : end - start]

    def _drop(self, fd: int, digest: Digest) -> None:
        """Remove the entry that *fd* is of, and no newer one."""
        path = self.path(digest)
        try:
            if os.path.samestat(os.fstat(fd), os.lstat(path)):
                path.unlink()
        except OSError as exc:
            fields = about(digest=digest, path=path, errno=exc.errno)
            log.warning("%s cannot be removed: %s", path, exc, extra=fields)

    def has(self, digest: Digest) -> bool:
        """Whether there is an entry, good or bad."""
        return self.path(digest).exists()

    def add(self, temporary: Path, digest: Digest) -> None:
        """Make an entry of a file that is sealed."""
        path = self.path(digest)
        for directory in (path.parent.parent, path.parent):
            directory.mkdir(mode=0o700, exist_ok=True)
        temporary.rename(path)

    def sync(self, digest: Digest) -> None:
        """Make it durable that there is an entry."""
        fd = os.open(self.path(digest).parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def found(self) -> Iterator[Found]:
        """All entries, in no order."""
        for algorithm in ALGORITHMS:
            for shard in _scanned(self._root / algorithm):
                for entry in _scanned(shard.path):
                    try:
                        info = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # damaged, and removed by its reader
                    yield Found(info.st_mtime_ns, entry.path, on_disk(0, info.st_size))


def _scanned(path: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except FileNotFoundError:
        return []

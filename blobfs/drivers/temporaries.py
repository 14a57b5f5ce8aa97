"""Temporary files, in the directory of the file that they replace, and their removal after a crash.

Their names have the form of distribution's (from 3.1), so that no registry takes them for content.
blobfs holds a lock on a temporary file (``drivers/filelock.py``) until it is renamed.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from blobfs.drivers.filelock import EXCLUSIVE, SHARED, lock
from blobfs.drivers.ownership import adopt

_NAME: Final = re.compile(r".+\.[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.tmp")
_MAX_STEM: Final = 255 - len(f".{uuid.UUID(int=0)}.tmp")


def is_temporary(name: str) -> bool:
    """True if *name* is that of a temporary file."""
    return name.endswith(".tmp") and _NAME.fullmatch(name) is not None


def temporary_name(name: str) -> str:
    """Return a new name for a file that will be renamed to *name*."""
    return f"{name[:_MAX_STEM]}.{uuid.uuid4()}.tmp"


@contextmanager
def replacing(name: str, directory: int, permissions: int) -> Iterator[int]:
    """Do the same as ``replacing_own``, with a file that has the owner of *directory*.

    Its mode is that of *directory* within *permissions*.
    """
    with replacing_own(name, directory, 0o600) as fd:
        adopt(fd, directory, permissions)
        yield fd


@contextmanager
def replacing_own(name: str, directory: int, mode: int = 0o666) -> Iterator[int]:
    """Create a temporary file, open for writing; rename it to *name* when the block ends.

    It is synced before, and has *mode* within the umask. If the block fails, the file is removed.
    The caller syncs *directory*.
    """
    temporary = temporary_name(name)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode, dir_fd=directory)
    try:
        lock(fd, EXCLUSIVE)
        yield fd
        os.fsync(fd)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        unlink_if_there(temporary, directory)
        raise
    finally:
        os.close(fd)


class owned_fd:  # noqa: N801  (a context manager; @contextmanager costs a fifth of a stat)
    """Close a descriptor when the block ends."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)


@contextmanager
def closed_on_failure(fd: int) -> Iterator[None]:
    """Close *fd* if the block fails."""
    try:
        yield
    except BaseException:
        os.close(fd)
        raise


def write_all(fd: int, content: bytes) -> None:
    """Write all of *content* at the position of *fd*."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def write_at(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of *data* at *offset*."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written


def unlink_if_there(name: str, directory: int) -> None:
    """Remove the file *name* from *directory*; a missing one is no error."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass


def remove_abandoned(name: str, directory: int) -> None:
    """Remove the temporary file *name*, unless its writer still holds the lock."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=directory)
    except FileNotFoundError:
        return
    with owned_fd(fd):
        if lock(fd, SHARED):
            unlink_if_there(name, directory)

"""Temporary files beside the files that they replace, and those that a crash has left.

Their names are those of distribution (from 3.1), so that nobody takes them for content. A writer
of ours holds a lock on its file (``drivers/filelock.py``) until it has its name.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from blobfs.drivers.filelock import lock_exclusive, lock_shared
from blobfs.drivers.ownership import adopt_file

_NAME: Final = re.compile(r".+\.[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.tmp")
_MAX_STEM: Final = 255 - len(f".{uuid.UUID(int=0)}.tmp")


def is_temporary(name: str) -> bool:
    """Whether a file of that name is not content yet, and may never be."""
    return name.endswith(".tmp") and _NAME.fullmatch(name) is not None


@contextmanager
def replacing(name: str, directory: int, permissions: int) -> Iterator[int]:
    """A new file, open for writing, that is called *name* in *directory* once the block ends.

    It is synced, and has the owner of *directory* and its mode in *permissions*; if the block
    fails, nothing is left of it. The caller syncs *directory*.
    """
    temporary = f"{name[:_MAX_STEM]}.{uuid.uuid4()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
    try:
        lock_exclusive(fd)
        adopt_file(fd, directory, permissions)
        yield fd
        os.fsync(fd)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        unlink_if_there(temporary, directory)
        raise
    finally:
        os.close(fd)


def write_all(fd: int, content: bytes) -> None:
    """Write *content* at the position of *fd*."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def unlink_if_there(name: str, directory: int) -> None:
    """Remove the file *name* from the open *directory*; a missing one is no error."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass


def remove_abandoned(name: str, directory: int) -> None:
    """Remove a temporary file, unless a writer of ours is about to give it its name."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=directory)
    except FileNotFoundError:
        return
    try:
        if lock_shared(fd):
            unlink_if_there(name, directory)
    finally:
        os.close(fd)

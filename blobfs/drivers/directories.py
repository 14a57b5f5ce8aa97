"""Changes of a directory's entries: create a file, remove and prune trees."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from blobfs.drivers import ownership
from blobfs.drivers.localfile import size_of_file
from blobfs.drivers.temporaries import (
    closed_on_failure,
    is_temporary,
    owned_fd,
    remove_abandoned,
    unlink_if_there,
)
from blobfs.errors import Busy, NotADirectory

DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY

# O_NONBLOCK: opening a FIFO in the storage must not block.
READ: Final = os.O_RDONLY | os.O_NONBLOCK
WRITE: Final = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW

_Reach = Callable[[str, int], int]
"""``reach(path, flags)`` opens a path below the root."""

_ABANDONED_S: Final = 3600.0
"""The age after which a temporary file is abandoned: one in use is renamed after milliseconds."""


class UnsyncedDirectories:
    """Paths of directories that this process makes, until their names are durable. Thread-safe.

    A thread that finds such a directory syncs the one above it too, because the thread that makes
    it may not have done so yet. After a failure the path stays here, and the next thread syncs it.
    Each method reads or changes the set at once, so it needs no lock.
    """

    def __init__(self) -> None:
        self._paths: set[str] = set()

    def add(self, paths: Iterable[str]) -> None:
        """Add directories before they are made; a path has no slash at its start and end."""
        self._paths.update(paths)

    def synced(self, paths: Iterable[str]) -> None:
        """Remove directories whose names are durable."""
        self._paths.difference_update(paths)

    def removed(self, path: str) -> None:
        """Remove *path* and the paths below it, which do not exist any more."""
        self.synced([each for each in tuple(self._paths) if f"{each}/".startswith(f"{path}/")])

    def open_or_make(
        self, names: Sequence[str], reach: _Reach, opened: list[int], made: set[str]
    ) -> None:
        """Open the deepest durable directory of the path *names*, and make and open those below it.

        The descriptors are added to *opened*, the paths of those below it to *made* and here.
        """
        existing = len(names)
        while not opened:
            try:
                fd = reach("/".join(names[:existing]) or ".", DIRECTORY)
            except FileNotFoundError:
                existing -= 1
                continue
            durable = self._durable(names[:existing])  # after the directory was found
            if durable == existing:
                opened.append(fd)
            else:
                os.close(fd)
                existing = durable
        for depth in range(existing, len(names)):
            path = "/".join(names[: depth + 1])
            made.add(path)
            self.add((path,))
            opened.append(made_below(names[depth], opened[-1]))

    def _durable(self, names: Sequence[str]) -> int:
        """Return the number of the first *names* of a path that are durable."""
        if self._paths:
            for depth in range(len(names)):
                if "/".join(names[: depth + 1]) in self._paths:
                    return depth
        return len(names)


def sync_if_whole(name: str, directory: int, size: int) -> bool:
    """Make the file *name* durable if it has *size* bytes; False if it has not."""
    try:
        fd = os.open(name, READ | os.O_NOFOLLOW, dir_fd=directory)
    except FileNotFoundError:
        return False
    with owned_fd(fd):
        st = os.fstat(fd)
        is_whole = stat.S_ISREG(st.st_mode) and st.st_size == size
        if is_whole:
            os.fsync(fd)
    return is_whole


def made_below(name: str, above: int) -> int:
    """Open the directory *name* in *above*, and make it if it is missing.

    It gets the owner, group and mode of the directory above. One that is not empty is left
    unchanged: a program that may write there has replaced the new one, and must not become the
    owner of the other. Raises NotADirectory.
    """
    try:
        os.mkdir(name, dir_fd=above)
        is_ours = True
    except FileExistsError:  # perhaps another program was faster
        is_ours = False
    try:
        fd = os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
    except NotADirectoryError:
        raise NotADirectory(f"below a file: {name}") from None
    with closed_on_failure(fd):
        if is_ours and ownership.differs(fd, above, ownership.DIRECTORY) and not os.listdir(fd):
            ownership.adopt(fd, above, ownership.DIRECTORY)
    return fd


def create_file(name: str, directory: int) -> int:
    """Create a file, open for writing; an existing one is unlinked, not truncated.

    The existing one may be about to become a blob, or have another name elsewhere.
    """
    while True:
        try:
            fd = os.open(name, WRITE | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
        except FileExistsError:
            _unlink_file(name, directory)
            continue
        with closed_on_failure(fd):
            ownership.adopt(fd, directory, ownership.FILE)
        return fd


def _unlink_file(name: str, directory: int) -> None:
    try:
        fd = os.open(name, READ | os.O_NOFOLLOW, dir_fd=directory)
    except FileNotFoundError:
        return
    with owned_fd(fd):
        size_of_file(name, fd)  # raises NotAFile
    unlink_if_there(name, directory)


def remove_tree(name: str, directory: int) -> None:
    """Remove a file, or a directory and everything below it; others may remove them as well."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        _remove_directory(name, directory, lambda child, fd: remove_tree(child.name, fd))


def prune_tree(name: str, above: int) -> None:
    """Remove the empty directories below *name*, then the directory itself if it is empty.

    Raises OSError, and Busy for a mount point.
    """
    try:
        _remove_directory(name, above, _prune_child)
    except OSError as exc:
        if exc.errno == errno.EBUSY:
            raise Busy(f"{name} is a mount point; unmount it first") from None
        if exc.errno != errno.ENOTEMPTY:
            raise


def _prune_child(child: os.DirEntry[str], directory: int) -> None:
    if child.is_dir(follow_symlinks=False):
        prune_tree(child.name, directory)
    elif is_temporary(child.name) and _is_old(child):
        remove_abandoned(child.name, directory)


def _remove_directory(
    name: str, above: int, remove_child: Callable[[os.DirEntry[str], int], None]
) -> None:
    """Call *remove_child* for each child, then rmdir(2); a missing directory is no error."""
    try:
        with owned_fd(os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=above)) as fd:
            with os.scandir(fd) as entries:
                children = list(entries)
            for child in children:
                remove_child(child, fd)
        os.rmdir(name, dir_fd=above)
    except FileNotFoundError:
        pass


def _is_old(entry: os.DirEntry[str]) -> bool:
    """True if the age shows that no registry is writing the file; registries take no locks."""
    st = entry.stat(follow_symlinks=False)
    return stat.S_ISREG(st.st_mode) and time.time() - st.st_mtime > _ABANDONED_S

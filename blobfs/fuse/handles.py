"""The file handles that the kernel holds, and their bounds for each user."""

from __future__ import annotations

import resource
from contextlib import suppress
from itertools import count
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from pyfuse3 import FileHandleT

from blobfs.errors import TooManyOpen

T = TypeVar("T")

_NUMBERS: Final = count(1)
"""Handles for all tables, so a handle is unique in the mount."""

_RESERVED: Final = 1024
"""Descriptors for links, directories, Redis and HTTP: a few for each of up to 256 requests."""

MAX_PER_USER: Final = 65536
"""The default of --max-handles-per-user; so many handles take about 64 MiB."""


def raise_limit_of_files() -> int:
    """Raise the soft limit of open files to the hard one; return the limit that is in force."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # more than the kernel lets a process have
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class _User:
    """The handles and the descriptors that a user holds, and the handles of each file."""

    __slots__ = ("descriptors", "files", "handles", "uid")

    def __init__(self, uid: int) -> None:
        self.uid = uid
        self.handles = 0
        self.descriptors = 0
        self.files: dict[tuple[str, int], int] = {}


class HandleBudget:
    """The bounds of what users hold open. Used on the event loop only, so it takes no lock.

    Handles of one file share a descriptor, which each user who has the file open is charged for.
    A user may hold as many descriptors as are free for others, so one user never takes more than
    half of them, and the next user finds room. Root has the same bounds: a program of root that
    leaks handles harms others as much.
    """

    def __init__(self, per_user: int = MAX_PER_USER, limit_of_files: int = 2**30) -> None:
        self._per_user = per_user
        self._limit = limit_of_files
        self._free = limit_of_files - min(_RESERVED, limit_of_files // 2)
        self._users: dict[int, _User] = {}

    def check(self, uid: int, descriptors: int = 0) -> None:
        """Raise TooManyOpen if *uid* may not open a file that takes so many *descriptors*."""
        self._check(self._users.get(uid) or _User(uid), descriptors)

    def _check(self, user: _User, descriptors: int) -> None:
        if user.handles >= self._per_user:
            raise TooManyOpen(
                f"user {user.uid} has {self._per_user} files and directories open;"
                " close some, or mount with a larger --max-handles-per-user"
            )
        if descriptors and user.descriptors + descriptors > self._free - descriptors:
            raise TooManyOpen(
                f"user {user.uid} has as many files open as the daemon's limit of {self._limit}"
                " leaves for one user; close some, or raise the limit (ulimit -Hn, LimitNOFILE)"
            )

    def claim(self, uid: int, key: str = "", descriptors: int = 0) -> Claim:
        """Charge *uid* for a handle of the file *key*, until ``Claim.release``.

        Raises TooManyOpen.
        """
        user = self._users.get(uid) or _User(uid)
        file = (key, descriptors)
        handles = user.files.get(file, 0)
        self._check(user, 0 if handles else descriptors)
        self._users[uid] = user
        user.files[file] = handles + 1
        user.handles += 1
        if not handles:
            user.descriptors += descriptors
            self._free -= descriptors
        return Claim(self, user, file)

    def release(self, user: _User, file: tuple[str, int]) -> None:
        """Count a handle of *file* no more; ``Claim.release`` calls it."""
        user.handles -= 1
        if user.files[file] > 1:
            user.files[file] -= 1
            return
        del user.files[file]
        user.descriptors -= file[1]
        self._free += file[1]
        if not user.handles:
            del self._users[user.uid]


class Claim:
    """A user's claim on a handle. A ``with`` block that fails releases it."""

    __slots__ = ("_budget", "_file", "_user")

    def __init__(self, budget: HandleBudget, user: _User, file: tuple[str, int]) -> None:
        self._budget = budget
        self._user = user
        self._file = file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is not None:
            self.release()

    @property
    def uid(self) -> int:
        """The user."""
        return self._user.uid

    def release(self) -> None:
        """Give the handle back; called once."""
        self._budget.release(self._user, self._file)


class HandleTable(Generic[T]):
    """Open files or directories by handle. Used on the event loop only, so it takes no lock."""

    def __init__(self) -> None:
        self._open: dict[FileHandleT, T] = {}
        self._claims: dict[FileHandleT, Claim] = {}

    def add(self, thing: T, claim: Claim) -> FileHandleT:
        """Return a handle for *thing*. ``pop`` ends it, and releases *claim*."""
        fh = FileHandleT(next(_NUMBERS))
        self._open[fh] = thing
        self._claims[fh] = claim
        return fh

    def __getitem__(self, fh: FileHandleT) -> T:
        return self._open[fh]

    def get(self, fh: FileHandleT) -> T | None:
        """Return the object of *fh*; None if the kernel does not hold it."""
        return self._open.get(fh)

    def user(self, fh: FileHandleT) -> int | None:
        """Return the user who has opened *fh*; None if the kernel does not hold it."""
        claim = self._claims.get(fh)
        return None if claim is None else claim.uid

    def __len__(self) -> int:
        return len(self._open)

    def replace(self, fh: FileHandleT, thing: T) -> None:
        """Make *thing* the object of *fh*."""
        self._open[fh] = thing

    def pop(self, fh: FileHandleT) -> T:
        """Remove and return the object of *fh*, which the kernel does not use again."""
        self._claims.pop(fh).release()
        return self._open.pop(fh)

"""The checks before a mount or a command, with a common deadline."""

from __future__ import annotations

import os
import pwd
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from blobfs import metrics, paths
from blobfs.concurrency import ThreadCall
from blobfs.drivers.location import Location
from blobfs.errors import MountRefused
from blobfs.mountinfo import mount_at
from blobfs.storage.registry import Registry

T = TypeVar("T")

DEADLINE_S: Final = 25.0
"""The time limit of all checks together: less than the 30 s that a mount has."""

_NO_ROOT: Final = f"it has no {paths.ROOT[1:]}, which a registry makes at its first push"

_QUIET_S: Final = 2.0
"""The waiting time before a message is shown."""


class Preflight:
    """Runs the checks of one command, which share a deadline. Used by one thread.

    Each check runs in a thread, because a hung server or file system blocks its caller. The
    thread has ended when ``run`` returns, so the process may fork then. *waiting* is called with
    a message if a check takes more than 2 s.
    """

    def __init__(
        self, storage: str | Location, waiting: Callable[[str], None], limit_s: float = DEADLINE_S
    ) -> None:
        self._location = Location.of(storage)
        self._waiting = waiting
        self._limit_s = limit_s
        self._end = time.monotonic() + limit_s

    def about(self, location: Location) -> None:
        """Name *location* in messages from now on."""
        self._location = location

    def run(self, check: Callable[[], T]) -> T:
        """Return what *check* returns; raises what it raises, and MountRefused at the deadline."""
        call = ThreadCall("preflight", check)
        if not call.has_ended(min(_QUIET_S, self._left_s)):
            self._waiting(f"waiting for {self._location.address} …")
        if not call.has_ended(self._left_s):
            raise MountRefused(self._no_answer())
        return call.result(0)

    @property
    def _left_s(self) -> float:
        return self._end - time.monotonic()

    def _no_answer(self) -> str:
        text = f"{self._location.address} did not answer within {self._limit_s:g} s"
        if self._location.bucket is None:
            return f"{text}: the file system hangs; findmnt shows its mount"
        failures = ", ".join(_failed_requests())
        why = failures or "it accepts connections, or drops them, and does not reply"
        return f"{text}: {why}; check regionendpoint and AWS_ENDPOINT_URL, and the server itself"


def _failed_requests() -> Iterator[str]:
    """Describe the failed requests to S3 of this process."""
    for metric in metrics.S3_REQUESTS.collect():
        for sample in metric.samples:
            operation, status = sample.labels["operation"], sample.labels["status"]
            if sample.name.endswith("_total") and not status.startswith("2"):
                yield f"{operation} ended {sample.value:g}× with {status}"


def check_storage(root: Path, otherwise: str = "") -> None:
    """Raise MountRefused unless the directory *root* is a registry's storage.

    *otherwise* ends the message: an alternative to giving another directory.
    """
    with _readable(root):
        if not root.exists():
            raise MountRefused(
                f"{root} does not exist; give a registry's root directory{otherwise}"
            )
        if not (root / paths.ROOT[1:]).is_dir():
            raise MountRefused(f"{root} is no registry: {_advice(root, otherwise)}")


def create_storage(root: Path) -> None:
    """Create the directories of an empty registry; existing ones stay. Raises MountRefused."""
    if (root / paths.ROOT[1:]).is_dir():
        return
    for path in (paths.BLOBS, paths.REPOSITORIES):
        directory = root / path[1:]
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise MountRefused(
                f"cannot make {directory}: {exc.strerror}; give a directory that you may write"
            ) from None


def unwritable(root: Path) -> str | None:
    """Return why nothing can be stored below *root*, or None; it tests without writing."""
    for path in (paths.BLOBS, paths.REPOSITORIES):
        directory = root / path[1:]
        if not directory.exists():
            directory = root / paths.ROOT[1:]
        if os.statvfs(directory).f_flag & os.ST_RDONLY:
            return f"{directory} is on a read-only file system"
        if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
            return f"{directory} cannot be written by this user"
    return None


def check_registry(registry: Registry, location: Location, otherwise: str = "") -> None:
    """Raise MountRefused unless an object store holds a registry; see ``check_storage``.

    Raises AccessDenied, StorageUnavailable.
    """
    if not registry.exists():
        raise MountRefused(
            f"{location} is no registry: {_NO_ROOT}; give the prefix that holds it{otherwise}"
        )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise MountRefused(f"{path}: {exc.strerror}; run as a user who may read it") from None


def _advice(root: Path, otherwise: str) -> str:
    for above in root.resolve().parents:
        if (above / paths.ROOT[1:]).is_dir():
            return f"its root is {above}; give that"
    return f"{_NO_ROOT}; give its root directory{otherwise}"


def check_mountpoint(mountpoint: Path, storage_root: Path | None) -> Path:
    """Return *mountpoint* absolute and without symlinks; raises MountRefused if it is unusable.

    *storage_root* is the directory of a local storage, else None.
    """
    resolved = _without_symlinks(mountpoint)
    mounted = mount_at(resolved)
    if mounted is not None and mounted.fstype.startswith("fuse"):
        raise MountRefused(
            f"{mountpoint} is a mount already ({mounted.source}); run: blobfs umount {mountpoint}"
        )
    with _readable(mountpoint):
        if not resolved.exists():
            raise MountRefused(f"{mountpoint} does not exist; run: mkdir -p {mountpoint}")
        if not resolved.is_dir():
            raise MountRefused(f"{mountpoint} is not a directory; choose one")
        _check_owner(resolved)
        if any(resolved.iterdir()):
            raise MountRefused(f"{mountpoint} is not empty; choose an empty directory")
    if storage_root is not None:
        _check_apart(resolved, storage_root)
    return resolved


def _check_owner(mountpoint: Path) -> None:
    """Raise MountRefused if fusermount3(1) would refuse this user the directory."""
    st = mountpoint.stat()
    user = os.geteuid()
    if user in (0, st.st_uid):
        return
    may_write = os.access(mountpoint, os.W_OK, effective_ids=True)
    if st.st_mode & stat.S_ISVTX or not may_write:
        raise MountRefused(
            f"{mountpoint} belongs to {_user_name(st.st_uid)}, and only root or its owner can mount"
            " there; choose a directory of your own"
        )


def _user_name(uid: int) -> str:
    try:
        return f"the user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"the user {uid}"


def _without_symlinks(mountpoint: Path) -> Path:
    """Resolve symlinks, but touch no mount at *mountpoint*: it may be dead."""
    absolute = mountpoint.absolute()
    if mount_at(absolute) is not None:
        return absolute
    try:
        return absolute.resolve()
    except OSError as exc:
        raise MountRefused(f"{mountpoint}: {exc.strerror}; choose another directory") from None


def _check_apart(mountpoint: Path, storage_root: Path) -> None:
    """Raise MountRefused for a mount inside its storage or around it: it would wait for itself."""
    if any(_same(directory, storage_root) for directory in _upwards(mountpoint)):
        raise MountRefused(f"{mountpoint} is inside the storage; mount it somewhere else")
    if any(_same(directory, mountpoint) for directory in _upwards(storage_root.resolve())):
        raise MountRefused(f"{mountpoint} holds the storage; mount it somewhere else")


def _upwards(directory: Path) -> Iterator[Path]:
    yield directory
    yield from directory.parents


def _same(one: Path, other: Path) -> bool:
    """True if both are one directory, also through a bind mount."""
    try:
        return one.samefile(other)
    except OSError:
        return False

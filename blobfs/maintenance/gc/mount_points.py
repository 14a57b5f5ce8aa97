"""The check of a registry on several file systems: none that a run has seen may be missing.

The directory on which a file system was mounted is empty, or has only what was pushed since. So the
links of blobs may be missing. Each run records the mount points in the journal. The first run knows
those of fstab(5).
"""

from __future__ import annotations

import os
from contextlib import suppress

from blobfs import paths
from blobfs.drivers.base import StorageDriver, is_below
from blobfs.drivers.location import Location
from blobfs.drivers.submounts import mounts_below, path_below
from blobfs.errors import AccessDenied, NotADirectory, NotAFile, PathInvalid, PathNotFound
from blobfs.logs import printable
from blobfs.maintenance.gc.ledger import Ledger
from blobfs.mountinfo import FSTAB, mountpoints_of_fstab


def unmounted(storage: Location, driver: StorageDriver, ledger: Ledger) -> list[str]:
    """Return the directories of the registry on which a file system should be mounted.

    They may be missing: other programs remove an empty directory too.
    """
    expected = ledger.mount_points() | _of_fstab(storage)
    for path in expected:
        _trigger(driver, path)
    return sorted(expected - _mounted(storage)) if expected else []


def unmounted_of_fstab(storage: Location) -> list[str]:
    """Return the directories of the registry that are in fstab(5), and have no file system."""
    return sorted(_of_fstab(storage) - _mounted(storage))


def note_mounted_or_missing(storage: Location, driver: StorageDriver, ledger: Ledger) -> list[str]:
    """Return the result of ``unmounted``, and record the mount points for later runs."""
    missing = unmounted(storage, driver, ledger)
    earlier = ledger.mount_points() if missing else set[str]()
    ledger.note_mount_points(earlier | _mounted(storage))
    return missing


def problem_of(unmounted_paths: list[str], ledger: Ledger) -> str | None:
    """Return why no blob may be deleted if those directories have no file system."""
    if not unmounted_paths:
        return None
    return (
        f"{printable(unmounted_paths[0])} is a mount point, and nothing is mounted; mount it, or"
        f" remove the journal {ledger.journal.path} and the line of {FSTAB} if its content was"
        " moved or deleted"
    )


def _mounted(storage: Location) -> set[str]:
    if storage.root is None:
        return set()
    found = mounts_below(os.path.realpath(storage.root))
    return {path for path, _ in found if _is_of_registry(path)}


def _of_fstab(storage: Location) -> set[str]:
    if storage.root is None:
        return set()
    roots = {str(storage.root), os.path.realpath(storage.root)}
    found = (path_below(root, each) for root in roots for each in mountpoints_of_fstab())
    return {path for path in found if path is not None and _is_of_registry(path)}


def _is_of_registry(path: str) -> bool:
    """True if repositories may be on a mount at *path*; no name of one begins with a dot."""
    is_above_or_below = is_below(path, paths.ROOT) or is_below(paths.ROOT, path)
    return is_above_or_below and "/." not in path


def _trigger(driver: StorageDriver, directory: str) -> None:
    """Let an automounter mount what belongs at a directory."""
    with suppress(PathNotFound, PathInvalid, NotADirectory, NotAFile, AccessDenied):
        driver.listdir(directory)

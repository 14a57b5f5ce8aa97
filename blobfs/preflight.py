"""What is refused before anything is mounted, each with a sentence saying what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blobfs import paths
from blobfs.errors import MountRefused
from blobfs.mountinfo import mount_at
from blobfs.storage.registry import Registry


def check_storage(root: Path, *, create: bool) -> None:
    """See to it that the directory *root* is a registry's storage; with *create*, begin one there.

    Raises MountRefused.
    """
    if create and not (root / paths.ROOT[1:]).is_dir():
        _create(root)
    with _readable(root):
        if not root.exists():
            raise MountRefused(
                f"{root} does not exist; give a registry's root directory, or --create"
            )
        if not (root / paths.ROOT[1:]).is_dir():
            raise MountRefused(f"{root} is no registry: {_advice(root)}")


def _create(root: Path) -> None:
    """Make what a registry has before its first push; what is there stays as it is."""
    for path in (paths.BLOBS, paths.REPOSITORIES):
        directory = root / path[1:]
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise MountRefused(
                f"cannot make {directory}: {exc.strerror}; give a directory that you may write"
            ) from None


def unwritable(root: Path) -> str | None:
    """The reason why nothing can be stored below *root*, as far as that is known without trying."""
    for path in (paths.BLOBS, paths.REPOSITORIES):
        directory = root / path[1:]
        if not directory.exists():
            directory = root / paths.ROOT[1:]
        if os.statvfs(directory).f_flag & os.ST_RDONLY:
            return f"{directory} is on a read-only file system"
        if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
            return f"{directory} cannot be written by this user"
    return None


def check_registry(registry: Registry, storage: str, *, create: bool) -> None:
    """See to it that an object store holds a registry; with *create*, begin one there.

    Raises MountRefused, AccessDenied, StorageUnavailable.
    """
    if registry.exists():
        return
    if create:
        registry.create()
    else:
        raise MountRefused(
            f"{storage.partition('?')[0]} is no registry: it has no {paths.ROOT[1:]};"
            " mind the prefix, or --create to begin one"
        )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise MountRefused(f"{path}: {exc.strerror}; run as a user who may read it") from None


def _advice(root: Path) -> str:
    for above in root.resolve().parents:
        if (above / paths.ROOT[1:]).is_dir():
            return f"its root is {above}; give that"
    return f"it has no {paths.ROOT[1:]}; give its root directory, or --create to begin one"


def check_mountpoint(mountpoint: Path, storage_root: Path | None) -> Path:
    """*mountpoint*, absolute and without symlinks, if a mount may be made there.

    *storage_root* is the local directory that will be shown, if it is one. Raises
    MountRefused, with what to do.
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
        if any(resolved.iterdir()):
            raise MountRefused(f"{mountpoint} is not empty; choose an empty directory")
    if storage_root is not None:
        _check_apart(resolved, storage_root)
    return resolved


def _without_symlinks(mountpoint: Path) -> Path:
    """Resolve all but the last component: a dead mount there must not be asked anything."""
    absolute = mountpoint.absolute()
    if mount_at(absolute) is not None:
        return absolute
    try:
        return absolute.resolve()
    except OSError as exc:
        raise MountRefused(f"{mountpoint}: {exc.strerror}; choose another directory") from None


def _check_apart(mountpoint: Path, storage_root: Path) -> None:
    """Refuse a mount inside what it shows, or around it: it would wait for itself."""
    if any(_same(directory, storage_root) for directory in _upwards(mountpoint)):
        raise MountRefused(f"{mountpoint} is inside the storage; mount it somewhere else")
    if any(_same(directory, mountpoint) for directory in _upwards(storage_root.resolve())):
        raise MountRefused(f"{mountpoint} holds the storage; mount it somewhere else")


def _upwards(directory: Path) -> Iterator[Path]:
    yield directory
    yield from directory.parents


def _same(one: Path, other: Path) -> bool:
    """Whether both are one directory, also through a bind mount."""
    try:
        return one.samefile(other)
    except OSError:
        return False

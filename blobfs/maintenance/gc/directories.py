"""Empty directories of a local storage, which deleted links, blobs and repositories leave."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

from blobfs import paths
from blobfs.drivers.base import StorageDriver, is_below
from blobfs.errors import AccessDenied, Busy, PathNotFound
from blobfs.inventory.journal import Journal
from blobfs.inventory.spans import EntryKind

_EMPTY: Final = "SELECT path, mtime FROM other WHERE kind = ?"
_FILES: Final = (
    "SELECT EXISTS (SELECT 1 FROM link JOIN repository ON repository.id = repository"
    " WHERE repository.name = :name) OR EXISTS (SELECT 1 FROM upload_file"
    " JOIN repository ON repository.id = repository WHERE repository.name = :name)"
    " OR EXISTS (SELECT 1 FROM other WHERE kind <> :empty AND substr(path, 1, :length) = :path)"
)


def empty_directories(journal: Journal, before_ns: int, unmounted: Sequence[str] = ()) -> list[str]:
    """Return the empty directories that a pass has found, if they may be removed.

    They were last changed before *before_ns*. The directories that make a repository are among them
    only if it has no file, and no younger directory. None is on the way to one of *unmounted*,
    mount points without a file system, or below it.
    """
    found: list[str] = []
    repositories: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for path, mtime in journal.db.execute(_EMPTY, (EntryKind.EMPTY_DIRECTORY,)):
        if path.startswith(f"{paths.REPOSITORIES}/"):
            repositories[path.partition("/_")[0]].append((path, mtime))
        elif mtime < before_ns:
            found.append(path)
    for repository, inside in repositories.items():
        old = [path for path, mtime in inside if mtime < before_ns]
        if len(old) == len(inside) and not _has_files(journal, repository):
            found.append(repository)
        else:
            found += (path for path in old if path.count("/") > repository.count("/") + 2)
    return [path for path in found if not any(_touches(path, each) for each in unmounted)]


def _touches(path: str, other: str) -> bool:
    return is_below(path, other) or is_below(other, path)


def _has_files(journal: Journal, directory: str) -> bool:
    inside = f"{directory}/_"
    name = directory.removeprefix(f"{paths.REPOSITORIES}/")
    [[found]] = journal.db.execute(
        _FILES,
        {
            "name": name,
            "empty": EntryKind.EMPTY_DIRECTORY,
            "path": inside,
            "length": len(inside),
        },
    )
    return bool(found)


def remove(driver: StorageDriver, directory: str, before_ns: int) -> None:
    """Remove a directory that ``empty_directories`` has returned.

    Of a repository the directories that make it one go, and itself if there is none below it.
    All stay if a file or a directory was added since *before_ns*. A mount point stays, and what
    this process may not remove.
    """
    parts = list(_parts(driver, directory))
    if all(_is_old(driver, path, before_ns) for path in parts):
        for path in parts:
            with suppress(AccessDenied, Busy):
                driver.prune(path)


def _is_old(driver: StorageDriver, directory: str, before_ns: int) -> bool:
    """True if there are only directories at and below a path, and the empty ones are old."""
    try:
        children = list(driver.listdir(directory))
        if not children:
            return driver.stat(directory).mtime_ns < before_ns
    except (PathNotFound, AccessDenied):
        return False
    below = (_is_old(driver, f"{directory}/{child.name}", before_ns) for child in children)
    return all(child.is_dir for child in children) and all(below)


def _parts(driver: StorageDriver, directory: str) -> Iterator[str]:
    try:
        children = list(driver.listdir(directory))
    except (PathNotFound, AccessDenied):
        return
    inner = [child.name for child in children if child.name.startswith("_")]
    yield from (f"{directory}/{name}" for name in inner)
    if len(inner) == len(children):
        yield directory

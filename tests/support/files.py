"""Whole files and whole trees of any driver, by the methods that every driver has."""

from collections.abc import Callable, Iterator
from typing import Final, ParamSpec

import pytest

from blobfs.drivers.base import FileInfo, StorageDriver, stat_or_none
from blobfs.errors import AccessDenied, PathNotFound

P = ParamSpec("P")

MISSING: Final = ["/nowhere", "/nowhere/at/all", "/d/nowhere", "/d/file/below", "/d/fil"]
"""Paths that are missing where there is only the file ``/d/file``."""


def missing_path(act: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> str:
    """The path of the PathNotFound that a call raises."""
    with pytest.raises(PathNotFound) as caught:
        act(*args, **kwargs)
    return caught.value.path


def content_of(driver: StorageDriver, path: str) -> bytes:
    """The whole content of a file; raises PathNotFound, NotAFile."""
    with driver.open(path) as reader:
        return b"".join(reader.chunks())


def walk(driver: StorageDriver, path: str) -> Iterator[FileInfo]:
    """All files and directories below *path*, a directory before its children.

    A file that is created or removed meanwhile may or may not be listed. Files without permission
    are omitted. Raises PathNotFound.
    """
    pending = [_children(driver, path)]
    while pending:
        child = next(pending[-1], None)
        if child is None:
            pending.pop()
            continue
        try:
            info = stat_or_none(driver, child)
        except AccessDenied:
            continue
        if info is not None:
            yield info
        if info is not None and info.is_dir:
            try:
                pending.append(_children(driver, child))
            except PathNotFound:
                pass  # it was removed just now


def _children(driver: StorageDriver, path: str) -> Iterator[str]:
    base = path.rstrip("/")
    return iter(sorted(f"{base}/{entry.name}" for entry in driver.listdir(path)))

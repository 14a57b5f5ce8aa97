"""Spans: the parts into which a pass divides a storage, and the files in each."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import pairwise
from typing import Final, NamedTuple

from blobfs import paths
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.objectstore import ObjectStore
from blobfs.errors import AccessDenied, NotADirectory, NotAFile, PathInvalid, PathNotFound

_SPANS: Final = 32
"""Spans of one directory at most."""

_ESCAPE: Final = "\\udc"
"""The begin of an escaped byte of a name that is no UTF-8."""


class EntryKind(IntEnum):
    """The kind of an entry in a span."""

    FILE = 0
    EMPTY_DIRECTORY = 1
    UNREADABLE = 2
    INVALID_NAME = 3
    """No driver has such a path, so nothing below it belongs to a registry."""


class Entry(NamedTuple):
    """A file, or a directory or path of another kind.

    *etag* is the object's, and ``""`` in a directory.
    """

    path: str
    kind: EntryKind
    size: int = 0
    mtime_ns: int = 0
    etag: str = ""

    @property
    def position(self) -> str:
        """The entry's place in the order of a span."""
        return self.path if self.kind is EntryKind.FILE else f"{self.path}/"


@dataclass(frozen=True, slots=True)
class Span:
    """The paths below *directory* from *first* on, and before *end*; ``""`` is no bound.

    Both are relative to the directory, and a directory's name ends with a slash. Paths are in the
    order of their bytes, as in the listing of an object store. *after* is the last position that
    an earlier step has seen.
    """

    directory: str
    first: str = ""
    end: str = ""
    after: str = ""

    def entries(self, driver: StorageDriver) -> Iterator[Entry]:
        """Yield what *driver* has in the span, in order; raises StorageUnavailable."""
        if isinstance(driver, ObjectStore):
            return self._objects(driver)
        return self._children(driver)

    def divided(self, store: ObjectStore) -> list[Span]:
        """Divide the span, which a first step has begun, into spans of about as many entries.

        The step has shown how many entries the children have. So an object store is asked for few
        pages that two spans share.
        """
        names = _names(store, self.directory)
        child = self.after[len(self.directory) + 1 :].partition("/")[0] + "/"
        begun = bisect_left(names, child)
        left = names[begun:]
        parts = min(_SPANS, len(left), len(left) // max(begun, 1) + 1)
        step = -(-len(left) // max(parts, 1))
        bounds = [self.first, *left[step::step], self.end]
        first, *others = (replace(self, first=a, end=b, after="") for a, b in pairwise(bounds))
        return [replace(first, after=self.after), *others]

    def _includes(self, child: str) -> bool:
        return self.first <= child and (not self.end or child < self.end)

    def _objects(self, store: ObjectStore) -> Iterator[Entry]:
        start = len(self.directory) + 1
        after = self.after or (f"{self.directory}/{self.first}" if self.first else "")
        for page in store.pages(self.directory, after=after):
            for file in page.files:
                if self.end and file.path[start:] >= self.end:
                    return
                yield Entry(file.path, EntryKind.FILE, file.size, file.mtime_ns, file.etag)

    def _children(self, driver: StorageDriver) -> Iterator[Entry]:
        try:
            children = _sorted(driver, self.directory)
        except (PathNotFound, NotADirectory, NotAFile):
            return  # removed meanwhile
        except AccessDenied:
            yield Entry(self.directory, EntryKind.UNREADABLE)
            return
        for child in children:
            if self._includes(child):
                yield from _below(driver, f"{self.directory}/{child}", self.after)


def divide(driver: StorageDriver) -> Iterator[Span]:
    """Yield spans that cover the registry in *driver*, the blobs first.

    Those of an object store are divided after their first step.

    A file of a blob or a repository that is created meanwhile is covered too. A directory of blobs
    that cannot be read, such as ``lost+found``, is a span, whose entry says so.
    Raises StorageUnavailable, AccessDenied.
    """
    for algorithm in _names(driver, paths.BLOBS):
        directory = f"{paths.BLOBS}/{algorithm}".rstrip("/")
        try:
            yield from _spans(driver, directory)
        except AccessDenied:
            yield Span(directory)
    yield from of_repositories(driver)


def of_repositories(driver: StorageDriver) -> Iterator[Span]:
    """Yield spans that cover all repositories; raises StorageUnavailable, AccessDenied."""
    return _spans(driver, paths.REPOSITORIES)


def _spans(driver: StorageDriver, directory: str) -> Iterator[Span]:
    if driver.is_object_store:
        yield Span(directory)
        return
    names = _names(driver, directory)
    step = max(1, -(-len(names) // _SPANS))
    bounds = ["", *names[step::step], ""]
    for first, end in pairwise(bounds):
        yield Span(directory, first, end)


def _names(driver: StorageDriver, directory: str) -> list[str]:
    try:
        return _sorted(driver, directory)
    except (PathNotFound, NotADirectory, NotAFile):
        return []


def _sorted(driver: StorageDriver, directory: str) -> list[str]:
    """Return the names of the children, those of directories with a slash.

    Bytes that are no UTF-8 are escaped, so that no driver finds such a path.
    """
    return sorted(
        _text(f"{entry.name}/" if entry.is_dir else entry.name)
        for entry in driver.listdir(directory)
    )


def _text(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()


def _below(driver: StorageDriver, path: str, after: str) -> Iterator[Entry]:
    """Yield the entries at *path*, a directory if it ends with a slash, after a position."""
    if path <= after and not after.startswith(path):
        return
    try:
        children = _sorted(driver, path[:-1]) if path.endswith("/") else []
        if not children and path > after:
            yield _entry(driver, path)
    except (PathNotFound, NotADirectory, NotAFile):
        if _ESCAPE in path:
            yield Entry(path.rstrip("/"), EntryKind.INVALID_NAME)
        return  # or changed meanwhile
    except AccessDenied:
        yield Entry(path.rstrip("/"), EntryKind.UNREADABLE)
        return
    except PathInvalid:
        yield Entry(path.rstrip("/"), EntryKind.INVALID_NAME)
        return
    for child in children:
        yield from _below(driver, path + child, after)


def _entry(driver: StorageDriver, path: str) -> Entry:
    """Return the entry of a file, or of an empty directory."""
    info = driver.stat(path.rstrip("/"))
    kind = EntryKind.EMPTY_DIRECTORY if info.is_dir else EntryKind.FILE
    return Entry(info.path, kind, info.size, info.mtime_ns)

"""Names of a tree while it is merged: lookups, symlinks, and removals.

The path of a member is resolved as umoci does with filepath-securejoin: symlinks lead nowhere out
of the root, and ``..`` is the directory above, also of a name that is missing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final, NamedTuple

ROOT: Final = 1

PATH_MAX: Final = 4096
NAME_MAX: Final = 255
"""Linux's limits of a path with its NUL, and of a name: linux/limits.h."""

OTHER, DIRECTORY, SYMLINK = range(3)

_MAX_SYMLINKS: Final = 255
"""Symlinks that are followed for one path, as in filepath-securejoin."""

_MAX_STEPS: Final = 2**14
"""Names that are looked up for one path, with those in the targets of symlinks."""

_CACHED: Final = 2**15
"""Names of directories and symlinks in memory, of about 400 bytes each."""

_TABLES: Final = (
    """
    CREATE TABLE name (
      directory INTEGER, name BLOB, node INTEGER, layer INTEGER, kind INTEGER,
      PRIMARY KEY (directory, name)
    ) WITHOUT ROWID
    """,
    "CREATE TABLE cleared (directory INTEGER PRIMARY KEY)",
)

_FIND: Final = "SELECT node, layer, kind FROM name WHERE directory = ? AND name = ?"


class Unplaceable(Exception):
    """A member has no place in the tree, not even as a name with a fault."""


class Name(NamedTuple):
    """The node of a name, and the latest layer that has the name or something below it."""

    node: int
    layer: int
    kind: int


class _Step(NamedTuple):
    """A name of a resolved path; *found* is None if it is missing."""

    name: bytes
    found: Name | None


_TOP: Final = _Step(b"", Name(ROOT, 0, DIRECTORY))


def components(path: bytes) -> list[bytes]:
    """Return the names of a path from the root, without ``.`` and ``..``; raises Unplaceable."""
    if len(path) >= PATH_MAX:
        raise Unplaceable(f"its path has {len(path)} bytes")
    found: list[bytes] = []
    for name in path.split(b"/"):
        if name == b"..":
            del found[-1:]
        elif name not in (b"", b"."):
            found.append(name)
    if any(len(name) > NAME_MAX for name in found):
        raise Unplaceable("its path has a name that is too long")
    return found


class NameTable:
    """Names by directory. Not thread-safe.

    What loses its name keeps all names below it, which nothing leads to any more. So a removal is
    one statement. Whiteouts that have to keep names of their own layer visit each directory once in
    a layer: after that it has no other names.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._layer = 0
        self._cache: dict[tuple[int, bytes], Name] = {}
        self._entered: tuple[list[bytes], int] = ([], ROOT)
        for statement in _TABLES:
            db.execute(statement)

    def begin_layer(self, layer: int) -> None:
        """Begin a layer on top of the others."""
        self._layer = layer
        self._db.execute("DELETE FROM cleared")
        self._discard_cache()

    def find(self, directory: int, name: bytes) -> Name | None:
        """Return the name in a directory; None if it is missing."""
        row = self._db.execute(_FIND, (directory, name)).fetchone()
        return row and Name._make(row)

    def get(self, directory: int, name: bytes) -> Name:
        """Return the name in a directory that is known to be there."""
        return Name._make(self._db.execute(_FIND, (directory, name)).fetchone())

    def add(self, directory: int, name: bytes, node: int, kind: int) -> bool:
        """Add a name of this layer; False if it is there already."""
        return bool(
            self._db.execute(
                "INSERT OR IGNORE INTO name VALUES (?, ?, ?, ?, ?)",
                (directory, name, node, self._layer, kind),
            ).rowcount
        )

    def touch(self, directory: int, name: bytes, found: Name) -> None:
        """Count a name as one of this layer."""
        if found.layer != self._layer:
            self._db.execute(
                "UPDATE name SET layer = ? WHERE directory = ? AND name = ?",
                (self._layer, directory, name),
            )
            self._cache.pop((directory, name), None)

    def remove(self, directory: int, name: bytes, found: Name) -> None:
        """Remove a name, with all below it."""
        self._db.execute("DELETE FROM name WHERE directory = ? AND name = ?", (directory, name))
        if found.kind != OTHER:
            self._cache.pop((directory, name), None)
            self._entered = ([], ROOT)

    def clear(self, directory: int) -> None:
        """Remove all below a directory that is not of this layer."""
        pending = [directory]
        while pending:
            number = pending.pop()
            if not self._mark_cleared(number):
                continue
            self._db.execute(
                "DELETE FROM name WHERE directory = ? AND layer <> ?", (number, self._layer)
            )
            query = "SELECT node FROM name WHERE directory = ? AND kind = ?"
            pending += [node for (node,) in self._db.execute(query, (number, DIRECTORY))]
            self._discard_cache()

    def _mark_cleared(self, directory: int) -> bool:
        cursor = self._db.execute("INSERT OR IGNORE INTO cleared VALUES (?)", (directory,))
        return bool(cursor.rowcount)

    def enter(self, path: list[bytes], create: Callable[[int, bytes], int]) -> int:
        """Return the directory at *path*; it and those above it count as of this layer.

        *create* makes a missing one, from its directory and its name, and returns its node. Raises
        Unplaceable if a name of the path is no directory.
        """
        if path == self._entered[0]:
            return self._entered[1]
        directory = ROOT
        for name, found in self._resolve(path):
            if found is None:
                directory = create(directory, name)
            elif found.kind == DIRECTORY:
                self.touch(directory, name, found)
                directory = found.node
            else:
                raise Unplaceable(f"{name!r} above it is no directory")
        self._entered = (path, directory)
        return directory

    def find_directory(self, path: list[bytes]) -> int | None:
        """Return the directory at *path*; None if there is none. Raises Unplaceable."""
        _, found = (self._resolve(path) or [_TOP])[-1]
        return found.node if found is not None and found.kind == DIRECTORY else None

    def _resolve(self, path: list[bytes]) -> list[_Step]:
        """Return the names from the root to *path*, without symlinks; raises Unplaceable."""
        steps: list[_Step] = []
        pending = path[::-1]
        symlinks = 0
        for _ in range(_MAX_STEPS):
            if not pending:
                return steps
            name = pending.pop()
            if name == b"..":
                del steps[-1:]
                continue
            if name in (b"", b"."):
                continue
            found = self._below(steps[-1] if steps else _TOP, name)
            if found is None or found.kind != SYMLINK:
                steps.append(_Step(name, found))
                continue
            symlinks += 1
            target = self._target(found.node)
            if target.startswith(b"/"):
                steps.clear()
            pending += target.split(b"/")[::-1]
            if symlinks > _MAX_SYMLINKS:
                break
        raise Unplaceable("its path leads through too many symlinks")

    def _below(self, step: _Step, name: bytes) -> Name | None:
        if len(name) > NAME_MAX:
            raise Unplaceable("its path leads to a name that is too long")
        if step.found is None or step.found.kind != DIRECTORY:
            return None
        key = (step.found.node, name)
        found = self._cache.get(key)
        if found is None:
            found = self.find(*key)
            if found is not None and found.kind != OTHER:
                if len(self._cache) >= _CACHED:
                    self._cache.clear()
                self._cache[key] = found
        return found

    def _target(self, node: int) -> bytes:
        query = "SELECT target FROM node WHERE number = ?"
        target: bytes = self._db.execute(query, (node,)).fetchone()[0]
        return target

    def _discard_cache(self) -> None:
        self._cache.clear()
        self._entered = ([], ROOT)

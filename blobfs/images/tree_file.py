"""Files of trees: a SQLite file with the names and entries of an image's root filesystem.

Entries are numbered along the tree, level by level, each directory by name. So the numbers are a
function of the layers, and the entries of a directory are beside each other.
"""

from __future__ import annotations

import sqlite3
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from blobfs.errors import StorageFull, StorageUnavailable
from blobfs.images.sparse import Extents

_XATTR: Final = struct.Struct("<HI")

_TABLES: Final = """
CREATE TABLE tree.entry (
  number INTEGER PRIMARY KEY, mode INTEGER, uid INTEGER, gid INTEGER, size INTEGER,
  mtime_ns INTEGER, major INTEGER, minor INTEGER, links INTEGER, fault TEXT,
  layer INTEGER, offset INTEGER, target BLOB, xattrs BLOB, extents BLOB
);
CREATE TABLE tree.name (
  directory INTEGER, name BLOB, number INTEGER, PRIMARY KEY (directory, name)
) WITHOUT ROWID;
CREATE TABLE tree.total (entries INTEGER, bytes INTEGER, unplaced TEXT);

CREATE TABLE placed (
  number INTEGER PRIMARY KEY, directory INTEGER, name BLOB, node INTEGER, kind INTEGER
);
CREATE TABLE first (node INTEGER PRIMARY KEY, number INTEGER, links INTEGER);
CREATE TABLE child (directory INTEGER PRIMARY KEY, directories INTEGER);
INSERT INTO placed VALUES (1, 0, x'', 1, 1);
"""
"""The file; and the names that are left of a merge, with the nodes that have several names."""

_PLACE: Final = """
INSERT INTO placed (directory, name, node, kind)
SELECT placed.number, name.name, name.node, name.kind
FROM placed CROSS JOIN name ON name.directory = placed.node
WHERE placed.number BETWEEN ? AND ? AND placed.kind = 1
ORDER BY placed.number, name.name
"""

_FILL: Final = """
INSERT INTO first
SELECT placed.node, MIN(placed.number), COUNT(*)
FROM placed CROSS JOIN linked ON linked.node = placed.node GROUP BY placed.node;

INSERT INTO child
SELECT directory, COUNT(*) FROM placed WHERE kind = 1 AND number > 1 GROUP BY directory;

INSERT INTO tree.name
SELECT directory, name, COALESCE(first.number, placed.number)
FROM placed LEFT JOIN first USING (node) WHERE placed.number > 1 ORDER BY placed.number;

INSERT INTO tree.entry
SELECT placed.number, mode, uid, gid, size, mtime_ns, major, minor,
  CASE kind WHEN 1 THEN 2 + COALESCE(directories, 0) ELSE COALESCE(links, 1) END,
  fault, layer, offset, target, xattrs, extents
FROM placed CROSS JOIN node ON node.number = placed.node
LEFT JOIN first USING (node) LEFT JOIN child ON child.directory = placed.number
WHERE first.number IS NULL OR first.number = placed.number ORDER BY placed.number;
"""

_COUNT: Final = """
INSERT INTO tree.total SELECT COUNT(*), TOTAL(CASE mode & ? WHEN ? THEN size END), ? FROM tree.entry
"""


def write(db: sqlite3.Connection, path: Path, unplaced: str) -> None:
    """Write the tree of a finished merge, which is in *db*, to a new file at *path*."""
    db.execute("COMMIT")
    db.execute("ATTACH DATABASE ? AS tree", (str(path),))
    for setting in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -8192"):
        db.execute(f"PRAGMA tree.{setting}")
    db.execute("BEGIN")
    for statement in _TABLES.split(";"):
        db.execute(statement)
    first = last = 1
    while first <= last:
        placed = db.execute(_PLACE, (first, last)).rowcount
        first, last = last + 1, last + placed
    for statement in _FILL.split(";"):
        db.execute(statement)
    db.execute(_COUNT, (stat.S_IFMT(0xFFFF), stat.S_IFREG, unplaced))
    db.execute("COMMIT")


@contextmanager
def errors(path: Path) -> Iterator[None]:
    """Translate the errors of SQLite and of the file at *path*."""
    try:
        yield
    except sqlite3.Error as exc:
        is_full = exc.sqlite_errorcode == sqlite3.SQLITE_FULL
        raise (StorageFull if is_full else StorageUnavailable)(f"{path}: {exc}") from None
    except OSError as exc:
        raise StorageUnavailable(f"{path}: {exc.strerror}") from None


def pack_xattrs(xattrs: Mapping[bytes, bytes]) -> bytes | None:
    """Return extended attributes as they are stored; None for no attributes."""
    return b"".join(
        _XATTR.pack(len(name), len(value)) + name + value for name, value in xattrs.items()
    ) or None  # fmt: skip


def unpack_xattrs(packed: bytes | None) -> dict[bytes, bytes]:
    """Return the extended attributes of an entry."""
    found: dict[bytes, bytes] = {}
    start = 0
    while packed and start < len(packed):
        name_size, size = _XATTR.unpack_from(packed, start)
        start += _XATTR.size
        end = start + name_size + size
        found[packed[start : start + name_size]] = packed[start + name_size : end]
        start = end
    return found


def pack_extents(extents: Extents | None) -> bytes | None:
    """Return the stored ranges of a sparse file as they are stored; None for another file."""
    if extents is None:
        return None
    numbers = [number for extent in extents for number in extent]
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def unpack_extents(packed: bytes) -> Extents:
    """Return the stored ranges of a sparse file."""
    return tuple(struct.iter_unpack("<QQ", packed))

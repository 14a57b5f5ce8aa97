"""Root filesystems of images: names, attributes, links and content of a merged tree."""

from __future__ import annotations

import sqlite3
import stat
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from blobfs.drivers.base import BytesReader, Closing, FileReader
from blobfs.errors import LayerInvalid, NotADirectory, NotAFile, NotFound
from blobfs.images import tree_file
from blobfs.images.readers import RangeReader, SparseReader

ROOT: Final = 1

_BATCH: Final = 500
"""Names in one statement."""

_MAX_SYMLINKS: Final = 40
"""Symlinks that Linux follows for one path: linux/namei.h."""

_MAX_STEPS: Final = 2**14
"""Names that are looked up for one path, with those in the targets of symlinks."""

_ENTRY: Final = """
SELECT number, mode, uid, gid, size, mtime_ns, major, minor, links,
  IFNULL(target, x''), IFNULL(fault, '')
FROM entry WHERE number = ?
"""

_NAMED: Final = """
SELECT number, mode, uid, gid, size, mtime_ns, major, minor, links,
  IFNULL(target, x''), IFNULL(fault, '')
FROM name JOIN entry USING (number) WHERE directory = ? AND name = ?
"""

_LISTED: Final = """
SELECT name, number, mode, uid, gid, size, mtime_ns, major, minor, links,
  IFNULL(target, x''), IFNULL(fault, '')
FROM name JOIN entry USING (number) WHERE directory = ? AND name BETWEEN ? AND ?
"""

_NAMES: Final = "SELECT name FROM name WHERE directory = ? AND name > ? ORDER BY name LIMIT ?"


class Entry(NamedTuple):
    """A file, directory, symlink or device.

    *links* are the names of a file, hard links; those of a directory are two, and one for each
    directory in it. *size* is that of a file's content, or of a symlink's *target*. *device* is the
    major and the minor number. *fault* says why the entry cannot be used; it is empty for others.
    """

    number: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    device: tuple[int, int]
    links: int
    target: bytes
    fault: str

    @property
    def is_directory(self) -> bool:
        """True for a directory."""
        return stat.S_ISDIR(self.mode)


class RootFilesystem(Closing):
    """The merged tree of an image, from a file of ``write_tree``.

    Entries have numbers, which are the same on every host; the root is ``ROOT``. *open_layer* opens
    the uncompressed archive of a layer, by its position. Thread-safe: SQLite serializes the calls.
    An entry with a fault is listed, and its use raises LayerInvalid.
    """

    def __init__(self, path: Path, open_layer: Callable[[int], FileReader]) -> None:
        self._path = path
        self._open_layer = open_layer
        with tree_file.errors(path):
            self._db = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro&immutable=1",
                uri=True,
                check_same_thread=False,
                isolation_level=None,
            )
            weakref.finalize(self, self._db.close)  # in a cycle with its statements

    def close(self) -> None:
        self._db.close()

    @property
    def totals(self) -> tuple[int, int]:
        """The number of entries, and the bytes in all files."""
        [(entries, size)] = self._rows("SELECT entries, bytes FROM total")
        return entries, int(size)

    @property
    def unplaced(self) -> str:
        """The number of members that have no place in the tree, and the first; empty for none."""
        [(text,)] = self._rows("SELECT unplaced FROM total")
        return str(text)

    def entry(self, number: int) -> Entry:
        """Return an entry; raises NotFound, LayerInvalid."""
        return _usable(self._rows(_ENTRY, number), f"entry {number}")

    def lookup(self, directory: int, name: bytes) -> Entry:
        """Return the entry of a name in a directory; raises NotFound, LayerInvalid."""
        return _usable(self._rows(_NAMED, directory, name), repr(name))

    def names(self, directory: int) -> Iterator[bytes]:
        """Yield the names in a directory, sorted, also those of entries with a fault."""
        last = b""
        while True:
            rows = self._rows(_NAMES, directory, last, _BATCH)
            yield from (name for (name,) in rows)
            if len(rows) < _BATCH:
                return
            last = rows[-1][0]

    def entries(self, directory: int, names: Iterable[bytes]) -> list[tuple[bytes, Entry]]:
        """Return the entries of *names*, also those with a fault; missing ones are left out.

        All names between the first and the last of a batch are read.
        """
        found: list[tuple[bytes, Entry]] = []
        wanted = iter(names)
        while batch := list(islice(wanted, _BATCH)):
            rows = self._rows(_LISTED, directory, min(batch), max(batch))
            entries = {name: _entry(row) for name, *row in rows}
            found += [(name, entries[name]) for name in batch if name in entries]
        return found

    def xattrs(self, number: int) -> Mapping[bytes, bytes]:
        """Return the extended attributes of an entry."""
        self.entry(number)
        [(packed,)] = self._rows("SELECT xattrs FROM entry WHERE number = ?", number)
        return tree_file.unpack_xattrs(packed)

    def origin(self, number: int) -> tuple[int, int]:
        """Return the layer that an entry is of, by its position, and its place in the archive."""
        [(layer, offset)] = self._rows("SELECT layer, offset FROM entry WHERE number = ?", number)
        return layer, offset

    def open(self, number: int) -> FileReader:
        """Open the content of a file; raises NotAFile, and the errors of *open_layer*."""
        entry = self.entry(number)
        if not stat.S_ISREG(entry.mode):
            raise NotAFile(f"entry {number} of the image is no regular file")
        if not entry.size:
            return BytesReader(b"")
        query = "SELECT layer, offset, extents FROM entry WHERE number = ?"
        [(layer, offset, packed)] = self._rows(query, number)
        if packed is None:
            return RangeReader(self._open_layer(layer), offset, entry.size)
        extents = tree_file.unpack_extents(packed)
        stored = sum(length for _, length in extents)
        return SparseReader(
            RangeReader(self._open_layer(layer), offset, stored), entry.size, extents
        )

    def resolve(self, path: bytes) -> Entry:
        """Return the entry at *path*; symlinks, also the last one, stay in the root.

        Raises NotFound, NotADirectory, LayerInvalid.
        """
        entries = [self.entry(ROOT)]
        pending = path.split(b"/")[::-1]
        symlinks = 0
        for _ in range(_MAX_STEPS):
            if not pending:
                return entries[-1]
            target = self._step(entries, pending.pop())
            if target:
                symlinks += 1
                pending += target.split(b"/")[::-1]
            if target.startswith(b"/"):
                del entries[1:]
            if symlinks > _MAX_SYMLINKS:
                break
        raise NotFound(f"{path!r} leads through too many symlinks")

    def _step(self, entries: list[Entry], name: bytes) -> bytes:
        """Go from the last of *entries* to *name*; returns the target if it is a symlink."""
        if not entries[-1].is_directory:
            raise NotADirectory(f"there is no {name!r} in a file")
        if name == b"..":
            del entries[max(1, len(entries) - 1) :]
        elif name not in (b"", b"."):
            entry = self.lookup(entries[-1].number, name)
            if stat.S_ISLNK(entry.mode):
                return entry.target
            entries.append(entry)
        return b""

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with tree_file.errors(self._path):
            return self._db.execute(query, values).fetchall()


def _entry(row: Sequence[Any]) -> Entry:
    number, mode, uid, gid, size, mtime_ns, major, minor, links, target, fault = row
    return Entry(number, mode, uid, gid, size, mtime_ns, (major, minor), links, target, fault)


def _usable(rows: Sequence[Sequence[Any]], name: str) -> Entry:
    if not rows:
        raise NotFound(f"{name} is not in the image")
    entry = _entry(rows[0])
    if entry.fault:
        raise LayerInvalid(f"{name} of the image cannot be shown: {entry.fault}")
    return entry

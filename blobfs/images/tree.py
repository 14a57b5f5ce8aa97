"""Trees: the members of all layers of an image, merged into one root filesystem.

``umoci unpack`` as root is the model: oci/layer/tar_extract.go of its version 0.4.7. ``Merge`` does
with nodes in SQLite what umoci does with files; ``tree_names`` has the names, and ``tree_file`` the
file of the result.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from blobfs.errors import LayerInvalid
from blobfs.images import tree_file
from blobfs.images.layer_index import LayerIndex
from blobfs.images.members import Member
from blobfs.images.readers import Ask
from blobfs.images.tree_names import (
    DIRECTORY,
    NAME_MAX,
    OTHER,
    ROOT,
    SYMLINK,
    Name,
    NameTable,
    Unplaceable,
    components,
)

_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"

_PARENT_MODE: Final = stat.S_IFDIR | 0o755
"""The mode of a directory that no layer names."""

_MAX_SIZE: Final = 2**31
"""The limit of names and attributes in all layers: one layer may be in an image many times."""

_NO_OWNER: Final = 2**32 - 1
"""The number by which chown(2) changes no owner."""

NODES: Final = """
CREATE TABLE node (
  number INTEGER PRIMARY KEY, mode INTEGER, uid INTEGER, gid INTEGER, size INTEGER,
  mtime_ns INTEGER, major INTEGER, minor INTEGER, layer INTEGER, offset INTEGER,
  target BLOB, xattrs BLOB, extents BLOB, fault TEXT
);
CREATE TABLE linked (node INTEGER PRIMARY KEY);
"""
"""All nodes, also those that have lost their last name; those that got a second name."""


def write_tree(path: Path, layers: Iterable[Iterable[Member]], created_ns: int) -> None:
    """Merge the members of *layers*, from the lowest to the highest, into the file at *path*.

    Directories that no layer names have the time *created_ns*. The file ``<path>.merge`` is used
    meanwhile. Raises StorageFull, StorageUnavailable, and the errors of *layers*.
    """
    path.unlink(missing_ok=True)
    with tree_file.errors(path), closing(_connected(path.with_name(f"{path.name}.merge"))) as db:
        merge = Merge(db, created_ns)
        for number, members in enumerate(layers):
            merge.add_layer(number, members)
        tree_file.write(db, path, merge.unplaced)


def merge_indexes(ask: Ask, path: Path, created_ns: int) -> None:
    """Merge layers; *ask* returns the path of the next index, or nothing after the last one.

    See ``write_tree``.
    """
    indexes = iter(partial(ask, 0, 0), b"")
    layers = (LayerIndex(Path(os.fsdecode(index))).members() for index in indexes)
    write_tree(path, layers, created_ns)


def _connected(path: Path) -> sqlite3.Connection:
    """Create a database that vanishes with the connection."""
    path.unlink(missing_ok=True)
    db = sqlite3.connect(path, isolation_level=None)
    for setting in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -16384"):
        db.execute(f"PRAGMA {setting}")
    db.executescript(NODES)
    path.unlink()
    return db


class Merge:
    """The tree while layers are added to it. Not thread-safe.

    *unplaced* says which members have no place in it.
    """

    def __init__(self, db: sqlite3.Connection, created_ns: int) -> None:
        self._db = db
        self._names = NameTable(db)
        self._created_ns = created_ns
        self._layer = 0
        self._last = 0
        self._size = 0
        self._unplaced = 0
        self._first_unplaced = ""
        db.execute("BEGIN")
        self._insert_node(Member(b"", _PARENT_MODE, mtime_ns=created_ns))

    @property
    def unplaced(self) -> str:
        """The number of members that have no place, and the first of them; empty for none."""
        if not self._unplaced:
            return ""
        return f"members without a place: {self._unplaced}; the first is {self._first_unplaced}"

    def add_layer(self, number: int, members: Iterable[Member]) -> None:
        """Add a layer on top of those before it; raises LayerInvalid if they are too large."""
        self._layer = number
        self._names.begin_layer(number)
        for member in members:
            self._size += member.stored_size
            if self._size > _MAX_SIZE:
                raise LayerInvalid(f"the names of the image have more than {_MAX_SIZE} bytes")
            try:
                self._add(member)
            except Unplaceable as exc:
                self._unplaced += 1
                if self._unplaced == 1:
                    name = member.path[:NAME_MAX]
                    self._first_unplaced = f"{name!r} of layer {number + 1}, because {exc}"

    def _add(self, member: Member) -> None:
        path = components(member.path)
        if not path:
            self._set_root(member)
        elif path[-1].startswith(_WHITEOUT):
            self._white_out(path[:-1], path[-1])
        else:
            directory = self._names.enter(path[:-1], self._create_parent)
            self._place(directory, path[-1], member)

    def _set_root(self, member: Member) -> None:
        if not member.is_directory or member.fault:
            raise Unplaceable(f"the root is a directory: {member.fault or 'it is none'}")
        self._update_node(ROOT, member)

    def _white_out(self, parents: list[bytes], name: bytes) -> None:
        """Remove what lower layers have, and keep what this layer has."""
        target = name.removeprefix(_WHITEOUT)
        if target in (b"", b".", b".."):
            raise Unplaceable("it is a whiteout of no name")
        directory = self._names.find_directory(parents)
        if directory is None:
            return
        if name == _OPAQUE:
            self._names.clear(directory)
        elif (found := self._names.find(directory, target)) is None:
            return
        elif found.layer != self._layer:
            self._names.remove(directory, target, found)
        elif found.kind == DIRECTORY:
            self._names.clear(found.node)

    def _place(self, directory: int, name: bytes, member: Member) -> None:
        if member.is_hard_link and not member.fault:
            self._link(directory, name, member)
            return
        kind = _kind(member)
        if not self._names.add(directory, name, self._last + 1, kind):
            found = self._names.get(directory, name)
            if found.kind == kind == DIRECTORY:
                self._names.touch(directory, name, found)
                self._update_node(found.node, member)
                return
            self._names.remove(directory, name, found)
            self._names.add(directory, name, self._last + 1, kind)
        self._insert_node(member)

    def _link(self, directory: int, name: bytes, member: Member) -> None:
        """Give a node of a lower layer, or of this one, another name."""
        found = self._names.find(directory, name)
        if found is not None:
            is_itself = self._link_place(member) == (directory, name)
            if is_itself and found.kind != DIRECTORY:
                self._names.touch(directory, name, found)
                return
            self._names.remove(directory, name, found)
        target = self._link_target(member)
        if target is None or target.kind == DIRECTORY:
            what = "no file" if target is None else "a directory"
            fault = f"it is a hard link to {member.link[:NAME_MAX]!r}, which is {what}"
            self._place(directory, name, replace(member, fault=fault))
            return
        self._names.add(directory, name, target.node, target.kind)
        self._db.execute("INSERT OR IGNORE INTO linked VALUES (?)", (target.node,))

    def _link_place(self, member: Member) -> tuple[int | None, bytes]:
        """Return the directory of a hard link's target, and its name there."""
        try:
            *parents, name = components(member.link) or [b""]
            return self._names.find_directory(parents), name
        except Unplaceable:
            return None, b""

    def _link_target(self, member: Member) -> Name | None:
        directory, name = self._link_place(member)
        if directory is None or name:
            return None if directory is None else self._names.find(directory, name)
        return Name(ROOT, self._layer, DIRECTORY)

    def _create_parent(self, directory: int, name: bytes) -> int:
        """Create a directory that no layer names, as mkdir(2) does, and return its node."""
        query = "SELECT mode, gid FROM node WHERE number = ?"
        mode, gid = self._db.execute(query, (directory,)).fetchone()
        inherited = mode & stat.S_ISGID
        self._names.add(directory, name, self._last + 1, DIRECTORY)
        return self._insert_node(
            Member(b"", _PARENT_MODE | inherited, 0, gid if inherited else 0, 0, self._created_ns)
        )

    def _insert_node(self, member: Member) -> int:
        """Insert the next node, and return its number."""
        self._last += 1
        is_symlink = stat.S_ISLNK(member.mode)
        self._db.execute(
            "INSERT INTO node VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self._last,
                member.mode | 0o777 if is_symlink else member.mode,
                _owner(member.uid),
                _owner(member.gid),
                len(member.link) if is_symlink else member.size,
                member.mtime_ns,
                *member.device,
                self._layer,
                member.offset,
                member.link if is_symlink else None,
                tree_file.pack_xattrs(member.xattrs),
                tree_file.pack_extents(member.extents),
                member.fault or None,
            ),
        )
        return self._last

    def _update_node(self, node: int, member: Member) -> None:
        """Replace the attributes of a directory."""
        self._db.execute(
            "UPDATE node SET layer = ?, mode = ?, uid = ?, gid = ?, mtime_ns = ?, xattrs = ?"
            " WHERE number = ?",
            (
                self._layer,
                member.mode,
                _owner(member.uid),
                _owner(member.gid),
                member.mtime_ns,
                tree_file.pack_xattrs(member.xattrs),
                node,
            ),
        )


def _kind(member: Member) -> int:
    if member.fault:
        return OTHER
    if member.is_directory:
        return DIRECTORY
    return SYMLINK if stat.S_ISLNK(member.mode) else OTHER


def _owner(number: int) -> int:
    return 0 if number == _NO_OWNER else number

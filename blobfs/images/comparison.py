"""The differences between the root filesystems of two images.

Both trees are walked side by side, each directory by name. Two files that are one member of one
layer are the same. All others are compared by their attributes and, if these do not show it, by
their bytes. The times of directories do not count: they change with each file that is added.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from operator import attrgetter, itemgetter
from typing import Final

from blobfs.images.rootfs import ROOT, Entry, RootFilesystem

_COMPARED: Final = 4096
"""Names whose contents are compared in the order of the archives."""

_BATCH: Final = 500
_CHUNK: Final = 2**20


class Change(StrEnum):
    """The kind of a difference."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


class Aspect(StrEnum):
    """An attribute in which a file has changed."""

    TYPE = "type"
    CONTENT = "content"
    TARGET = "target"
    DEVICE = "device"
    MODE = "mode"
    OWNER = "owner"
    TIME = "time"
    XATTRS = "xattrs"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Side:
    """One of the images: its files, and its layers; equal ones have the same content."""

    files: RootFilesystem
    layers: Sequence[Hashable]

    def layer(self, entry: Entry) -> int:
        """Return the position of the layer that has *entry*."""
        return self.files.origin(entry.number)[0]

    def member(self, entry: Entry) -> tuple[Hashable, int]:
        """Return the layer and the place of the member that *entry* is."""
        layer, offset = self.files.origin(entry.number)
        return self.layers[layer], offset

    def children(self, directory: Entry | None) -> Iterator[tuple[bytes, Entry]]:
        """Yield the entries of a directory by name; none for another entry."""
        if directory is None or directory.fault or not directory.is_directory:
            return
        names = self.files.names(directory.number)
        while batch := list(islice(names, _BATCH)):
            yield from self.files.entries(directory.number, batch)


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference at *path*.

    *entry* and *layer*, a position, are those of the new image; of a removed file those of the old
    one. *aspects* are those of a changed file.
    """

    change: Change
    path: bytes
    entry: Entry
    layer: int
    aspects: tuple[Aspect, ...] = ()


_Pair = tuple[bytes, Entry | None, Entry | None]


class Comparison:
    """Compares the files of two images, but for the *ignored* aspects."""

    def __init__(self, old: Side, new: Side, ignored: Collection[Aspect] = ()) -> None:
        self._old = old
        self._new = new
        self._ignored = ignored
        self._with_same_content: set[tuple[int, int]] = set()

    def differences(self) -> Iterator[Difference]:
        """Yield the differences, a directory before what is in it.

        Raises Corrupt and StorageUnavailable if the bytes of a file cannot be read.
        """
        pairs = self._all_pairs()
        while batch := list(islice(pairs, _COMPARED)):
            self._compare_contents(batch)
            for pair in batch:
                yield from self._difference(*pair)

    def _compare_contents(self, pairs: Sequence[_Pair]) -> None:
        """Compare the contents of files in the order of the archives, so that these are read once.

        A layer can have its files in another order than that of their paths.
        """
        self._with_same_content.clear()
        files = [
            (self._new.files.origin(new.number), old, new)
            for _, old, new in pairs
            if old is not None and new is not None and self._needs_content(old, new)
        ]
        for _, old, new in sorted(files, key=itemgetter(0)):
            if self._has_same_content(old, new):
                self._with_same_content.add((old.number, new.number))

    def _needs_content(self, old: Entry, new: Entry) -> bool:
        is_file = stat.S_ISREG(old.mode) and stat.S_ISREG(new.mode)
        is_usable = not old.fault and not new.fault
        return is_file and is_usable and self._old.member(old) != self._new.member(new)

    def _all_pairs(self) -> Iterator[_Pair]:
        """Yield all names in both images, with their entries, a directory before what is in it."""
        roots = (b"/", self._old.files.entry(ROOT), self._new.files.entry(ROOT))
        pending: list[Iterator[_Pair]] = [iter([roots])]
        while pending:
            pair = next(pending[-1], None)
            if pair is None:
                pending.pop()
                continue
            yield pair
            pending.append(self._pairs(*pair))

    def _pairs(self, path: bytes, old: Entry | None, new: Entry | None) -> Iterator[_Pair]:
        """Yield the names in two directories, with their entries."""
        ours, theirs = self._old.children(old), self._new.children(new)
        left, right = next(ours, None), next(theirs, None)
        parent = path.rstrip(b"/") + b"/"
        while left is not None or right is not None:
            name = min(each[0] for each in (left, right) if each is not None)
            first = second = None
            if left is not None and left[0] == name:
                first, left = left[1], next(ours, None)
            if right is not None and right[0] == name:
                second, right = right[1], next(theirs, None)
            yield parent + name, first, second

    def _difference(
        self, path: bytes, old: Entry | None, new: Entry | None
    ) -> Iterator[Difference]:
        if new is None:
            if old is not None:
                yield Difference(Change.REMOVED, path, old, self._old.layer(old))
        elif old is None:
            yield Difference(Change.ADDED, path, new, self._new.layer(new))
        else:
            aspects = tuple(
                aspect for aspect in self._aspects(old, new) if aspect not in self._ignored
            )
            if aspects:
                yield Difference(Change.CHANGED, path, new, self._new.layer(new), aspects)

    def _aspects(self, old: Entry, new: Entry) -> list[Aspect]:
        """Return what differs between two entries."""
        if old.fault or new.fault:
            return [Aspect.FAULT] if old.fault != new.fault else []
        if stat.S_IFMT(old.mode) != stat.S_IFMT(new.mode):
            return [Aspect.TYPE]
        found = [aspect for aspect, of in _ATTRIBUTES.items() if of(old) != of(new)]
        if new.is_directory or self._old.member(old) != self._new.member(new):
            found += self._stored_aspects(old, new)
        return found

    def _stored_aspects(self, old: Entry, new: Entry) -> Iterator[Aspect]:
        """Yield what differs between two entries beside their attributes of stat(2)."""
        left, right = self._old.files, self._new.files
        if old.target != new.target:
            yield Aspect.TARGET
        is_file = stat.S_ISREG(new.mode)
        if is_file and (old.number, new.number) not in self._with_same_content:
            yield Aspect.CONTENT
        if left.xattrs(old.number) != right.xattrs(new.number):
            yield Aspect.XATTRS

    def _has_same_content(self, old: Entry, new: Entry) -> bool:
        if Aspect.CONTENT in self._ignored or old.size != new.size:
            return old.size == new.size
        with self._old.files.open(old.number) as left, self._new.files.open(new.number) as right:
            return all(
                left.read_at(start, _CHUNK) == right.read_at(start, _CHUNK)
                for start in range(0, new.size, _CHUNK)
            )


def _mode(entry: Entry) -> int:
    return stat.S_IMODE(entry.mode)


def _owner(entry: Entry) -> tuple[int, int]:
    return entry.uid, entry.gid


def _time(entry: Entry) -> int:
    return 0 if entry.is_directory else entry.mtime_ns


_ATTRIBUTES: Final[Mapping[Aspect, Callable[[Entry], object]]] = {
    Aspect.DEVICE: attrgetter("device"),
    Aspect.MODE: _mode,
    Aspect.OWNER: _owner,
    Aspect.TIME: _time,
}
"""Functions that return the attribute of an entry."""

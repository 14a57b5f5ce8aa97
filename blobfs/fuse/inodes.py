"""The inodes that the kernel holds, and their nodes.

The kernel may hold millions of files of one image. Of those only the latest are in the table; the
others are made again from their numbers. Used on the event loop only, so it takes no lock.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Final, TypeVar

from pyfuse3 import ROOT_INODE, EntryAttributes, InodeT

from blobfs.concurrency import TakesLong, waiting
from blobfs.errors import (
    BlobfsError,
    NotADirectory,
    NotAFile,
    NotASymlink,
    NotPermitted,
    ReadOnly,
    Stale,
)
from blobfs.fuse.attributes import AttributeMapper
from blobfs.vfs.nodes import (
    Attr,
    BrokenNode,
    Child,
    Directory,
    Family,
    File,
    Kind,
    Lifetime,
    MutableDirectory,
    Node,
    Symlink,
)

N = TypeVar("N", bound=Node)

_NOT_DIRECTORY: Final = 1 << 62
"""A bit of all numbers but those of directories: no file looks like a loop in the tree."""

_MAX_OF_FAMILIES: Final = 16_384
"""Inodes of nodes with a family in the table."""

_MAX_FAMILY: Final = 2**32
"""The limit of the numbers in a family."""

_REFUSALS: Final[Mapping[type[Node], tuple[type[BlobfsError], str]]] = {
    Directory: (NotADirectory, "not a directory:"),
    MutableDirectory: (NotPermitted, "nothing can be changed in"),
    File: (NotAFile, "not a file:"),
    Symlink: (NotASymlink, "not a symlink:"),
}


class Inode:
    """An inode that the kernel holds, and the last reply about it."""

    __slots__ = (
        "attr", "children", "entry", "lookups", "names", "names_at", "names_until", "node",
        "number", "parent", "parents",
    )  # fmt: skip

    def __init__(self, number: InodeT, node: Node, attr: Attr, entry: EntryAttributes) -> None:
        self.number = number
        self.node = node
        self.attr = attr
        self.entry = entry
        self.lookups = 0
        self.parent = ROOT_INODE  # of a directory: its ".."
        # Of a directory: its content-addressed children, and its names as last listed.
        self.children: dict[str, HeldChild] = {}
        self.names: list[str] = []
        self.names_at = self.names_until = 0.0
        # The entries in ``children`` of other inodes; numbers, as a parent may be forgotten first.
        self.parents: list[tuple[InodeT, str]] = []


class HeldChild:
    """A content-addressed child that the kernel holds; times are monotonic.

    Until *known_until* the kernel may use it without asking, and until *listed_until* a
    listing may show it without a check that it still exists.
    """

    __slots__ = ("inode", "known_until", "listed_until")

    def __init__(self, inode: Inode, known_until: float, listed_until: float) -> None:
        self.inode = inode
        self.known_until = known_until
        self.listed_until = listed_until


class _Dropped:
    """The inodes of a family that the kernel holds, without those in the table.

    *base* is the number of the family's node 0. *lookups* are those of all of them.
    """

    __slots__ = ("base", "family", "lookups")

    def __init__(self, family: Family) -> None:
        self.family = family
        self.base = _place_of(f"{family.key}//0")
        self.lookups = 0

    def position(self, number: int) -> int:
        """Return the number in the family of the node with the inode *number*."""
        return (number - self.base) % _NOT_DIRECTORY


class InodeTable:
    """Inodes by number, with the kernel's lookup counts.

    A number is a hash of the node's key, so it is the same after a remount and on another host.
    If two nodes have the same hash, the later one gets the next free number. Of nodes with a family
    the table has the latest *limit*, about 1.6 KB each.
    """

    def __init__(self, root: Node, mapper: AttributeMapper, limit: int = _MAX_OF_FAMILIES) -> None:
        self._limit = limit
        self._of_families: OrderedDict[InodeT, None] = OrderedDict()
        self._dropped: dict[str, _Dropped] = {}
        self._mapper = mapper
        self.timeouts = mapper.timeouts
        attr = Attr(Kind.DIRECTORY)
        self._root = Inode(ROOT_INODE, root, attr, mapper.entry(ROOT_INODE, attr))
        self._inodes: dict[InodeT, Inode] = {ROOT_INODE: self._root}
        self._changed_at = 0.0  # monotonic

    def __len__(self) -> int:
        """Return the number of inodes; each lookup of a dropped inode counts as one."""
        return len(self._inodes) + sum(each.lookups for each in self._dropped.values())

    def __getitem__(self, number: InodeT) -> Inode:
        """Return the inode *number*, which is made again if it was dropped."""
        return self._inodes.get(number) or self._remade(number)

    async def held(
        self, number: InodeT, run: Callable[[Callable[[], object]], Awaitable[object]]
    ) -> Inode:
        """Return the inode *number*; if it was dropped, *run* opens its family before."""
        if number not in self._inodes and (owner := self._owner(number)) is not None:
            await run(owner.family.open)
        return self[number]

    def get(self, number: InodeT) -> Inode | None:
        """Return the inode *number*; None if the table does not have it."""
        return self._inodes.get(number)

    def remember(self, parent: Inode, child: Child) -> Inode:
        """Return the child's inode, with one more lookup, which ``forget`` subtracts later."""
        node = child.node
        number = self._number(node.key, 0 if child.attr.kind is Kind.DIRECTORY else _NOT_DIRECTORY)
        inode = self._inodes.get(number)
        if inode is None:
            entry = self._mapper.entry(number, child.attr)
            inode = self._add(Inode(number, child.node, child.attr, entry))
        else:
            if not isinstance(child.node, BrokenNode):  # it may be broken only briefly
                inode.node = inode.node.merged_with(child.node)
            self.refresh(inode, child.attr)
        inode.parent = parent.number
        if child.attr.lifetime is Lifetime.CONTENT:
            if child.name not in parent.children:
                inode.parents.append((parent.number, child.name))
            now, timeouts = time.monotonic(), self.timeouts
            parent.children[child.name] = HeldChild(
                inode, now + timeouts.entry_s, now + timeouts.name_s
            )
        inode.lookups += 1
        return inode

    def refresh(self, inode: Inode, attr: Attr) -> EntryAttributes:
        """Return the reply for *inode*, whose attributes are now *attr*."""
        if attr != inode.attr:
            inode.attr = attr
            inode.entry = self._mapper.entry(inode.number, attr)
        return inode.entry

    def held_child(self, parent: Inode, name: str, now: float) -> HeldChild | None:
        """Return a child that the kernel may use at *now* (monotonic) without a request."""
        held = parent.children.get(name)
        return held if held is not None and held.known_until > now else None

    def find_file(self, key: str) -> Inode | None:
        """Return the inode of the file or symlink *key*; None if the table does not have it."""
        return self._inodes.get(self._number(key, _NOT_DIRECTORY))

    def changed(self) -> None:
        """Invalidate the names of all directories after a change through this mount."""
        self._changed_at = time.monotonic()

    def names_are_stale(self, inode: Inode) -> bool:
        """True if the names of the last listing of a directory are out of date."""
        if isinstance(inode.node, Directory) and inode.node.never_changes and inode.names_until:
            return False
        return time.monotonic() >= inode.names_until or inode.names_at <= self._changed_at

    def drop_child(self, parent: Inode, name: str) -> None:
        """Discard a child whose name was removed or has another meaning now."""
        parent.children.pop(name, None)
        self.changed()

    def forget(self, number: InodeT, lookups: int) -> None:
        """Subtract *lookups*; at zero the kernel does not hold the inode any more."""
        inode = self._inodes.get(number)
        if inode is self._root:
            return
        if inode is not None:
            known = min(inode.lookups, lookups)
            inode.lookups -= known
            lookups -= known
            if not inode.lookups:
                self._remove(inode)
        owner = self._owner(number) if lookups else None
        if owner is not None:
            owner.lookups -= lookups
            if owner.lookups <= 0:
                del self._dropped[owner.family.key]

    def _remove(self, inode: Inode) -> None:
        del self._inodes[inode.number]
        self._of_families.pop(inode.number, None)
        for parent_number, name in inode.parents:
            parent = self._inodes.get(parent_number)
            if parent is not None:
                parent.children.pop(name, None)

    def _add(self, inode: Inode) -> Inode:
        """Add an inode; drop the oldest inodes of families above the limit."""
        self._inodes[inode.number] = inode
        key = inode.node.key
        if inode.node.family is None or inode.number != _NOT_DIRECTORY | _place_of(key):
            return inode
        self._of_families[inode.number] = None
        if len(self._of_families) > self._limit:
            self._drop(self._inodes[next(iter(self._of_families))])
        return inode

    def _drop(self, inode: Inode) -> None:
        """Remove an inode that the kernel holds."""
        self._remove(inode)
        family = inode.node.family
        if family is not None and inode.lookups:
            dropped = self._dropped.setdefault(family.key, _Dropped(family))
            dropped.lookups += inode.lookups
        inode.lookups = 0  # an open listing may have it

    def _owner(self, number: int) -> _Dropped | None:
        """Return the family that *number* is of, if inodes of it were dropped."""
        if not self._dropped or not number & _NOT_DIRECTORY:
            return None
        nearest = min(self._dropped.values(), key=lambda each: each.position(number))
        return nearest if nearest.position(number) < _MAX_FAMILY else None

    def _remade(self, number: InodeT) -> Inode:
        """Make an inode that was dropped again; raises the errors of its node.

        Raises Stale if that takes long: the kernel then looks its name up, which may take long.
        """
        owner = self._owner(number)
        if owner is None:
            raise KeyError(number)
        try:
            with waiting:
                node = owner.family.node(owner.position(number))
        except TakesLong:
            raise Stale(f"{owner.family.key} is not open any more") from None
        attr = node.attr()
        return self._add(Inode(number, node, attr, self._mapper.entry(number, attr)))

    def node(self, number: InodeT, kind: type[N]) -> N:
        """Return the node of an inode; raises the error of ``_REFUSALS`` if it is no *kind*.

        A broken node raises the error of its lookup.
        """
        node = self[number].node
        if isinstance(node, kind):
            return node
        if isinstance(node, BrokenNode):
            raise node.failure()
        error, text = _REFUSALS[kind]
        if kind is MutableDirectory and node.is_read_only:
            error = ReadOnly
        raise error(f"{text} {node.key}")

    def _number(self, key: str, kind: int) -> InodeT:
        number = _place_of(key)
        while True:
            found = self._inodes.get(InodeT(kind | number))
            owner = self._owner(kind | number) if found is None else None
            if owner is not None and not key.startswith(f"{owner.family.key}//"):
                number = (owner.base + _MAX_FAMILY) % _NOT_DIRECTORY
            elif number > ROOT_INODE and (found is None or found.node.key == key):
                return InodeT(kind | number)
            else:
                number = (number + 1) % _NOT_DIRECTORY


def _place_of(key: str) -> int:
    return hashed(key) & (_NOT_DIRECTORY - 1)


def hashed(key: str) -> int:
    """Return a hash of *key* with 64 bits, the same on every host.

    Those of ``<key>//<number>`` are in the order of the numbers: programs that sort the names of a
    large directory by inode, such as find and grep, so read a layer from its start to its end.
    """
    place, slashes, number = key.partition("//")  # no path has two slashes
    position = int(number) if slashes and number.isdecimal() else 0
    return _hash_of(place) + position & 2**64 - 1


@lru_cache(256)
def _hash_of(place: str) -> int:
    digest = hashlib.blake2b(place.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big")

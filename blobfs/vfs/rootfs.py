"""Nodes of ``rootfs``: the files of an image, with the attributes that the image has stored.

The key of a node is the path of ``rootfs`` with the number of the entry, so that hard links are one
inode, and the inode numbers are the same after a remount and on another host.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from blobfs.concurrency import refuse_to_take_long
from blobfs.digest import Digest
from blobfs.drivers.base import FileReader
from blobfs.errors import LayerInvalid
from blobfs.images.image import Image
from blobfs.images.images import Images
from blobfs.images.rootfs import ROOT, Entry, RootFilesystem
from blobfs.storage.repository import Repository
from blobfs.vfs.nodes import (
    Attr,
    BrokenNode,
    Child,
    Directory,
    File,
    Kind,
    Lifetime,
    Node,
    Stored,
    Symlink,
)

_KINDS: Final = {
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFREG: Kind.FILE,
    stat.S_IFLNK: Kind.SYMLINK,
}
"""Kinds by the type of a mode; all others are SPECIAL."""


@dataclass(frozen=True, slots=True)
class Root:
    """A root filesystem in the tree, at *path*: the family of its files and symlinks.

    *open* returns it, and opens it if it is not open any more. *flatten_owners* gives its files
    to the owner of the mount.
    """

    path: str
    open: Callable[[], RootFilesystem]
    flatten_owners: bool

    @property
    def files(self) -> RootFilesystem:
        """The files; on the event loop it may raise TakesLong."""
        return self.open()

    @property
    def key(self) -> str:
        """The part of the nodes' keys before their numbers."""
        return self.path

    def node(self, number: int) -> Node:
        """Make the node of an entry; raises NotFound, LayerInvalid, StorageUnavailable."""
        return _node(self, self.files.entry(number))


@dataclass(frozen=True, slots=True)
class RootNode(Node):
    """An entry of a root filesystem: a device, a pipe or a socket, or the base of all others."""

    is_read_only = True
    asks_storage = False  # the index answers, if it is open
    has_stored_xattrs = True

    root: Root
    entry: Entry

    @property
    def key(self) -> str:
        return f"{self.root.path}//{self.entry.number}"

    @property
    def family(self) -> Root | None:
        return self.root

    def attr(self) -> Attr:
        entry = self.entry
        owner = None if self.root.flatten_owners else (entry.uid, entry.gid)
        return Attr(
            _KINDS.get(stat.S_IFMT(entry.mode), Kind.SPECIAL),
            entry.size,
            entry.mtime_ns,
            entry.links,
            Lifetime.CONTENT,
            stored=Stored(entry.mode, owner, entry.device),
        )

    def stored_xattrs(self) -> Mapping[bytes, bytes]:
        return self.root.files.xattrs(self.entry.number)


@dataclass(frozen=True, slots=True)
class RootSymlink(RootNode, Symlink):
    """A symlink of a root filesystem."""

    def target(self) -> str:
        return os.fsdecode(self.entry.target)


@dataclass(frozen=True, slots=True)
class RootFile(RootNode, File):
    """A file of a root filesystem. A read of bytes not decompressed yet raises TakesLong."""

    asks_storage = True
    never_changes = True

    def open(self) -> FileReader:
        return self.root.files.open(self.entry.number)


@dataclass(frozen=True, slots=True)
class RootDirectory(RootNode, Directory):
    """A directory of a root filesystem."""

    never_changes = True

    @property
    def family(self) -> None:
        return None

    def lookup(self, name: str) -> Node:
        return _node(self.root, self.root.files.lookup(self.entry.number, os.fsencode(name)))

    def names(self) -> Iterator[str]:
        return map(os.fsdecode, self.root.files.names(self.entry.number))

    def children(self, names: Iterable[str]) -> list[Child]:
        wanted = {os.fsencode(name): name for name in names}
        return [
            Child.of(wanted[name], _listed(self.root, self.entry, name, entry))
            for name, entry in self.root.files.entries(self.entry.number, wanted)
        ]


@dataclass(frozen=True, slots=True)
class RootfsDirectory(Directory):
    """``rootfs`` itself. Before its index is made its attributes are those of any directory."""

    is_read_only = True
    has_stored_xattrs = True
    takes_long = True
    never_changes = True

    path: str
    images: Images
    repository: Repository
    image: Image
    mtime_ns: int
    flatten_owners: bool

    @property
    def key(self) -> str:
        return f"{self.path}//{ROOT}"

    @property
    def is_ready(self) -> bool:
        return self.images.opened(self.image.tree) is not None

    def prepare(self) -> None:
        self.images.rootfs(self.repository, self.image)

    def attr(self) -> Attr:
        if self.is_ready:
            return self._directory().attr()
        return Attr(Kind.DIRECTORY, mtime_ns=self.mtime_ns, lifetime=Lifetime.MOMENT)

    def lookup(self, name: str) -> Node:
        return self._directory().lookup(name)

    def names(self) -> Iterator[str]:
        return self._directory().names()

    def children(self, names: Iterable[str]) -> list[Child]:
        return self._directory().children(names)

    def stored_xattrs(self) -> Mapping[bytes, bytes]:
        if self.is_ready:
            return self._directory().stored_xattrs()
        reason = self.images.failure(self.image)
        return {b"user.blobfs.state": os.fsencode(reason)} if reason else {}

    def _directory(self) -> RootDirectory:
        root = Root(self.path, partial(self._reopened, self.image.tree), self.flatten_owners)
        return RootDirectory(root, self.images.rootfs(self.repository, self.image).entry(ROOT))

    def _reopened(self, tree: Digest) -> RootFilesystem:
        """Return the root filesystem for its nodes, which the kernel may hold for days."""
        found = self.images.opened(tree)
        if found is None:
            refuse_to_take_long()
            found = self.images.rootfs(self.repository, self.image)
        return found


def _node(root: Root, entry: Entry) -> Node:
    """Return the node of an entry; raises LayerInvalid for one that cannot be shown."""
    if entry.fault:
        raise LayerInvalid(f"{root.path}: {entry.fault}")
    match stat.S_IFMT(entry.mode):
        case stat.S_IFDIR:
            return RootDirectory(root, entry)
        case stat.S_IFREG:
            return RootFile(root, entry)
        case stat.S_IFLNK:
            return RootSymlink(root, entry)
    return RootNode(root, entry)


def _listed(root: Root, directory: Entry, name: bytes, entry: Entry) -> Node:
    try:
        return _node(root, entry)
    except LayerInvalid as exc:
        path = f"{root.path}/{directory.number}/{os.fsdecode(name)}"
        kind = _KINDS.get(stat.S_IFMT(entry.mode), Kind.FILE)
        return BrokenNode.of(path, kind, exc)

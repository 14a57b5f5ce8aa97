"""Contracts of nodes: directories, files and symlinks; and the nodes without storage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, NamedTuple, Protocol, Self

from blobfs.drivers.base import FileReader
from blobfs.errors import (
    BlobfsError,
    CrossesDirectories,
    NotADirectory,
    NotEmpty,
    NotFound,
    NotPermitted,
)


class Kind(Enum):
    """Type of a node."""

    DIRECTORY = "directory"
    FILE = "file"
    SYMLINK = "symlink"
    SPECIAL = "special"  # a device, pipe or socket of an image


class Lifetime(Enum):
    """Time for which the kernel may cache a name and its attributes."""

    CONTENT = "content"  # of a name with a digest in it: the content never changes
    NAME = "name"  # of tags and listings: a change by another program should be seen soon
    MOMENT = "moment"  # never cached
    MOUNT = "mount"  # the life of the mount


class Stored(NamedTuple):
    """Attributes that an image has stored, instead of those of the mount.

    *mode* is that of stat(2), with the type. Without *owner*, the user and the group, the mount's
    apply. *device* is major and minor number.
    """

    mode: int
    owner: tuple[int, int] | None
    device: tuple[int, int]


class Attr(NamedTuple):
    """Attributes for stat(2): *size* in bytes, *mtime_ns* in nanoseconds since the epoch."""

    kind: Kind
    size: int = 0
    mtime_ns: int = 0
    nlink: int = 1
    lifetime: Lifetime = Lifetime.NAME
    writable: bool = False  # the mode of a file lets its owner write
    stored: Stored | None = None


class Measured(NamedTuple):
    """A value that takes minutes.

    *measure* makes it available, for all values with the same *key*; then *value* returns it.
    """

    key: str
    measure: Callable[[], object]
    value: Callable[[], str]


class Family(Protocol):
    """Nodes that can be made again from their numbers. Their keys are ``<key>//<number>``."""

    @property
    def key(self) -> str:
        """The part of the nodes' keys before their numbers."""

    def open(self) -> object:
        """Let ``node`` answer soon; raises the errors of a lookup."""

    def node(self, number: int) -> Node:
        """Make a node; raises the errors of a lookup."""


class Node(ABC):
    """A file, directory or symlink."""

    __slots__ = ()

    asks_storage: ClassVar[bool] = True
    """True if its methods may wait for the storage."""

    is_read_only: ClassVar[bool] = False
    """True if every change of it is refused with ReadOnly."""

    has_stored_xattrs: ClassVar[bool] = False
    """True if its extended attributes are ``stored_xattrs``, of all namespaces."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Identity of the node: the path of a directory or symlink, the digest of a blob."""

    @property
    def family(self) -> Family | None:
        """The family that can make this node again, if it is a file or symlink of one."""
        return None

    @abstractmethod
    def attr(self) -> Attr:
        """Return the attributes; raises NotFound if the thing no longer exists."""

    def merged_with(self, newer: Self) -> Self:
        """Merge this node with *newer*, which has the same key."""
        return newer

    def xattrs(self) -> Mapping[str, Callable[[], str]]:
        """The extended attributes, each with the function of its value."""
        return {}

    def stored_xattrs(self) -> Mapping[bytes, bytes]:
        """The extended attributes that an image has stored."""
        return {}

    def measured_xattrs(self) -> Mapping[str, Measured]:
        """The extended attributes that are not listed, because a value takes a pass over all."""
        return {}


class Placed(Node):
    """A node whose key is its *path* in the tree."""

    __slots__ = ()

    path: str

    @property
    def key(self) -> str:
        return self.path


class Child(NamedTuple):
    """An entry of a directory, with its attributes."""

    name: str
    node: Node
    attr: Attr

    @classmethod
    def of(cls, name: str, node: Node) -> Self:
        """Make the entry of *node*, and get its attributes; raises NotFound."""
        return cls(name, node, node.attr())


class Directory(Node):
    """A node with named children."""

    __slots__ = ()

    @property
    def takes_long(self) -> bool:
        """True if a lookup may take long even in a local storage."""
        return False

    @property
    def is_ready(self) -> bool:
        """False if ``prepare`` must be called before a lookup or a listing."""
        return True

    def prepare(self) -> None:
        """Do what may take minutes, once for all programs that wait for it."""

    never_changes: ClassVar[bool] = False
    """True if every listing shows the same names."""

    gains_names: ClassVar[bool] = False
    """True if a commit can add names to it; then the kernel may not cache missing names."""

    @property
    def kind_of_children(self) -> Kind:
        """Kind of its children; a child whose lookup fails gets it."""
        return Kind.FILE

    @abstractmethod
    def lookup(self, name: str) -> Node:
        """Return the child *name*; raises NotFound, Corrupt."""

    def known(self, name: str) -> Node | None:
        """Return the child *name* if it exists independently of the storage, else None."""
        return None

    @abstractmethod
    def names(self) -> Iterator[str]:
        """Yield the children's names as they are found, in no order; raises NotFound.

        Some may not exist. That costs a check of each, which ``children`` makes.
        """

    def children(self, names: Iterable[str]) -> list[Child]:
        """Return the existing children of these names.

        A child whose lookup fails for another reason than NotFound becomes a ``BrokenNode``, so
        that one bad link does not hide its neighbours.
        """
        found = []
        for name in names:
            try:
                node = self.lookup(name)
                found.append(Child.of(name, node))
            except NotFound:
                continue
            except BlobfsError as exc:
                path = f"{self.key.rstrip('/')}/{name}"
                broken = BrokenNode.of(path, self.kind_of_children, exc)
                found.append(Child.of(name, broken))
        return found

    def existing(self, names: Sequence[str]) -> Collection[str]:
        """Return those of *names* that still exist; ``children`` has found all of them before.

        It is called only for children whose ``Lifetime`` is CONTENT, and is cheaper than
        ``children``.
        """
        return names


class MutableDirectory(Node):
    """A directory that can be changed; an operation that it does not define is NotPermitted.

    Names come from programs, and may be hostile. A change is durable when its method returns.
    """

    __slots__ = ()

    def create(self, name: str) -> Node:
        """Create a file to be written; raises Exists, Invalid."""
        raise self._not_permitted(name)

    def mkdir(self, name: str) -> Node:
        """Create a directory; raises Exists, Invalid."""
        raise self._not_permitted(name)

    def symlink(self, name: str, target: str) -> Node:
        """Create a symlink; raises Exists, Invalid, NotFound if the target is missing."""
        raise self._not_permitted(name)

    def link(self, name: str, node: Node) -> Node:
        """Add *name* as another name of *node*; raises Exists, Invalid."""
        raise self._not_permitted(name)

    def unlink(self, name: str) -> None:
        """Remove a file or symlink; raises NotFound."""
        raise self._not_permitted(name)

    def rmdir(self, name: str) -> None:
        """Remove a directory; raises NotFound, NotEmpty."""
        raise self._not_permitted(name)

    def asked_for(self, name: str) -> Kind | None:
        """Note that a program looks up *name*; return its kind if it can be made again."""
        return None

    def rename(self, name: str, target: Node, new_name: str, *, replace: bool) -> None:
        """Move it to *new_name* in the directory *target*; raises CrossesDirectories, Exists."""
        if target.key != self.key:
            raise CrossesDirectories(f"{self.key}/{name[:160]} can only be copied to {target.key}")
        raise self._not_permitted(name)

    def _not_permitted(self, name: str) -> NotPermitted:
        return NotPermitted(f"{self.key.rstrip('/')}/{name[:160]} does not allow this change")


class Lasting(Directory, MutableDirectory):
    """A directory whose subdirectories exist as long as it does, even if they are empty."""

    __slots__ = ()

    def rmdir(self, name: str) -> None:
        """Accept to remove an empty one, and change nothing, so that ``rm -r`` can go on above."""
        node = self.lookup(name)
        if not isinstance(node, Directory):
            raise NotADirectory(f"not a directory: {node.key}")
        if _holds_something(node):
            raise NotEmpty(f"{node.key} is not empty")


def _holds_something(directory: Directory) -> bool:
    """True if a directory has an entry that is no empty directory, at any depth."""
    for name in directory.names():
        for child in directory.children([name]):
            if not isinstance(child.node, Directory) or _holds_something(child.node):
                return True
    return False


class File(Node):
    """A node with bytes."""

    __slots__ = ()

    never_changes: ClassVar[bool] = False
    """True if every open shows the same bytes."""

    @property
    def takes_long(self) -> bool:
        """True if opening or reading may take long even in a local storage."""
        return False

    shares_openings: ClassVar[bool] = False
    """True if programs that open it at the same time may share a reader."""

    def invalidate(self) -> None:
        """Discard cached bytes and results, after wrong bytes came from a remote storage."""

    @abstractmethod
    def open(self) -> FileReader:
        """Open it for reading; raises Stale if the bytes were removed."""


class Symlink(Node):
    """A node that leads to another."""

    __slots__ = ()

    @abstractmethod
    def target(self) -> str:
        """The relative path that it leads to; raises NotFound."""


@dataclass(frozen=True, slots=True)
class BrokenNode(Placed):
    """An existing name whose lookup fails; only its name and kind can be used.

    Other uses raise ``failure``, the error of the lookup.
    """

    asks_storage = False

    path: str
    kind: Kind
    error: type[BlobfsError]
    reason: str

    @classmethod
    def of(cls, path: str, kind: Kind, exc: BlobfsError) -> Self:
        """Make the node of a name whose lookup raised *exc*, without its traceback."""
        return cls(path, kind, type(exc), str(exc))

    def failure(self) -> BlobfsError:
        """Make the error of the lookup."""
        return self.error(self.reason)

    def attr(self) -> Attr:
        return Attr(self.kind, lifetime=Lifetime.MOMENT)

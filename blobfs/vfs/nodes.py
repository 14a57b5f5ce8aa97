"""What a tree is made of, without FUSE: no inode numbers, no errno, names are ``str``.

Nodes are values that cost no I/O to make or to compare: two with the same *key* are the
same thing, whichever way each was reached, and a mount gives them one inode.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, NamedTuple, Self

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
    """What sort of node it is."""

    DIRECTORY = "directory"
    FILE = "file"
    SYMLINK = "symlink"


class Lifetime(Enum):
    """How long the kernel may keep what it was told, before it asks again."""

    CONTENT = "content"  # a name with a digest in it, and what it names, never changes
    NAME = "name"  # tags and listings: others change them, and it should show soon
    MOMENT = "moment"  # not at all
    MOUNT = "mount"  # as long as the mount is there


class Attr(NamedTuple):
    """What stat(2) shows of a node: *size* in bytes, *mtime_ns* since the epoch."""

    kind: Kind
    size: int = 0
    mtime_ns: int = 0
    nlink: int = 1
    lifetime: Lifetime = Lifetime.NAME
    writable: bool = False  # of a file: its mode says that its owner may write


class Node(ABC):
    """A file, directory or symlink."""

    __slots__ = ()

    asks_storage: ClassVar[bool] = True
    """Whether its methods may have to wait for the storage."""

    @property
    @abstractmethod
    def key(self) -> str:
        """What the node is: a directory's or symlink's path in the tree, a blob's digest."""

    @abstractmethod
    def attr(self) -> Attr:
        """What stat(2) shows; raises NotFound once the thing is gone."""

    def merged_with(self, newer: Self) -> Self:
        """The node that stands for both this and *newer*, which has the same key."""
        return newer

    def xattrs(self) -> Mapping[str, Callable[[], str]]:
        """The extended attributes, each with what computes its value."""
        return {}


class Placed(Node):
    """A node that is what it is by its *path* in the tree."""

    __slots__ = ()

    path: str

    @property
    def key(self) -> str:
        return self.path


class Child(NamedTuple):
    """An entry of a directory, ready for a listing."""

    name: str
    node: Node
    attr: Attr

    @classmethod
    def of(cls, name: str, node: Node) -> Self:
        """The entry of *node*, which is asked for its attributes; raises NotFound."""
        return cls(name, node, node.attr())


class Directory(Node):
    """A node with named children."""

    __slots__ = ()

    @property
    def takes_long(self) -> bool:
        """Whether to look something up may take long even where the storage is local."""
        return False

    gains_names: ClassVar[bool] = False
    """Whether the end of an upload adds names to it, so that none may be taken to be missing."""

    @property
    def kind_of_children(self) -> Kind:
        """What the children are, as far as a broken one can tell."""
        return Kind.FILE

    @abstractmethod
    def lookup(self, name: str) -> Node:
        """The child called *name*; raises NotFound, Corrupt."""

    def known(self, name: str) -> Node | None:
        """The child called *name* if it is there whatever the storage holds."""
        return None

    @abstractmethod
    def names(self) -> Iterator[str]:
        """The children's names, in no order, each as soon as it is known; raises NotFound.

        Some may turn out not to be there: that costs a look at each, which ``children`` takes.
        """

    def children(self, names: Iterable[str]) -> list[Child]:
        """The children of these names, without those that are gone meanwhile.

        One whose lookup fails for another reason is there all the same, as a ``BrokenNode``:
        a single bad link must not hide its neighbours.
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
        """Those of these names, all found by ``children`` before, that are still there.

        Asked only of children whose ``Lifetime`` is CONTENT, and cheaper than ``children``.
        """
        return names


class MutableDirectory(Node):
    """A directory in which something can be changed; what it does not define is NotPermitted.

    Names are such as a lookup is asked for, hence hostile. All of it is durable when it returns.
    """

    __slots__ = ()

    def create(self, name: str) -> Node:
        """A new file to be written; raises Exists, Invalid."""
        raise self._not_permitted(name)

    def mkdir(self, name: str) -> Node:
        """A new directory; raises Exists, Invalid."""
        raise self._not_permitted(name)

    def symlink(self, name: str, target: str) -> Node:
        """A new symlink; raises Exists, Invalid, NotFound for a target that is not there."""
        raise self._not_permitted(name)

    def link(self, name: str, node: Node) -> Node:
        """Another name for *node*; raises Exists, Invalid."""
        raise self._not_permitted(name)

    def unlink(self, name: str) -> None:
        """Remove a file or symlink; raises NotFound."""
        raise self._not_permitted(name)

    def rmdir(self, name: str) -> None:
        """Remove a directory; raises NotFound, NotEmpty."""
        raise self._not_permitted(name)

    def rename(self, name: str, target: Node, new_name: str, *, replace: bool) -> None:
        """Call it *new_name* in the directory *target*; raises CrossesDirectories, Exists."""
        if target.key != self.key:
            raise CrossesDirectories(f"{self.key}/{name[:160]} can only be copied to {target.key}")
        raise self._not_permitted(name)

    def _not_permitted(self, name: str) -> NotPermitted:
        return NotPermitted(f"{self.key.rstrip('/')}/{name[:160]} cannot be changed like that")


class Lasting(Directory, MutableDirectory):
    """A directory whose subdirectories are there as long as it is, even while they are empty."""

    __slots__ = ()

    def rmdir(self, name: str) -> None:
        """Accept it of an empty one, so that ``rm -r`` comes to what is above; nothing changes."""
        node = self.lookup(name)
        if not isinstance(node, Directory):
            raise NotADirectory(f"not a directory: {node.key}")
        if _holds_something(node):
            raise NotEmpty(f"{node.key} holds something")


def _holds_something(directory: Directory) -> bool:
    """Whether a directory has anything in it but directories that hold nothing."""
    for name in directory.names():
        for child in directory.children([name]):
            if not isinstance(child.node, Directory) or _holds_something(child.node):
                return True
    return False


class File(Node):
    """A node with bytes."""

    __slots__ = ()

    never_changes: ClassVar[bool] = False
    """Whether it has the same bytes whenever it is opened."""

    @property
    def takes_long(self) -> bool:
        """Whether to open or read it may take long even where the storage is local."""
        return False

    shares_openings: ClassVar[bool] = False
    """Whether programs that open it at the same time may share a reader."""

    def forget(self) -> None:
        """Forget what was read of it: it has come wrong from far away, and may be right there."""

    @abstractmethod
    def open(self) -> FileReader:
        """Open it to read it; raises Stale once the bytes are gone."""


class Symlink(Node):
    """A node that leads to another."""

    __slots__ = ()

    @abstractmethod
    def target(self) -> str:
        """The relative path it leads to; raises NotFound."""


@dataclass(frozen=True, slots=True)
class BrokenNode(Placed):
    """A name that is there, and of some kind, but whose lookup fails.

    Whoever uses it otherwise than by its name gets ``failure``: what the lookup raised.
    """

    asks_storage = False

    path: str
    kind: Kind
    error: type[BlobfsError]
    reason: str

    @classmethod
    def of(cls, path: str, kind: Kind, exc: BlobfsError) -> Self:
        """The node of a name whose lookup raised *exc*; its traceback is not kept."""
        return cls(path, kind, type(exc), str(exc))

    def failure(self) -> BlobfsError:
        """The error that says why it is broken."""
        return self.error(self.reason)

    def attr(self) -> Attr:
        return Attr(self.kind, lifetime=Lifetime.MOMENT)


@dataclass(frozen=True, slots=True)
class FixedDirectory(Placed, Lasting):
    """A directory whose children the layout gives; *mtime_ns* asks for its time."""

    path: str
    nodes: Mapping[str, Callable[[], Node]]
    mtime_ns: Callable[[], int]

    def attr(self) -> Attr:
        return Attr(Kind.DIRECTORY, mtime_ns=self.mtime_ns())

    def lookup(self, name: str) -> Node:
        if name not in self.nodes:
            raise NotFound(f"{self.key} has no {name[:160]!r}")
        return self.nodes[name]()

    def names(self) -> Iterator[str]:
        return iter(self.nodes)

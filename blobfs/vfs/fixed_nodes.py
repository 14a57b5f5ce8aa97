"""Nodes whose children or target never change."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from blobfs.errors import NotFound
from blobfs.vfs.nodes import Attr, Directory, Kind, Lasting, Node, Placed, Symlink


class NamedChildren(Placed, Directory):
    """A directory of a few children, each made by a function."""

    __slots__ = ()

    @abstractmethod
    def makers(self) -> Mapping[str, Callable[[], Node]]:
        """Return the functions that make the children, by name."""

    def lookup(self, name: str) -> Node:
        make = self.makers().get(name)
        if make is None:
            raise NotFound(f"{self.key} has no {name[:160]!r}")
        return make()

    def names(self) -> Iterator[str]:
        return iter(self.makers())


@dataclass(frozen=True, slots=True)
class FixedLink(Placed, Symlink):
    """A symlink whose target never changes."""

    asks_storage = False

    path: str
    leads_to: str
    mtime_ns: int

    def attr(self) -> Attr:
        return Attr(Kind.SYMLINK, size=len(self.leads_to), mtime_ns=self.mtime_ns)

    def target(self) -> str:
        return self.leads_to


@dataclass(frozen=True, slots=True)
class FixedDirectory(NamedChildren, Lasting):
    """A directory with fixed children; *mtime_ns* returns its time."""

    path: str
    nodes: Mapping[str, Callable[[], Node]]
    mtime_ns: Callable[[], int]

    def attr(self) -> Attr:
        return Attr(Kind.DIRECTORY, mtime_ns=self.mtime_ns())

    def makers(self) -> Mapping[str, Callable[[], Node]]:
        return self.nodes

    def asked_for(self, name: str) -> Kind | None:
        return Kind.DIRECTORY if name in self.nodes else None

    def mkdir(self, name: str) -> Node:
        if name not in self.nodes:
            raise self._not_permitted(name)
        return self.lookup(name)

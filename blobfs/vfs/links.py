"""A link set as directories: its algorithms, and the digests of each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from blobfs import paths
from blobfs.digest import CANONICAL, Digest
from blobfs.errors import BlobUnknown, DigestInvalid, NotFound
from blobfs.storage.linkedblobstore import LinkedBlobStore
from blobfs.storage.registry import Registry
from blobfs.vfs.nodes import Attr, Directory, Kind, Node, Placed


@dataclass(frozen=True, slots=True)
class LinkSetDirectory(Placed, Directory):
    """The algorithms of a link set, each a directory; the canonical one is always there."""

    path: str
    registry: Registry
    links: LinkedBlobStore
    node_for: Callable[[Digest], Node]
    kind: Kind = Kind.FILE  # of what *node_for* makes

    def attr(self) -> Attr:
        return Attr(Kind.DIRECTORY, mtime_ns=mtime_of(self.registry, self.links.link_set)())

    def lookup(self, name: str) -> Node:
        if name != CANONICAL and name not in self.links.algorithms():
            raise NotFound(f"{self.path} has no {name[:160]!r}")
        path = f"{self.path}/{name}"
        return LinkDirectory(path, self.registry, self.links, name, self.node_for, self.kind)

    def names(self) -> Iterator[str]:
        return iter(sorted({CANONICAL, *self.links.algorithms()}))


@dataclass(frozen=True, slots=True)
class LinkDirectory(Placed, Directory):
    """``<hex>`` of one algorithm in a link set, each made a node by *node_for*."""

    path: str
    registry: Registry
    links: LinkedBlobStore
    algorithm: str
    node_for: Callable[[Digest], Node]
    kind: Kind

    @property
    def kind_of_children(self) -> Kind:
        return self.kind

    def attr(self) -> Attr:
        path = f"{self.links.link_set}/{self.algorithm}"
        return Attr(Kind.DIRECTORY, mtime_ns=mtime_of(self.registry, path)())

    def lookup(self, name: str) -> Node:
        return self.node_for(digest_named(self.algorithm, name))

    def names(self) -> Iterator[str]:
        return (digest.encoded for digest in self.links.candidates(self.algorithm))

    def present(self, names: Sequence[str]) -> Collection[str]:
        digests = [Digest(self.algorithm, name) for name in names]
        return {digest.encoded for digest in self.links.present(digests)}


def digest_named(algorithm: str, name: str) -> Digest:
    """The digest that a file's name stands for; raises BlobUnknown for any other name."""
    try:
        return Digest(algorithm, name)
    except DigestInvalid:
        raise BlobUnknown(f"{algorithm}:{name[:160]!r}") from None


def mtime_of(registry: Registry, path: str) -> Callable[[], int]:
    """Asks for a storage path's time in nanoseconds; while it is missing, for its parent's."""

    def mtime_ns() -> int:
        there = path
        while (info := registry.stat(there)) is None and there != paths.ROOT:
            there, _, _ = there.rpartition("/")
        return info.mtime_ns if info else 0

    return mtime_ns

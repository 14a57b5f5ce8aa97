"""Nodes of a link set: a directory for each algorithm, with an entry for each digest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from blobfs import paths
from blobfs.digest import CANONICAL, Digest
from blobfs.errors import (
    BlobfsError,
    BlobUnknown,
    DigestInvalid,
    Exists,
    Invalid,
    NotFound,
    NotPermitted,
)
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.linkedblobstore import LinkedBlobStore
from blobfs.storage.registry import Registry
from blobfs.vfs.nodes import (
    Attr,
    BrokenNode,
    Child,
    Directory,
    FixedLink,
    Kind,
    Lasting,
    MutableDirectory,
    Node,
    Placed,
)


@runtime_checkable
class Linkable(Protocol):
    """A node that ``ln`` can link in another repository: a blob."""

    def source(self, digest: Digest) -> LinkedBlobStore | BlobStore:
        """Return the store that has it under *digest*; raises Invalid if none has."""


@dataclass(frozen=True, slots=True)
class LinkChanges:
    """Functions for ``ln`` and ``rm`` in a link set: *mount* takes a digest and its store.

    *delete* is None in a mount without ``--allow-delete``.
    """

    mount: Callable[[Digest, LinkedBlobStore | BlobStore], object]
    delete: Callable[[Digest], None] | None


@dataclass(frozen=True, slots=True)
class LinkSetDirectory(Placed, Lasting):
    """A link set: a directory for each algorithm, and always for the canonical one.

    The name ``<algorithm>:<hex>`` is found as a symlink, but not listed.
    """

    gains_names = True

    path: str
    registry: Registry
    links: LinkedBlobStore
    node_for: Callable[[Digest], Node]
    kind: Kind = Kind.FILE  # of the nodes of *node_for*
    changes: LinkChanges | None = None

    def attr(self) -> Attr:
        return Attr(Kind.DIRECTORY, mtime_ns=mtime_of(self.registry, self.links.link_set)())

    def lookup(self, name: str) -> Node:
        algorithm, colon, encoded = name.partition(":")
        if algorithm != CANONICAL and algorithm not in self.links.algorithms():
            raise NotFound(f"{self.path} has no {name[:160]!r}")
        path = f"{self.path}/{algorithm}"
        directory = LinkDirectory(
            path, self.registry, self.links, algorithm, self.node_for, self.kind, self.changes
        )
        if not colon:
            return directory
        found = directory.lookup(encoded)
        return FixedLink(f"{self.path}/{name}", f"{algorithm}/{encoded}", found.attr().mtime_ns)

    def names(self) -> Iterator[str]:
        return iter(sorted({CANONICAL, *self.links.algorithms()}))


@dataclass(frozen=True, slots=True)
class LinkDirectory(Placed, Directory, MutableDirectory):
    """One algorithm of a link set: an entry ``<hex>`` for each digest, made by *node_for*."""

    gains_names = True

    path: str
    registry: Registry
    links: LinkedBlobStore
    algorithm: str
    node_for: Callable[[Digest], Node]
    kind: Kind
    changes: LinkChanges | None

    @property
    def kind_of_children(self) -> Kind:
        return self.kind

    @property
    def takes_long(self) -> bool:
        return self.algorithm != CANONICAL  # the lookup may hash the blob

    def attr(self) -> Attr:
        path = f"{self.links.link_set}/{self.algorithm}"
        return Attr(Kind.DIRECTORY, mtime_ns=mtime_of(self.registry, path)())

    def lookup(self, name: str) -> Node:
        digest = digest_named(self.algorithm, name)
        try:
            return self.node_for(digest)
        except NotFound:
            raise
        except BlobfsError as exc:
            if self.changes is None or self.changes.delete is None:
                raise
            if not self.links.existing([digest]):
                raise
            # unlink(2) needs a successful lookup of the name.
            return BrokenNode.of(f"{self.path}/{name}", self.kind, exc)

    def children(self, names: Iterable[str]) -> list[Child]:
        names = list(names)
        if self.kind is Kind.FILE:
            self.links.prefetch([Digest(self.algorithm, name) for name in names])
        return Directory.children(self, names)  # slots leave no bare super()

    def names(self) -> Iterator[str]:
        return (digest.encoded for digest in self.links.list_unchecked(self.algorithm))

    def existing(self, names: Sequence[str]) -> Collection[str]:
        digests = [Digest(self.algorithm, name) for name in names]
        return {digest.encoded for digest in self.links.existing(digests)}

    def link(self, name: str, node: Node) -> Node:
        digest = _digest_or_invalid(self.algorithm, name)
        if self.changes is None or not isinstance(node, Linkable):
            raise self._not_permitted(name)
        if self.links.existing([digest]):
            raise Exists(f"{self.path}/{name}")
        self.changes.mount(digest, node.source(digest))
        return self.lookup(name)

    def unlink(self, name: str) -> None:
        digest = digest_named(self.algorithm, name)
        if self.changes is None:
            raise self._not_permitted(name)
        if self.changes.delete is None:
            raise NotPermitted(f"{digest} is deleted only from a mount with --allow-delete")
        self.changes.delete(digest)


def _digest_or_invalid(algorithm: str, name: str) -> Digest:
    try:
        return Digest(algorithm, name)
    except DigestInvalid:
        raise Invalid(f"a name here must be the hex digits of a digest: {name[:160]!r}") from None


def digest_named(algorithm: str, name: str) -> Digest:
    """Parse a file's name as a digest; raises BlobUnknown if it is none."""
    try:
        return Digest(algorithm, name)
    except DigestInvalid:
        raise BlobUnknown(f"{algorithm}:{name[:160]!r}") from None


def mtime_of(registry: Registry, path: str) -> Callable[[], int]:
    """Return a function for a path's time in nanoseconds; a missing path has its parent's."""

    def mtime_ns() -> int:
        there = path
        while (info := registry.stat(there)) is None and there != paths.ROOT:
            there, _, _ = there.rpartition("/")
        return info.mtime_ns if info else 0

    return mtime_ns

"""Nodes of a link set: a directory for each algorithm, with an entry for each digest."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

from blobfs import paths
from blobfs.digest import ALGORITHMS, CANONICAL, Descriptor, Digest
from blobfs.errors import (
    BlobfsError,
    BlobUnknown,
    DigestInvalid,
    Exists,
    Invalid,
    ManifestIncomplete,
    NotFound,
    NotPermitted,
)
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.linkedblobstore import LinkedBlobStore
from blobfs.storage.registry import Registry
from blobfs.vfs.fixed_nodes import FixedLink
from blobfs.vfs.nodes import (
    Attr,
    BrokenNode,
    Child,
    Directory,
    Kind,
    Lasting,
    MutableDirectory,
    Node,
    Placed,
)

_TEMPORARY: Final = re.compile(r"Cu[A-Za-z0-9]{6}|\..+\.[A-Za-z0-9]{6}")
"""Names of links of cp(1) and rsync(1), before they are renamed to the names that they replace."""

Mount = Callable[[Digest, LinkedBlobStore | BlobStore], Descriptor]


@runtime_checkable
class Linkable(Protocol):
    """A node that ``ln`` can link in another repository: a blob."""

    def source(self, digest: Digest) -> LinkedBlobStore | BlobStore | None:
        """Return the store that has it under *digest*; None if none has."""


class Copies(Protocol):
    """The uploads of files that programs copy into a link set, by their names as uploads."""

    def copied(self, name: str) -> Node:
        """Return an upload that is not committed, or has a temporary name; raises NotFound."""

    def copy(self, name: str) -> Node:
        """Begin an upload; raises NotPermitted, Busy."""

    def rename_copy(self, name: str, new_name: str) -> None:
        """Rename an upload, which replaces another; raises NotPermitted, ContentMismatch."""

    def discard_copy(self, name: str) -> bool:
        """Remove an upload; False if there is none."""

    def link_copy(self, name: str, node: Node) -> None:
        """Copy the file *node*, or link it under another digest; raises NotPermitted."""

    def link_temporary(self, name: str, node: Node) -> None:
        """Make a temporary name of a blob; raises NotPermitted."""


class Entries(Protocol):
    """The symlinks of a link set, the history of a tag, that programs copy."""

    def add(self, digest: Digest, target: str) -> None:
        """Add a symlink; raises NameInvalid."""

    def remove(self, digest: Digest) -> None:
        """Remove one that is not stored yet; raises NotPermitted."""

    def begin(self, digest: Digest) -> Node:
        """Make the file that tar(1) later replaces by a symlink; raises Exists."""

    def begun(self, digest: Digest) -> Node:
        """Return the file that ``begin`` has made; raises NotFound."""


@dataclass(frozen=True, slots=True)
class LinkChanges:
    """Functions for ``ln`` and ``rm`` in a link set: *mount* takes a digest and its store.

    *delete* is None in a mount without ``--allow-delete``. *copies* are the uploads that ``cp``
    and other programs make by creating files there.
    """

    mount: Mount
    delete: Callable[[Digest], None] | None
    copies: Copies


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
    entries: Entries | None = None
    made: set[str] = field(default_factory=set)  # paths of directories that programs have made

    def attr(self) -> Attr:
        return Attr(Kind.DIRECTORY, mtime_ns=mtime_of(self.registry, self.links.link_set)())

    def lookup(self, name: str) -> Node:
        algorithm, colon, encoded = name.partition(":")
        path = f"{self.path}/{algorithm}"
        if not (
            algorithm == CANONICAL or path in self.made or algorithm in self.links.algorithms()
        ):
            raise NotFound(f"{self.path} has no {name[:160]!r}")
        directory = LinkDirectory(
            path,
            self.registry,
            self.links,
            algorithm,
            self.node_for,
            self.kind,
            self.changes,
            self.entries,
        )
        if not colon:
            return directory
        found = directory.lookup(encoded)
        return FixedLink(f"{self.path}/{name}", f"{algorithm}/{encoded}", found.attr().mtime_ns)

    def names(self) -> Iterator[str]:
        return iter(sorted({CANONICAL, *self.links.algorithms()}))

    def asked_for(self, name: str) -> Kind | None:
        return Kind.DIRECTORY if name in ALGORITHMS else None

    def mkdir(self, name: str) -> Node:
        if name not in ALGORITHMS:
            raise self._not_permitted(name)
        self.made.add(f"{self.path}/{name}")
        return self.lookup(name)


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
    entries: Entries | None

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
        try:
            return self._linked(name)
        except NotFound:
            if self.changes is not None:
                return self.changes.copies.copied(self._upload_of(name))
            if self.entries is not None:
                return self.entries.begun(digest_named(self.algorithm, name))
            raise

    def _linked(self, name: str) -> Node:
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
        if self.changes is None:
            raise self._not_permitted(name)
        if _TEMPORARY.fullmatch(name):
            self.changes.copies.link_temporary(self._upload_of(name), node)
            return self.lookup(name)
        digest = _digest_or_invalid(self.algorithm, name)
        if self.links.existing([digest]):
            raise Exists(f"{self.path}/{name}")
        if isinstance(node, Linkable) and (source := node.source(digest)) is not None:
            try:
                self.changes.mount(digest, source)
                return self.lookup(name)
            except ManifestIncomplete:
                pass
        self.changes.copies.link_copy(self._upload_of(name), node)
        return self.lookup(name)

    def unlink(self, name: str) -> None:
        if self.entries is not None:
            self.entries.remove(digest_named(self.algorithm, name))
            return
        if self.changes is None:
            raise self._not_permitted(name)
        if not self._is_linked(name) and self.changes.copies.discard_copy(self._upload_of(name)):
            return
        digest = digest_named(self.algorithm, name)
        if self.changes.delete is None:
            raise NotPermitted(f"{digest} is deleted only from a mount with --allow-delete")
        self.changes.delete(digest)

    def _is_linked(self, name: str) -> bool:
        try:
            return bool(self.links.existing([Digest(self.algorithm, name)]))
        except DigestInvalid:
            return False

    def asked_for(self, name: str) -> Kind | None:
        return None if self.entries is None else Kind.SYMLINK

    def create(self, name: str) -> Node:
        if self.entries is not None:
            return self.entries.begin(_digest_or_invalid(self.algorithm, name))
        if self.changes is None:
            raise self._not_permitted(name)
        return self.changes.copies.copy(self._upload_of(name))

    def rename(self, name: str, target: Node, new_name: str, *, replace: bool) -> None:
        if self.changes is None or target.key != self.key:
            MutableDirectory.rename(self, name, target, new_name, replace=replace)
            return
        if not replace and self._is_linked(new_name):
            raise Exists(f"{self.path}/{new_name}")
        self.changes.copies.rename_copy(self._upload_of(name), self._upload_of(new_name))

    def symlink(self, name: str, target: str) -> Node:
        if self.entries is None:
            raise self._not_permitted(name)
        self.entries.add(_digest_or_invalid(self.algorithm, name), target)
        return self.lookup(name)

    def _upload_of(self, name: str) -> str:
        """Return the name, as an upload, of the file *name*, which may be one of rsync(1)."""
        dot = "." if name.startswith(".") else ""
        return f"{dot}{self.algorithm}:{name[len(dot) :]}"


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

"""``/.blobfs``: what the mount tells of itself, also while the storage does not answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from blobfs.drivers.base import BytesReader, FileReader
from blobfs.errors import NotFound
from blobfs.vfs.nodes import Attr, Directory, File, Kind, Lifetime, Node, Placed


@dataclass(frozen=True, slots=True)
class ControlDirectory(Placed, Directory):
    """Files by name, each with what renders its text."""

    asks_storage = False

    path: str
    files: Mapping[str, Callable[[], str]]
    walks: Mapping[str, Callable[[], str]] = field(default_factory=dict)  # through the storage

    def attr(self) -> Attr:
        # Kept by the kernel: it looks up one name of a directory at a time (pyfuse3 does not
        # ask for FUSE_PARALLEL_DIROPS), and this one must be found while others hang.
        return Attr(Kind.DIRECTORY, mtime_ns=time.time_ns(), lifetime=Lifetime.MOUNT)

    def known(self, name: str) -> Node | None:
        path = f"{self.path}/{name}"
        if name in self.files:
            return TextFile(path, self.files[name])
        return WalkFile(path, self.walks[name]) if name in self.walks else None

    def lookup(self, name: str) -> Node:
        node = self.known(name)
        if node is None:
            raise NotFound(f"{self.path} has no {name[:160]!r}")
        return node

    def names(self) -> Iterator[str]:
        return iter([*self.files, *self.walks])


@dataclass(frozen=True, slots=True)
class TextFile(Placed, File):
    """A file whose text is made when it is opened; like one in proc(5), it shows no size."""

    asks_storage = False

    path: str
    render: Callable[[], str]

    def attr(self) -> Attr:
        return Attr(Kind.FILE, mtime_ns=time.time_ns(), lifetime=Lifetime.MOMENT)

    def open(self) -> FileReader:
        return BytesReader(self.render().encode())


@dataclass(frozen=True, slots=True)
class WalkFile(TextFile):
    """One whose text takes a walk through the storage."""

    takes_long = True

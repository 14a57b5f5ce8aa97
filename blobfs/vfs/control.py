"""``/.blobfs``: files about the mount, which work while the storage does not answer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from blobfs.drivers.base import BytesReader, FileReader
from blobfs.errors import NotFound
from blobfs.vfs.nodes import Attr, Directory, File, Kind, Lifetime, Node, Placed

_CACHED_FACTOR: Final = 10.0
_MAX_CACHED_S: Final = 1.0


class Report:
    """A file's text, made by *render*, which needs a thread while *takes_long* is true.

    The text is cached for ten times the time that *render* took, at most for a second. So a program
    that reads without end takes at most a tenth of an event loop's time. Thread-safe: the cache is
    one attribute, replaced at once.
    """

    def __init__(
        self, render: Callable[[], str], takes_long: Callable[[], bool] = lambda: False
    ) -> None:
        self.takes_long = takes_long
        self._render = render
        self._cached = (b"", -math.inf)  # the text, and the time at which it expires

    def content(self) -> bytes:
        """The text in UTF-8."""
        content, until = self._cached
        began = time.monotonic()
        if began < until:
            return content
        content = self._render().encode()
        ended = time.monotonic()
        self._cached = (content, ended + min(_CACHED_FACTOR * (ended - began), _MAX_CACHED_S))
        return content


@dataclass(frozen=True, slots=True)
class ControlDirectory(Placed, Directory):
    """``/.blobfs``: a file for each report."""

    asks_storage = False

    path: str
    files: Mapping[str, Report]

    def attr(self) -> Attr:
        # The kernel caches it for the life of the mount. The kernel looks up one name of a
        # directory at a time (pyfuse3 does not set FUSE_PARALLEL_DIROPS), and this directory must
        # be found while another lookup hangs.
        return Attr(Kind.DIRECTORY, mtime_ns=time.time_ns(), lifetime=Lifetime.MOUNT)

    def known(self, name: str) -> Node | None:
        report = self.files.get(name)
        return None if report is None else TextFile(f"{self.path}/{name}", report)

    def lookup(self, name: str) -> Node:
        node = self.known(name)
        if node is None:
            raise NotFound(f"{self.path} has no {name[:160]!r}")
        return node

    def names(self) -> Iterator[str]:
        return iter(self.files)


@dataclass(frozen=True, slots=True)
class TextFile(Placed, File):
    """A file whose text is made at each open; like a file of proc(5), its size is 0."""

    asks_storage = False
    shares_openings = True

    path: str
    report: Report

    @property
    def takes_long(self) -> bool:
        return self.report.takes_long()

    def attr(self) -> Attr:
        return Attr(Kind.FILE, mtime_ns=time.time_ns(), lifetime=Lifetime.MOMENT)

    def open(self) -> FileReader:
        return BytesReader(self.report.content())

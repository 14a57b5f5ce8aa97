"""``/.blobfs``: what the mount tells of itself, also while the storage does not answer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from blobfs.drivers.base import BytesReader, FileReader
from blobfs.errors import NotFound
from blobfs.vfs.nodes import Attr, Directory, File, Kind, Lifetime, Node, Placed

_KEPT_FOR: Final = 10.0
_KEPT_S: Final = 1.0


class Report:
    """The text of a file: *render* makes it, in a thread while *takes_long* says so. Thread-safe.

    A text is kept for ten times as long as it took to make, for a second at most: whoever reads
    without end has no more than a tenth of the time of an event loop.
    """

    def __init__(
        self, render: Callable[[], str], takes_long: Callable[[], bool] = lambda: False
    ) -> None:
        self.takes_long = takes_long
        self._render = render
        self._kept = (b"", -math.inf)  # and until when

    def content(self) -> bytes:
        """The text, in UTF-8."""
        content, until = self._kept
        began = time.monotonic()
        if began < until:
            return content
        content = self._render().encode()
        ended = time.monotonic()
        self._kept = (content, ended + min(_KEPT_FOR * (ended - began), _KEPT_S))
        return content


@dataclass(frozen=True, slots=True)
class ControlDirectory(Placed, Directory):
    """Files by name, each with its report."""

    asks_storage = False

    path: str
    files: Mapping[str, Report]

    def attr(self) -> Attr:
        # Kept by the kernel: it looks up one name of a directory at a time (pyfuse3 does not
        # ask for FUSE_PARALLEL_DIROPS), and this one must be found while others hang.
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
    """A file whose text is made when it is opened; like one in proc(5), it shows no size."""

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

"""Blobs on their way into a cache: what is read of them is written, and the whole is verified.

A ``Filling`` is written to by whoever reads the blob, in any order. Once all of it is there it
goes to one thread, which holds it to its digest and makes an entry of it. One that nobody reads
any more is kept for a while: the kernel asks only once for what it caches. No lock is held while
another's is taken, but a ``Room``'s, which is last.
"""

from __future__ import annotations

import logging
import os
import time
from collections import OrderedDict, deque
from pathlib import Path
from threading import Condition, Lock, Thread
from typing import Final

from blobfs.digest import Descriptor
from blobfs.storage.blobcache_entries import Entries, room, seal, write_at
from blobfs.storage.blobcache_health import Health
from blobfs.storage.blobcache_ranges import Ranges, on_disk
from blobfs.storage.blobcache_room import Room

_MOST: Final = 128
"""Fillings at a time; each has a file open."""

_MOST_RANGES: Final = 4096
"""Pieces of one blob; one read so much here and there is not read to its end."""

_IDLE_SHARE: Final = 8
"""The share of the limit, as a divisor, that fillings may take that nobody reads."""

_CLOSING_S: Final = 2.0
"""How long to wait at the end for what is being verified."""

log = logging.getLogger(__name__)


class Filling:
    """A blob of which something is there, in a file of its own; *taken* is its room."""

    def __init__(self, blob: Descriptor, path: Path) -> None:
        self.blob = blob
        self.path = path
        self.users = 0
        self.is_over = False  # nothing is written any more
        self.taken = 0
        self.lock = Lock()
        self.ranges = Ranges()
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def lacks(self, offset: int, end: int) -> bool:
        """Whether it can use what is between *offset* and *end*."""
        with self.lock:
            return not self.is_over and bool(self.ranges.missing(offset, end))

    def write(self, offset: int, data: bytes, taken: int) -> int:
        """Add *data*, for which *taken* bytes were taken; how many of them it does not need."""
        view = memoryview(data)
        with self.lock:
            if self.is_over:
                return taken
            before = self.ranges.allocated
            self.taken += taken
            for start, end in self.ranges.missing(offset, offset + len(data)):
                write_at(self.fd, view[start - offset : end - offset], start)
                self.ranges.add(start, end)
            spare = taken - (self.ranges.allocated - before)
            self.taken -= spare
            return spare

    def ends(self, *, complete: bool) -> bool:
        """Whether it is over from now on, and was not; only if it is all there, if *complete*."""
        with self.lock:
            if self.is_over or (complete and self.ranges.missing(0, self.blob.size)):
                return False
            self.is_over = True
            return True


class Fillings:
    """The fillings of this process. Thread-safe; what fails in it raises OSError."""

    def __init__(self, room: Room, entries: Entries, health: Health, idle: tuple[int, float]) -> None:
        self.stored = 0
        self.mismatched = 0
        self._room = room
        self._entries = entries
        self._health = health
        self._idle_size, self._idle_s = idle
        self._changed = Condition()
        self._fillings: dict[Descriptor, Filling] = {}
        self._idle: OrderedDict[Filling, float] = OrderedDict()  # since when
        self._complete: deque[Filling] = deque()
        self._thread: Thread | None = None
        self._closing = self._closed = False

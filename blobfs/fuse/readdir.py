"""Open directories: a snapshot of the names, and a batch of the next children.

Handles of one directory share its names until they change. All batches of a mount share one bound,
because a program may hold thousands of directories open.
"""

from __future__ import annotations

import os
import stat
import time
from collections import OrderedDict
from typing import Final

from pyfuse3 import EntryAttributes, InodeT, ModeT, ReaddirToken, readdir_reply

from blobfs.fuse.inodes import HeldChild, Inode, InodeTable
from blobfs.fuse.threads import StorageThreads
from blobfs.vfs.nodes import Child, Directory

_BATCHES: Final = (512, 8192)
"""Children in the first batch of a handle, and in its largest batch."""

_MAX_BATCHED: Final = 65_536
"""Children in the batches of all handles (about 500 bytes each)."""

_SLICE: Final = 32
"""Children looked up between two checkpoints, or in one thread (about 30 µs each)."""


class Batches:
    """The handles that hold a batch, the last used one last. It drops the oldest batches.

    A handle looks up the children of a dropped batch again. Used on the event loop only.
    """

    def __init__(self, limit: int = _MAX_BATCHED) -> None:
        self._limit = limit
        self._sizes: OrderedDict[Listing, int] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, listing: Listing, size: int) -> None:
        """Count the batch of *listing*; drop the oldest other batches above the limit."""
        self.discard(listing)
        self._sizes[listing] = size
        self._size += size
        while self._size > self._limit and len(self._sizes) > 1:
            oldest, dropped = self._sizes.popitem(last=False)
            self._size -= dropped
            oldest.drop_batch()

    def discard(self, listing: Listing) -> None:
        """Stop counting the batch of *listing*."""
        self._size -= self._sizes.pop(listing, 0)


class Listing:
    """A snapshot of a directory at its opening: later changes do not shift positions.

    Positions are those of ``readdir``: 0 is ``.``, 1 is ``..``, 2 the first name. Children are
    looked up in batches. A batch may hold more than one reply. Used on the event loop only.
    """

    def __init__(self, inode: Inode, names: list[str], batches: Batches) -> None:
        self.inode = inode
        self.replied = False
        self._names = names
        self._batches = batches
        self._batch: list[Child | Inode | None] = []  # None: removed since
        self._batch_start = 0  # the index of its first name
        self._batch_size = _BATCHES[0]

    async def reply(
        self, token: ReaddirToken, position: int, inodes: InodeTable, threads: StorageThreads
    ) -> None:
        """Fill a reply from *position* on; each child in it counts as a lookup of the kernel."""
        self.replied = True
        for at, (dot, number) in enumerate(((b".", self.inode.number), (b"..", self.inode.parent))):
            if position <= at and not readdir_reply(token, dot, _dot(number), at + 1):
                return
        index = max(position - 2, 0)
        while index < len(self._names):
            for child in await self._from(index, inodes, threads):
                if child is not None and not self._reply_child(token, index, child, inodes):
                    return
                index += 1
        self.release()

    def release(self) -> None:
        """Drop the batch, at the end of the listing or at the close of the handle."""
        self._batches.discard(self)
        self.drop_batch()

    def drop_batch(self) -> None:
        """Discard the children of the batch."""
        self._batch = []

    async def _from(
        self, index: int, inodes: InodeTable, threads: StorageThreads
    ) -> list[Child | Inode | None]:
        """Return at least one child from *index* on, up to the end of the batch."""
        at = index - self._batch_start
        if not 0 <= at < len(self._batch):
            at = 0
            names = self._names[index : index + self._batch_size]
            self._batch_size = min(4 * self._batch_size, _BATCHES[1])
            found = await self._look_up(names, inodes, threads)
            self._batch = [found.get(name) for name in names]
            self._batch_start = index
            self._batches.add(self, len(self._batch))
        return self._batch[at:]

    async def _look_up(
        self, names: list[str], inodes: InodeTable, threads: StorageThreads
    ) -> dict[str, Child | Inode]:
        """Return those of *names* that exist, each with its held inode or a new child."""
        found: dict[str, Child | Inode] = {}
        doubtful: dict[str, HeldChild] = {}
        unknown: list[str] = []
        now = time.monotonic()
        for name in names:
            held = inodes.held_child(self.inode, name, now)
            if held is None:
                unknown.append(name)
            elif held.listed_until > now:
                found[name] = held.inode
            else:
                doubtful[name] = held
        directory = inodes.node(self.inode.number, Directory)
        for present in await threads.run_each(directory.existing, _slices(list(doubtful))):
            for name in present:
                doubtful[name].listed_until = now + inodes.timeouts.name_s
                found[name] = doubtful[name].inode
        run_each = threads.run_each_in_threads if directory.takes_long else threads.run_each
        for children in await run_each(directory.children, _slices(unknown)):
            found.update((child.name, child) for child in children)
        return found

    def _reply_child(
        self, token: ReaddirToken, index: int, child: Child | Inode, inodes: InodeTable
    ) -> bool:
        """Add the child to the reply; True if it fitted, and so counts as a lookup."""
        name = self._names[index]
        if isinstance(child, Inode):
            if child.lookups > 0:
                fitted = readdir_reply(token, os.fsencode(name), child.entry, index + 3)
                child.lookups += fitted
                return fitted
            child = Child(name, child.node, child.attr)  # forgotten after the batch was made
        inode = inodes.remember(self.inode, child)
        fitted = readdir_reply(token, os.fsencode(name), inode.entry, index + 3)
        if not fitted:
            inodes.forget(inode.number, 1)
        return fitted


async def listing_of(
    inode: Inode, inodes: InodeTable, threads: StorageThreads, batches: Batches
) -> Listing:
    """Return a snapshot of a directory; raises NotADirectory and the errors of ``names``."""
    if inodes.names_are_stale(inode):
        began_at = time.monotonic()
        directory = inodes.node(inode.number, Directory)
        collect = threads.collect_in_threads if directory.takes_long else threads.collect
        names = await collect(directory.names)
        if names != inode.names:  # else its handles share the same list
            inode.names = names
        inode.names_at = began_at
        inode.names_until = time.monotonic() + inodes.timeouts.name_s
    return Listing(inode, inode.names, batches)


def _slices(names: list[str]) -> list[list[str]]:
    return [names[start : start + _SLICE] for start in range(0, len(names), _SLICE)]


def _dot(number: InodeT) -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_ino = number
    entry.st_mode = ModeT(stat.S_IFDIR)
    return entry

"""Directories being listed: a snapshot of the names, and a batch of the next children.

Handles of one directory share the names that did not change. All batches of a mount share one
bound, since a program may hold thousands of directories open.
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
from blobfs.vfs.nodes import Child

_BATCHES: Final = (512, 8192)
"""Children asked for ahead of replies: at first, and at the most, later on."""

_MAX_BATCHED: Final = 65_536
"""Children in the batches of all handles (about 500 bytes each)."""

_SLICE: Final = 32
"""Children asked for between two checkpoints, or in one thread (about 30 µs each)."""


class Batches:
    """The handles that hold a batch, the latest used last; the oldest batches are dropped.

    A handle asks again for the children of a dropped batch. Used on the event loop only.
    """

    def __init__(self, limit: int = _MAX_BATCHED) -> None:
        self._limit = limit
        self._sizes: OrderedDict[Listing, int] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, listing: Listing, size: int) -> None:
        """Count the batch of *listing*, and drop the oldest of the others beyond the limit."""
        self.discard(listing)
        self._sizes[listing] = size
        self._size += size
        while self._size > self._limit and len(self._sizes) > 1:
            oldest, dropped = self._sizes.popitem(last=False)
            self._size -= dropped
            oldest.drop_batch()

    def discard(self, listing: Listing) -> None:
        """Count the batch of *listing* no longer."""
        self._size -= self._sizes.pop(listing, 0)


class Listing:
    """A directory as it was when it was opened: what comes or goes shifts nothing.

    Positions are those of ``readdir``: 0 is ``.``, 1 is ``..``, 2 the first name. What the
    children are is asked in batches, which may reach beyond what fits a reply.
    """

    def __init__(self, inode: Inode, names: list[str], batches: Batches) -> None:
        self.inode = inode
        self.replied = False
        self._names = names
        self._batches = batches
        self._batch: list[Child | Inode | None] = []  # None: gone since
        self._batch_start = 0  # the index of its first name
        self._batch_size = _BATCHES[0]

    async def reply(
        self, token: ReaddirToken, position: int, inodes: InodeTable, threads: StorageThreads
    ) -> None:
        """Fill a reply from *position* on; the kernel remembers each child that fits."""
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
        """Let go of the batch: the end was reached, or the handle is closed."""
        self._batches.discard(self)
        self.drop_batch()

    def drop_batch(self) -> None:
        """Forget the children that were asked for ahead of replies."""
        self._batch = []

    async def _from(
        self, index: int, inodes: InodeTable, threads: StorageThreads
    ) -> list[Child | Inode | None]:
        """What the names from *index* on are, for as many as are known; at least one is."""
        at = index - self._batch_start
        if not 0 <= at < len(self._batch):
            at = 0
            names = self._names[index : index + self._batch_size]
            self._batch_size = min(4 * self._batch_size, _BATCHES[1])
            found = await self._look_at(names, inodes, threads)
            self._batch = [found.get(name) for name in names]
            self._batch_start = index
            self._batches.add(self, len(self._batch))
        return self._batch[at:]

    async def _look_at(
        self, names: list[str], inodes: InodeTable, threads: StorageThreads
    ) -> dict[str, Child | Inode]:
        """Those of *names* that are there, each with what is known of it, or asked now."""
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
        directory = inodes.directory(self.inode.number)
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
        """Whether the child fitted the reply, and so was remembered."""
        name = self._names[index]
        if isinstance(child, Inode):
            if child.lookups > 0:
                fitted = readdir_reply(token, os.fsencode(name), child.entry, index + 3)
                child.lookups += fitted
                return fitted
            child = Child(name, child.node, child.attr)  # forgotten since the batch was made
        inode = inodes.remember(self.inode, child)
        fitted = readdir_reply(token, os.fsencode(name), inode.entry, index + 3)
        if not fitted:
            inodes.forget(inode.number, 1)
        return fitted


async def listing_of(
    inode: Inode, inodes: InodeTable, threads: StorageThreads, batches: Batches
) -> Listing:
    """A snapshot of the directory; raises NotADirectory and what ``Directory.names`` does."""
    if inodes.lists_anew(inode):
        asked_at = time.monotonic()
        directory = inodes.directory(inode.number)
        collect = threads.collect_in_threads if directory.takes_long else threads.collect
        names = await collect(directory.names)
        if names != inode.names:  # else its handles share them
            inode.names = names
        inode.names_at = asked_at
        inode.names_until = time.monotonic() + inodes.timeouts.name_s
    return Listing(inode, inode.names, batches)


def _slices(names: list[str]) -> list[list[str]]:
    return [names[start : start + _SLICE] for start in range(0, len(names), _SLICE)]


def _dot(number: InodeT) -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_ino = number
    entry.st_mode = ModeT(stat.S_IFDIR)
    return entry

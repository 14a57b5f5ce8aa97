"""Handles of directories: what they share, and how much they may hold."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import pytest
from pyfuse3 import InodeT, ReaddirToken

from blobfs.fuse import readdir as listings
from blobfs.fuse.attributes import AttributeMapper
from blobfs.fuse.inodes import Inode, InodeTable
from blobfs.fuse.readdir import Batches, Listing, listing_of
from blobfs.fuse.threads import StorageThreads
from blobfs.vfs.nodes import Attr, Child, Directory, Kind, Placed

THREADS = StorageThreads(inline=True)


@dataclass(frozen=True, slots=True)
class Names(Placed, Directory):
    """A directory of *entries*, each an empty directory."""

    path: str
    entries: tuple[str, ...]

    def attr(self) -> Attr:
        return Attr(Kind.DIRECTORY)

    def lookup(self, name: str) -> Directory:
        return Names(f"{self.path}/{name}", ())

    def names(self) -> Iterator[str]:
        return (f"{name}!"[:-1] for name in self.entries)  # new strings each time

    def children(self, names: Iterable[str]) -> list[Child]:
        return [Child.of(name, self.lookup(name)) for name in names]


@pytest.fixture
def inodes() -> InodeTable:
    return InodeTable(Names("/", tuple(f"n{number}" for number in range(1000))), AttributeMapper())


def root_of(inodes: InodeTable) -> Inode:
    return inodes[InodeT(1)]


async def opened(inodes: InodeTable, batches: Batches) -> Listing:
    """A handle that has listed the directory anew, as after rewinddir(3)."""
    root_of(inodes).names_until = 0.0
    return await listing_of(root_of(inodes), inodes, THREADS, batches)


@pytest.fixture
def full_replies(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Replies that have room for *left* more entries."""
    room = SimpleNamespace(left=0)

    def reply(*_: object) -> bool:
        room.left -= 1
        return bool(room.left >= 0)

    monkeypatch.setattr(listings, "readdir_reply", reply)
    return room


async def read(handle: Listing, inodes: InodeTable, start: int = 0) -> None:
    await handle.reply(cast("ReaddirToken", None), start, inodes, THREADS)


async def test_handles_share_names_that_did_not_change(inodes: InodeTable) -> None:
    batches = Batches()
    first = await opened(inodes, batches)
    assert (await opened(inodes, batches))._names is first._names


async def test_batches_of_all_handles_have_one_bound(
    inodes: InodeTable, full_replies: SimpleNamespace
) -> None:
    batches = Batches(limit=1500)
    handles = [await opened(inodes, batches) for _ in range(20)]
    for handle in handles:
        full_replies.left = 10
        await read(handle, inodes)
    assert 0 < len(batches) <= 1500
    full_replies.left = 2000
    await read(handles[0], inodes)  # whose batch was dropped
    assert full_replies.left == 2000 - 2 - 1000


async def test_handle_that_was_read_to_its_end_holds_no_batch(
    inodes: InodeTable, full_replies: SimpleNamespace
) -> None:
    batches = Batches()
    full_replies.left = 2000
    await read(await opened(inodes, batches), inodes)
    assert len(batches) == 0


async def test_handle_that_is_closed_holds_no_batch(
    inodes: InodeTable, full_replies: SimpleNamespace
) -> None:
    batches = Batches()
    handle = await opened(inodes, batches)
    full_replies.left = 10
    await read(handle, inodes)
    handle.release()
    assert len(batches) == 0

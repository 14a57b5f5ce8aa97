"""The table of inodes: files of an image that it drops while the kernel holds them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyfuse3 import InodeT

from blobfs.concurrency import refuse_to_take_long
from blobfs.errors import NotFound, Stale
from blobfs.fuse.attributes import AttributeMapper
from blobfs.fuse.inodes import Inode, InodeTable
from blobfs.fuse.threads import StorageThreads
from blobfs.images.rootfs import ROOT, RootFilesystem
from blobfs.vfs.fixed_nodes import FixedDirectory
from blobfs.vfs.nodes import Child, File
from blobfs.vfs.rootfs import Root, RootDirectory
from tests.support.image_trees import merged
from tests.support.layers import archive, member

NAMES = [f"f{number}" for number in range(10)]


@pytest.fixture
def files(tmp_path: Path) -> Iterator[RootFilesystem]:
    content = archive(*(member(name.encode(), name.encode()) for name in NAMES))
    with merged([content], tmp_path / "tree") as opened:
        yield opened


@pytest.fixture
def children(files: RootFilesystem) -> list[Child]:
    directory = RootDirectory(Root("/rootfs", lambda: files, False), files.entry(ROOT))
    return directory.children(NAMES)


@pytest.fixture
def table() -> InodeTable:
    return InodeTable(FixedDirectory("/", {}, lambda: 0), AttributeMapper(), limit=3)


def _remember(table: InodeTable, children: list[Child]) -> list[Inode]:
    return [table.remember(table[InodeT(1)], child) for child in children]


def _held_in_table(table: InodeTable, inodes: list[Inode]) -> list[bool]:
    return [table.get(inode.number) is not None for inode in inodes]


def test_latest_files_of_an_image_are_in_the_table(
    table: InodeTable, children: list[Child]
) -> None:
    """[S21.10] A directory of a million files is listed in 128 MiB of memory."""
    inodes = _remember(table, children)
    assert _held_in_table(table, inodes) == [False] * 7 + [True] * 3
    assert len(table) == 1 + len(NAMES)


def test_dropped_inode_is_made_again_as_it_was(table: InodeTable, children: list[Child]) -> None:
    first, *_ = _remember(table, children)
    again = table[first.number]
    assert (again.number, again.attr, again.node) == (first.number, first.attr, first.node)
    assert table.node(first.number, File) == first.node
    assert table.find_file(children[1].node.key) is None


def test_number_is_the_same_after_the_inode_was_dropped(
    table: InodeTable, children: list[Child]
) -> None:
    numbers = [inode.number for inode in _remember(table, children)]
    assert [inode.number for inode in _remember(table, children)] == numbers


def test_nothing_is_left_of_files_that_the_kernel_has_forgotten(
    table: InodeTable, children: list[Child]
) -> None:
    """The kernel forgets all lookups at once; some came before the inode was dropped."""
    numbers = [inode.number for inode in _remember(table, children + children)]
    for number in numbers[: len(NAMES)]:
        table.forget(number, 2)
    assert len(table) == 1
    with pytest.raises(KeyError):
        table[numbers[0]]


def test_open_listing_does_not_count_lookups_of_a_dropped_inode(
    table: InodeTable, children: list[Child]
) -> None:
    first, *_ = _remember(table, children)
    assert first.lookups == 0


def test_names_of_dropped_inodes_are_looked_up_again(
    table: InodeTable, children: list[Child]
) -> None:
    _remember(table, children)
    assert list(table[InodeT(1)].children) == NAMES[-3:]


def test_number_that_no_file_of_the_image_has(table: InodeTable, children: list[Child]) -> None:
    first, *_ = _remember(table, children)
    with pytest.raises(NotFound):
        table[InodeT(first.number + 100)]


def test_no_other_node_gets_the_number_of_a_dropped_inode(
    table: InodeTable, children: list[Child], files: RootFilesystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S3.3] Two that would get the same one do not."""
    first, *_ = _remember(table, children)
    place = first.number & (2**62 - 1)
    other = RootDirectory(Root("/other", lambda: files, False), files.entry(ROOT)).children(
        NAMES[:1]
    )
    monkeypatch.setattr("blobfs.fuse.inodes.hashed", lambda _key: place)
    [found] = _remember(table, other)
    assert found.number != first.number


async def test_image_that_is_not_open_any_more_is_opened_for_its_dropped_inodes(
    table: InodeTable, files: RootFilesystem
) -> None:
    """As fstat(2) needs: the kernel does not repeat it after ESTALE, as it has no name."""
    opened = [files]

    def reopened() -> RootFilesystem:
        if not opened:
            refuse_to_take_long()
            opened.append(files)
        return files

    root = Root("/rootfs", reopened, False)
    first, *_ = _remember(table, RootDirectory(root, files.entry(ROOT)).children(NAMES))
    opened.clear()
    with pytest.raises(Stale):
        table[first.number]
    found = await table.held(first.number, StorageThreads(inline=True).run)
    assert (found.number, found.attr) == (first.number, first.attr)

"""The contract of RootFilesystem: entries, listings, links, content, and faults."""

import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blobfs.drivers.base import BytesReader
from blobfs.errors import (
    LayerInvalid,
    NotADirectory,
    NotAFile,
    NotFound,
    StorageUnavailable,
)
from blobfs.images.rootfs import ROOT, RootFilesystem
from tests.support import layers
from tests.support.image_trees import merged
from tests.support.layers import archive, directory, hardlink, member, symlink

LAYERS = [
    archive(
        directory(b"etc"),
        member(b"etc/b", b"bb", mode=0o4750, uid=1, gid=2, xattrs={b"user.a": b"\0"}),
        member(b"etc/a", b"old"),
        member(b"null", kind=b"3", device=(1, 3)),
    ),
    archive(
        member(b"etc/a", b"new content"),
        hardlink(b"etc/c", b"etc/b"),
        hardlink(b"etc/bad", b"none"),
        symlink(b"abs", b"/etc/../etc/a"),
        symlink(b"etc/up", b"../../abs"),
        symlink(b"loop", b"loop"),
        member(b"made/x"),
        layers.sparse_pax_10(b"holes", {4: b"abc", 7: b"d", 20: b"e" * 5}, 30),
    ),
]


@pytest.fixture
def rootfs(tmp_path: Path) -> Iterator[RootFilesystem]:
    with merged(LAYERS, tmp_path / "tree") as opened:
        yield opened


def test_entry_has_all_attributes(rootfs: RootFilesystem) -> None:
    found = rootfs.resolve(b"etc/b")
    assert found == rootfs.entry(found.number) == rootfs.resolve(b"/etc/./c")
    assert found[1:] == (
        stat.S_IFREG | 0o4750, 1, 2, 2, layers.MTIME_NS, (0, 0), 2, b"", ""
    )  # fmt: skip
    assert rootfs.resolve(b"null").device == (1, 3)
    assert rootfs.xattrs(found.number) == {b"user.a": b"\0"}
    assert rootfs.xattrs(ROOT) == {}


def test_directory_has_a_link_for_each_directory_in_it(rootfs: RootFilesystem) -> None:
    assert [rootfs.resolve(path).links for path in (b"", b"etc", b"made")] == [4, 2, 2]


def test_directory_that_no_layer_names_has_the_time_of_the_image(rootfs: RootFilesystem) -> None:
    for path in (b"", b"made"):
        found = rootfs.resolve(path)
        assert (found.mode, found.uid, found.mtime_ns) == (0o40755, 0, layers.CREATED_NS)


def test_root_that_a_layer_names_has_its_attributes(tmp_path: Path) -> None:
    with merged([archive(directory(b"./", 0o711, uid=5))], tmp_path / "tree") as rootfs:
        assert rootfs.entry(ROOT)[1:6] == (stat.S_IFDIR | 0o711, 5, 0, 0, layers.MTIME_NS)


def test_names_are_sorted_and_entries_are_those_of_the_names(rootfs: RootFilesystem) -> None:
    number = rootfs.lookup(ROOT, b"etc").number
    assert list(rootfs.names(number)) == [b"a", b"b", b"bad", b"c", b"up"]
    found = rootfs.entries(number, [b"c", b"none", b"a"])
    assert [name for name, _ in found] == [b"c", b"a"]
    assert found[1][1] == rootfs.lookup(number, b"a")
    assert list(rootfs.names(rootfs.resolve(b"null").number)) == []


def test_missing_names(rootfs: RootFilesystem) -> None:
    for path in (b"none", b"etc/none", b"loop", b"loop/x"):
        with pytest.raises(NotFound):
            rootfs.resolve(path)
    with pytest.raises(NotFound):
        rootfs.entry(1000)
    with pytest.raises(NotADirectory):
        rootfs.resolve(b"etc/a/x")


def test_symlinks_stay_in_the_root(rootfs: RootFilesystem) -> None:
    assert rootfs.resolve(b"etc/up") == rootfs.resolve(b"../../etc/a")
    number = rootfs.lookup(ROOT, b"abs").number
    assert rootfs.entry(number).target == b"/etc/../etc/a"
    assert rootfs.entry(number).size == 13
    assert rootfs.entry(number).mode == stat.S_IFLNK | 0o777


def _content(rootfs: RootFilesystem, path: bytes, offset: int, size: int) -> bytes:
    with rootfs.open(rootfs.resolve(path).number) as reader:
        return reader.read_at(offset, size)


def test_content_is_that_of_the_layer(rootfs: RootFilesystem) -> None:
    assert _content(rootfs, b"etc/a", 0, 100) == b"new content"
    assert _content(rootfs, b"etc/a", 4, 3) == b"con"
    assert _content(rootfs, b"etc/a", 11, 3) == _content(rootfs, b"etc/a", 50, 3) == b""
    assert _content(rootfs, b"made/x", 0, 3) == b""
    with pytest.raises(NotAFile):
        rootfs.open(ROOT)


def test_any_range_of_a_sparse_file(rootfs: RootFilesystem) -> None:
    expected = bytes(4) + b"abcd" + bytes(12) + b"e" * 5 + bytes(5)
    with rootfs.open(rootfs.resolve(b"holes").number) as reader:
        assert reader.size == 30
        for offset in range(33):
            for size in range(33):
                assert reader.read_at(offset, size) == expected[offset : offset + size]


def test_layer_that_is_short_is_no_end_of_a_file(tmp_path: Path) -> None:
    merged(LAYERS, tmp_path / "tree").close()
    with RootFilesystem(tmp_path / "tree", lambda _: BytesReader(b"x" * 600)) as rootfs:
        with pytest.raises(LayerInvalid):
            _content(rootfs, b"etc/a", 0, 100)
        with pytest.raises(LayerInvalid):
            _content(rootfs, b"holes", 0, 100)


def test_reader_closes_the_layer_that_it_has_opened(tmp_path: Path) -> None:
    closed: list[int] = []

    class Layer(BytesReader):
        def close(self) -> None:
            closed.append(1)

    merged(LAYERS, tmp_path / "tree").close()
    with RootFilesystem(tmp_path / "tree", lambda number: Layer(LAYERS[number])) as rootfs:
        for path in (b"etc/a", b"holes", b"made/x"):
            rootfs.open(rootfs.resolve(path).number).close()
    assert len(closed) == 2


def test_entry_with_a_fault_is_listed_and_cannot_be_used(rootfs: RootFilesystem) -> None:
    number = rootfs.lookup(ROOT, b"etc").number
    [(_, bad)] = rootfs.entries(number, [b"bad"])
    assert "hard link to b'none'" in bad.fault
    for use in (rootfs.entry, rootfs.xattrs, rootfs.open):
        with pytest.raises(LayerInvalid, match="hard link"):
            use(bad.number)
    with pytest.raises(LayerInvalid, match="hard link"):
        rootfs.lookup(number, b"bad")


def test_totals_count_hard_links_once(rootfs: RootFilesystem) -> None:
    entries, size = rootfs.totals
    assert entries == 12
    assert size == 2 + 11 + 30


def test_numbers_are_those_of_the_tree_however_it_was_made(tmp_path: Path) -> None:
    """A name that was replaced or removed takes no number."""
    once = [archive(member(b"b"), member(b"a/x"), hardlink(b"c", b"b"))]
    again = [
        archive(member(b"z"), member(b"a")),
        archive(layers.whiteout(b"z")),
        archive(layers.whiteout(b"a")),
        *once,
    ]
    numbers = []
    for number, content in enumerate((once, again)):
        with merged(content, tmp_path / f"{number}") as rootfs:
            numbers.append([rootfs.resolve(path).number for path in (b"a", b"a/x", b"b", b"c")])
    assert numbers == [[2, 5, 3, 3]] * 2


def test_threads_share_a_root_filesystem(tmp_path: Path) -> None:
    content = [archive(*(member(b"f%03d" % number, b"%d" % number) for number in range(300)))]
    with merged(content, tmp_path / "tree") as rootfs, ThreadPoolExecutor(8) as pool:

        def check(_: int) -> int:
            for name, entry in rootfs.entries(ROOT, list(rootfs.names(ROOT))):
                assert rootfs.lookup(ROOT, name) == entry
                with rootfs.open(entry.number) as reader:
                    assert int(reader.read_at(0, 9)) == int(name[1:])
            return 1

        assert sum(pool.map(check, range(16))) == 16


def test_file_that_is_no_tree(tmp_path: Path) -> None:
    (tmp_path / "tree").write_bytes(b"junk" * 5000)
    with pytest.raises(StorageUnavailable, match="tree"):
        RootFilesystem(tmp_path / "tree", lambda _: BytesReader(b"")).entry(ROOT)


def test_file_with_bytes_after_its_end(tmp_path: Path) -> None:
    merged(LAYERS, tmp_path / "tree").close()
    with (tmp_path / "tree").open("ab") as file:
        file.write(b"checksum" * 9)
    with RootFilesystem(tmp_path / "tree", lambda number: BytesReader(LAYERS[number])) as rootfs:
        assert _content(rootfs, b"etc/a", 0, 100) == b"new content"


def test_failed_layer_ends_the_merge_and_leaves_nothing_beside_the_file(tmp_path: Path) -> None:
    broken = [LAYERS[0], b"junk" * 200]
    with pytest.raises(LayerInvalid):
        merged(broken, tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []


def test_directory_that_cannot_be_written_is_an_error_of_the_storage(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable, match="none/tree"):
        merged(LAYERS, tmp_path / "none" / "tree")

"""The differences between two images."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from blobfs.digest import Digest
from blobfs.drivers.base import BytesReader, FileReader
from blobfs.errors import LayerInvalid
from blobfs.images.comparison import Aspect, Change, Comparison, Difference, Side
from blobfs.images.rootfs import RootFilesystem
from tests.support.image_trees import merged
from tests.support.layers import (
    archive,
    directory,
    hardlink,
    member,
    opaque,
    sparse_pax_10,
    symlink,
    whiteout,
)

BASE = archive(
    directory(b"etc"),
    member(b"etc/passwd", b"root"),
    member(b"etc/old", b"old"),
    member(b"bin/su", b"#!", xattrs={b"user.a": b"1"}),
    symlink(b"link", b"etc"),
    member(b"dev/null", kind=b"3", device=(1, 3)),
)


class Images:
    """Sides of a comparison, from layers."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = 0

    def side(self, *layers: bytes) -> Side:
        self._count += 1
        files = merged(layers, self._directory / f"tree{self._count}")
        return Side(files, [Digest.of(layer) for layer in layers])

    def differences(
        self, old: Sequence[bytes], new: Sequence[bytes], *ignored: Aspect
    ) -> list[Difference]:
        comparison = Comparison(self.side(*old), self.side(*new), ignored)
        return list(comparison.differences())


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return Images(tmp_path)


def brief(found: Sequence[Difference]) -> list[tuple[str, bytes, int]]:
    return [(each.change.value, each.path, each.layer) for each in found]


def test_image_equals_itself(images: Images) -> None:
    assert images.differences([BASE], [BASE]) == []


def test_same_files_in_other_layers_are_equal(images: Images) -> None:
    lower, upper = archive(member(b"a", b"1"), member(b"b", b"2")), archive(member(b"c", b"3"))
    both = archive(member(b"a", b"1"), member(b"b", b"2"), member(b"c", b"3"))
    assert images.differences([lower, upper], [both]) == []


def test_added_changed_and_removed_files_have_their_layers(images: Images) -> None:
    changes = archive(
        member(b"etc/new/file", b"new"), member(b"etc/passwd", b"user"), whiteout(b"etc/old")
    )
    other = archive(member(b"srv", b""))
    assert brief(images.differences([BASE], [BASE, other, changes])) == [
        ("added", b"/etc/new", 2),
        ("added", b"/etc/new/file", 2),
        ("removed", b"/etc/old", 0),
        ("changed", b"/etc/passwd", 2),
        ("added", b"/srv", 1),
    ]


@pytest.mark.parametrize(
    ("changed", "path", "aspects"),
    [
        (member(b"etc/passwd", b"user"), b"/etc/passwd", [Aspect.CONTENT]),
        (member(b"etc/passwd", b"longer"), b"/etc/passwd", [Aspect.CONTENT]),
        (member(b"etc/passwd", b"root", mode=0o600), b"/etc/passwd", [Aspect.MODE]),
        (member(b"etc/passwd", b"root", uid=1), b"/etc/passwd", [Aspect.OWNER]),
        (member(b"etc/passwd", b"root", gid=1), b"/etc/passwd", [Aspect.OWNER]),
        (member(b"etc/passwd", b"root", mtime_ns=1), b"/etc/passwd", [Aspect.TIME]),
        (member(b"bin/su", b"#!", xattrs={b"user.a": b"2"}), b"/bin/su", [Aspect.XATTRS]),
        (member(b"bin/su", b"#!"), b"/bin/su", [Aspect.XATTRS]),
        (symlink(b"link", b"bin"), b"/link", [Aspect.TARGET]),
        (symlink(b"etc/passwd", b"x"), b"/etc/passwd", [Aspect.TYPE]),
        (member(b"dev/null", kind=b"3", device=(1, 4)), b"/dev/null", [Aspect.DEVICE]),
        (member(b"dev/null", kind=b"4", device=(1, 3)), b"/dev/null", [Aspect.TYPE]),
        (directory(b"etc", 0o700), b"/etc", [Aspect.MODE]),
        (directory(b"", 0o700), b"/", [Aspect.MODE]),
        (hardlink(b"etc/passwd", b"none"), b"/etc/passwd", [Aspect.FAULT]),
        (
            member(b"bin/su", b"!!", uid=1, mode=0o4755, mtime_ns=0), b"/bin/su",
            [Aspect.MODE, Aspect.OWNER, Aspect.TIME, Aspect.CONTENT, Aspect.XATTRS],
        ),
    ],
)  # fmt: skip
def test_changed_file_has_its_aspects(
    images: Images, changed: bytes, path: bytes, aspects: list[Aspect]
) -> None:
    [found] = images.differences([BASE], [BASE, archive(changed)])
    assert (found.change, found.path, found.layer) == (Change.CHANGED, path, 1)
    assert list(found.aspects) == aspects
    assert images.differences([BASE], [BASE, archive(changed)], *aspects) == []


def test_time_of_a_directory_does_not_count(images: Images) -> None:
    assert images.differences([BASE], [BASE, archive(directory(b"etc", mtime_ns=5))]) == []


def test_directory_that_becomes_a_file_loses_its_files(images: Images) -> None:
    base = archive(directory(b"a"), member(b"a/b/c"), member(b"z"))
    replaced = archive(member(b"a"))
    assert brief(images.differences([base], [base, replaced])) == [
        ("changed", b"/a", 1), ("removed", b"/a/b", 0), ("removed", b"/a/b/c", 0),
    ]  # fmt: skip
    assert brief(images.differences([base, replaced], [base])) == [
        ("changed", b"/a", 0), ("added", b"/a/b", 0), ("added", b"/a/b/c", 0),
    ]  # fmt: skip


def test_opaque_directory_removes_and_adds(images: Images) -> None:
    changes = archive(opaque(b"etc"), member(b"etc/passwd", b"root"))
    assert brief(images.differences([BASE], [BASE, changes])) == [("removed", b"/etc/old", 0)]


def test_large_files_are_compared_to_their_end(images: Images) -> None:
    content = os.urandom(3 * 2**20)
    same = archive(member(b"first"), member(b"file", content))
    other = archive(member(b"file", content[:-1] + bytes((content[-1] ^ 1,))))
    assert images.differences([archive(member(b"file", content))], [same])[0].path == b"/first"
    [found] = images.differences([archive(member(b"file", content))], [other])
    assert found.aspects == (Aspect.CONTENT,)


def test_holes_are_zeros(images: Images) -> None:
    holes = archive(sparse_pax_10(b"file", {2**20: b"data"}, 2**20 + 4))
    dense = archive(member(b"file", bytes(2**20) + b"data", mtime_ns=1_600_000_000 * 10**9))
    assert images.differences([holes], [dense]) == []


def test_files_of_one_layer_are_not_read(images: Images, tmp_path: Path) -> None:
    def refuse(_: int) -> FileReader:
        raise LayerInvalid("read")

    layer = archive(member(b"file", b"content"))
    old = images.side(layer)
    refusing = RootFilesystem(tmp_path / "tree1", refuse)
    both = images.side(archive(member(b"new")), layer)
    assert [each.path for each in Comparison(Side(refusing, old.layers), both).differences()] == [
        b"/new"
    ]
    copied = images.side(archive(member(b"new"), member(b"file", b"content")))
    with pytest.raises(LayerInvalid):
        list(Comparison(Side(refusing, old.layers), copied).differences())


def test_directory_with_many_names_is_walked_in_order(images: Images) -> None:
    names = [b"d/%06d" % number for number in range(1500)]
    old, new = (archive(*map(member, names[start::2])) for start in (0, 1))
    found = images.differences([old], [new])
    assert [each.change for each in found] == [Change.REMOVED, Change.ADDED] * 750
    assert [each.path for each in found] == [b"/" + name for name in names]


def test_contents_are_read_in_the_order_of_the_archive(images: Images, tmp_path: Path) -> None:
    names = [b"%02d" % number for number in range(30)]
    old = images.side(archive(*(member(name, b"old" + name) for name in names)))
    layer = archive(*(member(name, b"new" + name) for name in reversed(names)))
    new = images.side(layer)
    offsets: list[int] = []

    class Recorder(BytesReader):
        def read_at(self, offset: int, size: int) -> bytes:
            offsets.append(offset)
            return super().read_at(offset, size)

    recorded = RootFilesystem(tmp_path / "tree2", lambda _: Recorder(layer))
    found = Comparison(old, Side(recorded, new.layers)).differences()
    assert [each.path for each in found] == [b"/" + name for name in names]
    assert offsets == sorted(offsets)
    assert len(offsets) == len(names)

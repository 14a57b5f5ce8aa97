"""Root filesystems are those of ``umoci unpack``, in each field of each path."""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.support import layers
from tests.support.image_trees import (
    differences,
    faults_of,
    merged,
    tree_of,
    unpacked,
    unpacked_layout,
)
from tests.support.images import debian
from tests.support.layers import (
    LayerImages,
    archive,
    directory,
    hardlink,
    member,
    opaque,
    symlink,
    whiteout,
)

pytestmark = [
    pytest.mark.registry,
    pytest.mark.usefixtures("as_root"),
]


CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
SPARSE_PARTS = {4096: b"a" * 512, 8192: b"b" * 1000}

CASES: dict[str, Sequence[bytes]] = {
    "no layer": [],
    "empty layers": [b"", archive(member(b"a", b"1")), archive(), b""],
    "all types": [
        archive(
            directory(b"d", 0o1777, uid=1, gid=2),
            member(b"d/f", b"content", mode=0o4755, uid=2**31, gid=65534),
            member(b"d/g", b"", mode=0o2711),
            symlink(b"d/s", b"../d/f", uid=7),
            member(b"d/p", kind=b"6", mode=0o600),
            member(b"d/c", kind=b"3", mode=0o666, device=(1, 3)),
            member(b"d/b", kind=b"4", device=(259, 70_000)),
            member(b"d/overlay", kind=b"3", device=(0, 0)),
            member(b"zero", mode=0),
        )
    ],
    "root": [
        archive(directory(b"./", 0o711, uid=3, gid=4, xattrs={b"user.a": b"1"}), member(b"a"))
    ],
    "root again": [archive(directory(b".", 0o711)), archive(directory(b"/", 0o750, gid=9))],
    "files over files": [
        archive(member(b"a", b"1"), member(b"b")),
        archive(member(b"a", b"22", uid=3)),
    ],
    "whiteout": [archive(member(b"d/a"), member(b"d/b")), archive(whiteout(b"d/a"))],
    "whiteout of a directory": [
        archive(directory(b"d"), member(b"d/e/f"), member(b"g")),
        archive(whiteout(b"d")),
    ],
    "whiteout of nothing": [
        archive(member(b"a")),
        archive(whiteout(b"b"), whiteout(b"x/y/z"), whiteout(b"a/b"), opaque(b"q"), opaque(b"a")),
    ],
    "whiteout of the same layer": [
        archive(member(b"a", b"old"), member(b"b", b"old")),
        archive(whiteout(b"a"), member(b"a", b"new"), member(b"b", b"new"), whiteout(b"b")),
    ],
    "whiteout keeps what its layer has below": [
        archive(member(b"d/old"), member(b"d/e/old"), member(b"d/f/old")),
        archive(member(b"d/e/new"), whiteout(b"d"), member(b"d/newer")),
    ],
    "whiteout of a symlink": [
        archive(directory(b"d"), member(b"d/a"), symlink(b"s", b"d")),
        archive(whiteout(b"s")),
    ],
    "whiteout through a symlink": [
        archive(directory(b"d"), member(b"d/a"), member(b"d/b"), symlink(b"s", b"/d")),
        archive(whiteout(b"s/a")),
    ],
    "whiteout and back": [
        archive(directory(b"d", 0o700), member(b"d/a", b"1")),
        archive(whiteout(b"d")),
        archive(member(b"d/b", b"2")),
        archive(whiteout(b"d/b"), directory(b"d", 0o711)),
    ],
    "whiteout of another type": [
        archive(member(b"a"), member(b"d/b")),
        archive(directory(b".wh.a"), symlink(b"d/.wh.b", b"x")),
    ],
    "names of aufs": [archive(member(b".wh..wh.aufs"), directory(b".wh..wh.plnk"), member(b"a"))],
    "opaque": [
        archive(directory(b"d", 0o711), member(b"d/a"), member(b"d/e/f"), member(b"g")),
        archive(member(b"d/before"), opaque(b"d"), member(b"d/after")),
    ],
    "opaque root": [archive(member(b"a"), member(b"d/b")), archive(opaque(b""), member(b"c"))],
    "opaque twice": [
        archive(member(b"d/a"), member(b"d/e/b"), member(b"d/e/c")),
        archive(opaque(b"d"), opaque(b"d/e"), member(b"d/e/n"), opaque(b"d/e"), opaque(b"d")),
    ],
    "opaque in several layers": [
        archive(member(b"d/a")),
        archive(opaque(b"d"), member(b"d/b")),
        archive(opaque(b"d"), member(b"d/c")),
    ],
    "opaque after a lookup below": [
        archive(member(b"d/e/f")),
        archive(whiteout(b"d/e/none"), opaque(b"d"), member(b"d/e/new")),
    ],
    "opaque above and below": [
        archive(member(b"a/b/c/old"), member(b"a/b/old"), member(b"a/old")),
        archive(member(b"a/b/c/new"), opaque(b"a/b"), opaque(b"a")),
    ],
    "opaque through a symlink": [
        archive(member(b"d/a"), symlink(b"s", b"d")),
        archive(opaque(b"s"), member(b"s/b")),
    ],
    "opaque of a new directory": [
        archive(member(b"d/a"), member(b"d/x/y")),
        archive(member(b"d", b"file"), directory(b"d"), member(b"d/x/z"), opaque(b"d")),
    ],
    "file over directory and back": [
        archive(directory(b"x", 0o700), member(b"x/a"), member(b"x/b/c")),
        archive(member(b"x", b"file")),
        archive(directory(b"x", 0o711), member(b"x/d")),
        archive(symlink(b"x", b"y")),
        archive(directory(b"x")),
    ],
    "file over directory in one layer": [
        archive(member(b"x/a"), member(b"x", b"f"), directory(b"x"), member(b"x/b")),
    ],
    "directory over symlink to it": [
        archive(directory(b"usr/lib"), member(b"usr/lib/a"), symlink(b"lib", b"usr/lib")),
        archive(directory(b"lib", 0o700), member(b"lib/b")),
    ],
    "directory again": [
        archive(directory(b"d", 0o700, uid=1, xattrs={b"user.a": b"1"}), member(b"d/a")),
        archive(directory(b"d", 0o755, gid=5, mtime_ns=10**18 + 5, xattrs={b"user.b": b"2"})),
    ],
    "directory after its files": [
        archive(member(b"d/e/f"), directory(b"d/e", 0o711), directory(b"d"))
    ],
    "times of directories": [
        archive(directory(b"d", mtime_ns=10**18 + 1), member(b"d/a"), symlink(b"d/s", b"a")),
        archive(member(b"d/b"), whiteout(b"d/a"), hardlink(b"d/c", b"d/b")),
    ],
    "set-group-id directory": [
        archive(directory(b"d", 0o2775, gid=50), member(b"d/e/f/g"), member(b"d/h", gid=1)),
    ],
    "hard links": [
        archive(member(b"a", b"1", mode=0o640, xattrs={b"user.a": b"1"}), hardlink(b"d/b", b"a")),
        archive(hardlink(b"c", b"/d/b"), hardlink(b"e", b"./c"), hardlink(b"f", b"../d/../a")),
    ],
    "hard link to what is replaced": [
        archive(member(b"a", b"old")),
        archive(hardlink(b"b", b"a"), member(b"a", b"new")),
        archive(hardlink(b"c", b"b"), whiteout(b"b"), hardlink(b"d", b"a")),
        archive(whiteout(b"a")),
    ],
    "hard link over a file": [
        archive(member(b"a", b"1"), member(b"b", b"2"), hardlink(b"c", b"b"), member(b"d/e")),
        archive(hardlink(b"b", b"a"), hardlink(b"d", b"a")),
    ],
    "hard link twice": [archive(member(b"a"), hardlink(b"b", b"a"), hardlink(b"b", b"a"))],
    "hard link to a symlink": [
        archive(member(b"a"), symlink(b"s", b"a"), hardlink(b"t", b"s"), symlink(b"u", b"none")),
        archive(hardlink(b"v", b"u"), hardlink(b"w", b"t")),
    ],
    "hard link through a symlink": [
        archive(member(b"d/a", b"1"), symlink(b"s", b"/d"), symlink(b"d/up", b"..")),
        archive(hardlink(b"b", b"s/a"), hardlink(b"s/c", b"s/up/s/a")),
    ],
    "hard links to devices": [
        archive(member(b"p", kind=b"6"), member(b"c", kind=b"3", device=(1, 3))),
        archive(hardlink(b"q", b"p"), hardlink(b"e", b"c")),
    ],
    "symlink that is a parent of a hard link": [
        archive(directory(b"d"), member(b"d/f"), symlink(b"l", b"d")),
        archive(hardlink(b"l/g", b"l/f"), member(b"l/f", b"new")),
    ],
    "long names": [
        archive(
            member(b"n" * 255, b"1"),
            member(b"/".join([b"d" * 200] * 8), b"2"),
            symlink(b"s" * 120, b"t" * 3000),
            hardlink(b"h" * 200, b"n" * 255),
        )
    ],
    "long names of gnu": [
        archive(layers.gnu_long(b"n" * 255) + layers.header(b"n", magic=layers.GNU_MAGIC)),
    ],
    "names of any bytes": [
        archive(
            member(b"\xff\xfe", b"1"),
            member(b"d\n/ \t*", b"2"),
            member("ä€😀".encode(), b"3"),
            member(b"\\x41"),
            symlink(b"s", b"\xff\xfe"),
            hardlink(b"\x01", b"\xff\xfe"),
            member(b"\xff" * 150),
        ),
        archive(whiteout(b"\xff\xfe")),
    ],
    "attributes": [
        archive(
            member(
                b"a",
                xattrs={
                    b"user.a": b"\0\xff",
                    b"trusted.t": b"1",
                    b"user.empty": b"",
                    b"security.capability": CAPABILITY,
                    b"user.eq=u": b"1",
                },
            ),
            directory(b"d", xattrs={b"user.a": b"1", b"trusted.overlay.opaque": b"y"}),
            symlink(b"s", b"a", xattrs={b"trusted.t": b"2"}),
            hardlink(b"h", b"a"),
            member(b"other", xattrs={b"other.a": b"1", b"user.b": b"1"}),
        ),
        archive(member(b"a", mode=0o755, xattrs={b"security.capability": CAPABILITY})),
        archive(member(b"d/x")),
    ],
    "times": [
        archive(
            *(
                member(b"f%d" % number, mtime_ns=ns)
                for number, ns in enumerate(
                    (0, 1, -1, -(10**9), -1_500_000_000, 10**18 + 7, -(2**31) * 10**9)
                )
            ),
            symlink(b"s", b"x", mtime_ns=-5),
            directory(b"d", mtime_ns=-123_456_789_123),
        ),
        archive(member(b"a", mtime_ns=5 * 10**9)),
    ],
    "symlinked parents": [
        archive(
            directory(b"d"),
            symlink(b"s", b"d"),
            symlink(b"abs", b"/d/e"),
            symlink(b"up", b"../../d"),
        ),
        archive(member(b"s/a"), member(b"abs/f"), member(b"up/b"), directory(b"s/a2/b")),
    ],
    "absolute symlink in a directory": [
        archive(directory(b"t"), symlink(b"d/e/abs", b"/t"), member(b"d/e/abs/x")),
        archive(member(b"d/e/abs/y"), hardlink(b"z", b"d/e/abs/x"), whiteout(b"d/e/abs/x")),
    ],
    "symlink that is replaced through itself": [
        archive(
            symlink(b"d/back", b"."),
            member(b"d/back/x"),
            directory(b"d/back/back"),
            member(b"d/back/y"),
        )
    ],
    "symlink with a mode": [archive(member(b"s", kind=b"2", mode=0o640, link=b"x"))],
    "symlink parent to nothing": [
        archive(symlink(b"s", b"none/../made/x"), symlink(b"t", b"/s/./y//")),
        archive(member(b"s/a"), member(b"t/b")),
    ],
    "symlink parents out of the root": [
        archive(symlink(b"s", b"../../../../etc"), symlink(b"t", b"/../.."), symlink(b"u", b"/")),
        archive(member(b"s/passwd", b"x"), member(b"t/a"), member(b"u/b"), whiteout(b"u/t")),
    ],
    "symlink over a parent": [
        archive(member(b"d/a", b"1"), directory(b"e")),
        archive(symlink(b"d", b"e"), member(b"d/b", b"2")),
    ],
    "symlink loops": [
        archive(symlink(b"a", b"b"), symlink(b"b", b"a"), symlink(b"c", b"c"), symlink(b"d", b".")),
        archive(member(b"d/d/d/x")),
    ],
    "255 symlinks": [
        archive(
            directory(b"s0"),
            *(symlink(b"s%d" % number, b"s%d" % (number - 1)) for number in range(1, 256)),
            member(b"s255/x"),
        )
    ],
    "absolute names": [
        archive(member(b"/a"), member(b"//d//b"), directory(b"/d/"), whiteout(b"/c"))
    ],
    "names with dots": [
        archive(
            member(b"../a"),
            member(b"d/../../b"),
            member(b"./c/./d"),
            member(b"e/../f"),
            directory(b"g/h/../"),
            symlink(b"../../s", b"../.."),
        ),
    ],
    "duplicate members": [
        archive(
            member(b"a", b"1"),
            member(b"a", b"2", uid=5),
            directory(b"d"),
            member(b"d/x"),
            directory(b"d", 0o700),
            symlink(b"s", b"a"),
            member(b"s", b"3"),
            symlink(b"s", b"d"),
        )
    ],
    "old directories": [archive(layers.header(b"d/", b"\0"), layers.header(b"d/f", b"\0", 0))],
    "trailing slash of a file": [archive(member(b"f/", b"1"))],
    "members after the end": [archive(member(b"a")) + archive(member(b"b"))],
    "no end": [archive(member(b"a", b"1" * 512))[:-1024], layers.header(b"b", size=3) + b"abc"],
    "owners of no change": [
        archive(member(b"a", uid=2**32 - 1, gid=2**32 - 1), member(b"b", uid=-2))
    ],
    **{
        f"sparse {form}": [
            archive(make(b"d/s", SPARSE_PARTS, 100_000), make(b"hole", {}, 5000), member(b"a")),
        ]
        for form, make in layers.SPARSE.items()
        if form != "old"  # umoci does not know it
    },
    "many layers": [
        archive(member(b"d%d/f" % (n % 3), b"%d" % n), whiteout(b"d%d" % ((n + 1) % 3)))
        for n in range(30)
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_tree_is_that_of_umoci(name: str, tmp_path: Path) -> None:
    images = LayerImages(tmp_path / "layout")
    images.add("v1", *CASES[name], compress=len(name) % 2 == 0)
    theirs, failure = unpacked(images, "v1", tmp_path / "bundle")
    assert failure == ""
    with merged(CASES[name], tmp_path / "tree") as rootfs:
        assert differences(tree_of(rootfs), theirs) == []
        assert faults_of(rootfs) == {}
        assert rootfs.unplaced == ""


REFUSED: dict[str, tuple[Sequence[bytes], dict[bytes, str], str]] = {
    "hard link to nothing": (
        [archive(hardlink(b"bad", b"none"), member(b"a"))],
        {b"/bad": "is no file"},
        "",
    ),
    "hard link to a directory": (
        [archive(directory(b"d"), hardlink(b"bad", b"d"), hardlink(b"worse", b"/."))],
        {b"/bad": "is a directory", b"/worse": "is a directory"},
        "",
    ),
    "hard link to what it replaces": (
        [archive(member(b"bad/a"), hardlink(b"bad", b"bad/a"))],
        {b"/bad": "is no file"},
        "",
    ),
    "hard links in a circle": (
        [archive(hardlink(b"bad", b"worse"), hardlink(b"worse", b"none"))],
        {b"/bad": "is no file", b"/worse": "is no file"},
        "",
    ),
    "hard link to a later member": (
        [archive(hardlink(b"bad", b"a"), member(b"a"))],
        {b"/bad": "is no file"},
        "",
    ),
    "hard link to itself": ([archive(member(b"a", b"1"), hardlink(b"a", b"./a"))], {}, ""),
    "file below a file": ([archive(member(b"a"), member(b"a/b"))], {}, "without a place: 1"),
    "hard link below a file": (
        [archive(member(b"a"), hardlink(b"b", b"a/x"))],
        {b"/b": "is no file"},
        "",
    ),
    "parent in a loop": (
        [archive(symlink(b"a", b"b"), symlink(b"b", b"a"), member(b"a/x"), member(b"c"))],
        {},
        "too many symlinks",
    ),
    "256 symlinks": (
        [archive(*(symlink(b"s%d" % n, b"s%d" % (n + 1)) for n in range(256)), member(b"s0/x"))],
        {},
        "too many symlinks",
    ),
    "root that is a file": (
        [archive(member(b"./", b"1"), member(b"a"))],
        {},
        "root is a directory",
    ),
    "root that is a symlink": ([archive(symlink(b"/", b"/etc"), member(b"a"))], {}, "root is a"),
    "name that is too long": ([archive(member(b"n" * 256), member(b"a"))], {}, "is too long"),
    "symlink to a name that is too long": (
        [archive(symlink(b"s", b"n" * 300), member(b"s/x"))],
        {},
        "is too long",
    ),
    "path that is too long": ([archive(member(b"d/" * 2100), member(b"a"))], {}, "4200 bytes"),
    "symlink to nothing": ([archive(symlink(b"bad", b""))], {b"/bad": "target of 0 bytes"}, ""),
    "symlink to a path that is too long": (
        [archive(symlink(b"bad", b"t" * 5000))],
        {b"/bad": "target of 5000 bytes"},
        "",
    ),
    "unknown type": ([archive(member(b"bad", kind=b"Z"), member(b"a"))], {b"/bad": "unknown"}, ""),
    "contiguous file": ([archive(member(b"a", b"1", kind=b"7"))], {}, ""),
    "global header": ([archive(layers.raw_pax(b"9 path=b\n", b"g"), member(b"a"))], {}, ""),
    "time that is no number": (
        [archive(layers.pax({b"mtime": b"x"}), member(b"bad", mtime_ns=0))],
        {b"/bad": "b'x'"},
        "",
    ),
    "old sparse file": ([archive(layers.sparse_old_gnu(b"a", SPARSE_PARTS, 100_000))], {}, ""),
    "sparse file that has too little": (
        [
            archive(
                layers.pax({b"GNU.sparse.map": b"0,9", b"GNU.sparse.size": b"9"}),
                member(b"bad", mtime_ns=0),
            )
        ],
        {b"/bad": "all ranges"},
        "",
    ),
    "attribute of a user on a symlink": (
        [archive(symlink(b"a", b"b", xattrs={b"user.a": b"1"}))],
        {},
        "",
    ),
    "capability that is none": (
        [archive(member(b"a", xattrs={b"security.capability": b"x"}))],
        {},
        "",
    ),
}
"""Layers, the paths that have a fault, and the reason of a member that is left out.

umoci refuses such an image as a whole.
"""


@pytest.mark.parametrize("name", REFUSED)
def test_image_that_umoci_refuses_is_shown_without_the_fault(name: str, tmp_path: Path) -> None:
    content, faults, unplaced = REFUSED[name]
    images = LayerImages(tmp_path / "layout")
    images.add("v1", *content)
    _, failure = unpacked(images, "v1", tmp_path / "bundle")
    assert failure != ""
    with merged(content, tmp_path / "tree") as rootfs:
        found = faults_of(rootfs)
        assert found.keys() == faults.keys()
        for path, reason in faults.items():
            assert reason in found[path]
        assert unplaced in rootfs.unplaced
        assert bool(unplaced) == bool(rootfs.unplaced)
        assert b"" in tree_of(rootfs)


@pytest.mark.parametrize("name", [b".wh.", b".wh..", b"d/.wh.", b"d/.wh.."])
def test_whiteout_of_no_name_removes_nothing(name: bytes, tmp_path: Path) -> None:
    """umoci removes the directory, and for ``.wh...`` that above it, even above the root."""
    content = [archive(member(b"d/a")), archive(member(name), member(b"b"))]
    with merged(content, tmp_path / "tree") as rootfs:
        assert {b"", b"/d", b"/d/a", b"/b"} == tree_of(rootfs).keys()
        assert "whiteout of no name" in rootfs.unplaced


@pytest.mark.long
def test_tree_of_debian_is_that_of_umoci(tmp_path: Path) -> None:
    layout = debian()
    [found] = json.loads((layout / "index.json").read_bytes())["manifests"]
    manifest = json.loads(_blob(layout, found))
    content = [gzip.decompress(_blob(layout, layer)) for layer in manifest["layers"]]
    theirs, failure = unpacked_layout(layout, "bookworm", tmp_path / "bundle")
    assert failure == ""
    with merged(content, tmp_path / "tree") as rootfs:
        assert len(theirs) > 5_000
        assert differences(tree_of(rootfs), theirs) == []


def _blob(layout: Path, descriptor: Mapping[str, str]) -> bytes:
    return (layout / "blobs/sha256" / descriptor["digest"].partition(":")[2]).read_bytes()

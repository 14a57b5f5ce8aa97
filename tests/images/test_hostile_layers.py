"""Layers that are made to do harm: nothing outside of the root, bounded memory and time."""

import logging
import stat
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from blobfs.drivers.base import BytesReader
from blobfs.errors import LayerInvalid, NotFound
from blobfs.images.members import Member
from blobfs.images.rootfs import ROOT, RootFilesystem
from blobfs.images.tree import write_tree
from tests.support import layers
from tests.support.image_trees import faults_of, merged, tree_of
from tests.support.layers import (
    archive,
    directory,
    hardlink,
    header,
    member,
    opaque,
    pax,
    raw_pax,
    symlink,
    whiteout,
)

log = logging.getLogger(__name__)

SECRET = b"the content of a file of this machine"

BOMB = header(b"bomb", size=2**62)
"""A header of a file that has no content."""

LOOP = (symlink(b"l", b"l"), symlink(b"m", b"n"), symlink(b"n", b"m"))
UP = b"../" * 40

_MAP_1_0 = pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0"})


def _mapped(text: bytes, size: bytes) -> bytes:
    return pax({b"GNU.sparse.map": text, b"GNU.sparse.size": size})


PLANTED: dict[str, Sequence[bytes]] = {
    # Names that lead out of the root.
    "up": [archive(member(UP + b"secret", b"x"))],
    "up in the middle": [archive(member(b"a/../" + UP + b"secret", b"x"))],
    "absolute": [archive(member(b"/secret", b"x"), directory(b"//etc"))],
    "root of this machine": [archive(directory(b"/", 0o777), directory(b"..", 0o700))],
    "whiteout above": [archive(member(b"a")), archive(member(UP + b".wh.secret"))],
    "whiteout of up": [archive(member(b"a/b")), archive(member(b"a/.wh..."), member(b".wh..."))],
    "whiteout of no name": [archive(member(b"a/b")), archive(member(b".wh."), member(b"a/.wh.."))],
    "opaque above": [archive(member(b"a")), archive(opaque(b"../.."))],
    "hard link above": [archive(hardlink(b"a", UP + b"secret"))],
    "hard link to an absolute name": [archive(hardlink(b"a", b"/secret"))],
    "hard link through a symlink": [archive(symlink(b"s", UP), hardlink(b"a", b"s/secret"))],
    "hard link to the root": [archive(hardlink(b"a", b"/"), hardlink(b"b", b".."))],
    "symlink above": [archive(symlink(b"s", UP + b"secret"))],
    "symlink that is absolute": [archive(symlink(b"s", b"/secret"))],
    "file through a symlink": [archive(symlink(b"s", b"/"), member(b"s/secret", b"x"))],
    "file through symlinks above": [archive(symlink(b"s", UP), member(b"s/s/secret", b"x"))],
    "file over a symlink": [archive(symlink(b"s", b"/secret"), member(b"s", b"x"))],
    "directory over a symlink": [archive(symlink(b"s", b"/"), directory(b"s"), member(b"s/a"))],
    "symlink over a directory": [archive(member(b"d/a"), symlink(b"d", b"/"), member(b"d/b"))],
    "whiteout through a symlink": [
        archive(symlink(b"s", b"/"), member(b"a")), archive(whiteout(b"s/a"), opaque(b"s")),
    ],
    "symlink in a lower layer": [
        archive(symlink(b"s", UP)), archive(symlink(b"t", b"s/s")), archive(member(b"t/x")),
    ],
    "root that is a symlink": [archive(symlink(b".", b"/"), member(b"a"))],
    "root that is a hard link": [archive(hardlink(b"./", b"a"))],
    "root that is a file": [archive(member(b"/", b"x"))],
    "root that is removed": [archive(member(b"a")), archive(whiteout(b""), opaque(b""))],
    "symlink through what is missing": [archive(symlink(b"s", b"none/../../.."), member(b"s/x"))],
    # Loops, and the same name again and again.
    "symlink loops": [archive(*LOOP, member(b"l/a"), member(b"m/a"), hardlink(b"h", b"n/a"))],
    "hard links in a circle": [archive(hardlink(b"a", b"b"), hardlink(b"b", b"a"))],
    "hard link to itself": [archive(hardlink(b"a", b"a"), member(b"b"), hardlink(b"b", b"b"))],
    "symlinks that multiply": [
        archive(
            symlink(b"s0", b"."),
            *(symlink(b"s%d" % n, b"/".join([b"s%d" % (n - 1)] * 1000)) for n in range(1, 9)),
            member(b"s8/x"),
        )
    ],
    "symlinks of many dots": [
        archive(symlink(b"s", b"./" * 2000), *(member(b"s/" * 200 + b"f%d" % n) for n in range(20)))
    ],
    "directory and file in turns": [
        archive(*(member(b"x/a") if n % 2 else member(b"x") for n in range(500)))
    ],
    "symlink and directory in turns": [
        archive(*(directory(b"x") if n % 2 else symlink(b"x", b"y") for n in range(500)))
    ],
    "layers that remove each other": [
        archive(member(b"a/b"), whiteout(b"a"), opaque(b"")) for _ in range(100)
    ],
    # Names.
    "name of 4 KiB": [archive(member(b"n" * 4096), member(b"a"))],
    "path of 4 KiB": [archive(member(b"n/" * 2048 + b"a"), member(b"b"))],
    "path of 1 MiB": [archive(member(b"n/" * 500_000), member(b"a"))],
    "path of dots": [archive(member(b"./" * 500_000 + b"a"), member(b"a"))],
    "path of ups": [archive(member(b"../" * 300_000 + b"a"), member(b"a"))],
    "no name": [archive(member(b""), directory(b""))],
    "name of slashes": [archive(member(b"/" * 90), directory(b"/" * 90))],
    "name of control characters": [archive(member(bytes(range(1, 47)) + b"\x7f\x9b2J"))],
    "name with a newline": [archive(member(b"a\nWARNING fake"), hardlink(b"b", b"c\nd"))],
    # Headers that lie.
    "no archive": [b"\x7fELF" * 500],
    "zip": [b"PK\3\4" + bytes(2000)],
    "wrong checksum": [archive(member(b"a")) [:100] + b"x" + archive(member(b"a"))[101:]],
    "wrong header in the middle": [member(b"a") + b"x" * 512 + archive(member(b"b"))],
    "half an end": [member(b"a") + bytes(512) + archive(member(b"b"))],
    "ends in a header": [archive(member(b"a"))[:300]],
    "ends in the content": [archive(member(b"a", b"x" * 5000))[:2000]],
    "size of 4 EiB": [BOMB],
    "size below zero": [archive(header(b"a", size=-512), member(b"b"))],
    "size of 2^87": [archive(header(b"a", size=2**87), member(b"b"))],
    "directory with a size": [archive(header(b"d", b"5", 2**40), member(b"d/a"))],
    "symlink with a size": [archive(header(b"s", b"2", 2**40, link=b"x"), member(b"a"))],
    "numbers of letters": [
        archive(layers.with_checksum(header(b"a")[:100] + b"z" * 8 + header(b"a")[108:]))
    ],
    "device with huge numbers": [archive(member(b"a", kind=b"3", device=(2**40, -1)))],
    "time of the end of the world": [
        archive(header(b"a", mtime=2**80), pax({b"mtime": b"-" + b"9" * 30}), header(b"b"))
    ],
    # Extended headers.
    "extended header of 2 GiB": [header(b"x", b"x", 2**31)],
    "long name of 2 GiB": [header(b"x", b"L", 2**31)],
    "extended headers in a row": [archive(*[pax({b"path": b"a"})] * 4_000)],
    "long names in a row": [archive(*[layers.gnu_long(b"a")] * 4_000, member(b"b"))],
    "extended header without a member": [archive(pax({b"path": b"a"}))],
    "records that overlap": [archive(raw_pax(b"3000000 path=a\n"), member(b"a"))],
    "record of no length": [archive(raw_pax(b"0 path=a\n" * 1000), member(b"a"))],
    "records without end": [archive(raw_pax(b"9" * 2**20), member(b"a"))],
    "attributes of 1 MiB": [archive(member(b"a", xattrs={b"user.a": b"x" * 900_000}))],
    "many attributes": [archive(member(b"a", xattrs={b"user.%d" % n: b"x" for n in range(9999)}))],
    # Sparse files.
    "sparse file of 8 EiB": [
        archive(layers.sparse_pax_10(b"a", {2**62: b"x"}, 2**63 - 1)),
    ],
    "sparse file of 2^100": [archive(layers.sparse_pax_01(b"a", {0: b"x"}, 2**100), member(b"b"))],
    "sparse file that overlaps": [
        archive(_mapped(b"0,9,5,9", b"99"), member(b"a", b"x" * 18, mtime_ns=0)),
    ],
    "sparse file of other members": [
        archive(_mapped(b"0,4096", b"4096"), header(b"a"), member(b"b")),
    ],
    "sparse map without end": [
        archive(_MAP_1_0, header(b"a", size=1998), b"1\n" * 999, bytes(50), member(b"b")),
    ],
    "sparse map of 2^60": [
        archive(_MAP_1_0, header(b"a", size=1800), (b"%d\n" % 2**60) * 90, bytes(248)),
    ],
}  # fmt: skip


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory whose parent has a file ``secret``, which nothing may read or change."""
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "work").mkdir()
    yield tmp_path / "work"
    assert (tmp_path / "secret").read_bytes() == SECRET
    assert {each.name for each in tmp_path.iterdir()} == {"secret", "work"}
    assert {each.name for each in (tmp_path / "work").iterdir()} <= {"tree"}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_layers_stay_in_their_root_and_in_memory(name: str, outside: Path) -> None:
    """The layers are refused as a whole, or shown without what is wrong."""
    tracemalloc.start()
    started = time.process_time()
    try:
        with suppress(LayerInvalid), merged(PLANTED[name], outside / "tree") as rootfs:
            _use(rootfs)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24 * 2**20
    assert time.process_time() - started < 30


def _use(rootfs: RootFilesystem) -> None:
    """Use all that can be used of a small tree."""
    seen = set()
    pending = [(b"", ROOT)]
    while pending:
        parent, number = pending.pop()
        for name, entry in rootfs.entries(number, list(rootfs.names(number))):
            assert name not in (b"", b".", b"..")
            assert b"/" not in name
            assert len(name) < 256
            assert entry.number not in seen or entry.links > 1
            seen.add(entry.number)
            if entry.fault:
                continue
            rootfs.xattrs(entry.number)
            with suppress(NotFound, LayerInvalid):
                rootfs.resolve(parent + b"/" + name)
            if stat.S_ISREG(entry.mode):
                with rootfs.open(entry.number) as reader:
                    assert SECRET not in reader.read_at(0, 4096)
                    reader.read_at(max(0, reader.size - 5), 10)
            if entry.is_directory:
                pending.append((parent + b"/" + name, entry.number))


def _merged(path: Path, content: Iterable[Iterable[Member]]) -> RootFilesystem:
    write_tree(path, content, 0)
    return RootFilesystem(path, lambda _: BytesReader(b""))


def _file(path: bytes) -> Member:
    return Member(path, stat.S_IFREG | 0o644)


def _flat(count: int) -> Iterator[Member]:
    return (_file(b"d/n%07d" % number) for number in range(count))


def _deep(count: int) -> Iterator[Member]:
    return (_file(b"d/" * 1000 + b"%d" % number) for number in range(count))


def _whiteouts(count: int) -> Iterator[Member]:
    return (_file(b"d/.wh.n%07d" % number) for number in range(count))


def _opaques(count: int) -> Iterator[Member]:
    """A mark of an opaque directory after each file."""
    for number in range(count // 2):
        yield _file(b"d/new%d" % number)
        yield _file(b"d/.wh..wh..opq")


def _whiteouts_of_own(count: int) -> Iterator[Member]:
    """A whiteout of a directory after each file in it."""
    for number in range(count // 2):
        yield _file(b"d/new%d" % number)
        yield _file(b".wh.d")


def _turns(count: int) -> Iterator[Member]:
    return (_file(b"d/x" if number % 2 else b"d") for number in range(count))


def _hard_links(count: int) -> Iterator[Member]:
    yield _file(b"f")
    for number in range(count):
        yield Member(b"l%d" % number, stat.S_IFREG, link=b"f", is_hard_link=True)


SHAPES: dict[str, Sequence[Callable[[int], Iterator[Member]]]] = {
    "one directory": [_flat],
    "the same twice": [_flat, _flat],
    "1,000 levels": [_deep],
    "whiteouts": [_flat, _whiteouts],
    "opaque directories": [_flat, _opaques],
    "whiteouts of own files": [_flat, _whiteouts_of_own],
    "directory and file in turns": [_flat, _turns],
    "hard links": [_hard_links],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_time_of_a_merge_grows_with_the_members(shape: str, tmp_path: Path) -> None:
    """Ten times as many members take about ten times as long."""
    seconds = []
    for count in (1_000, 10_000):
        started = time.process_time()
        _merged(tmp_path / "tree", (make(count) for make in SHAPES[shape])).close()
        seconds.append(time.process_time() - started)
    assert seconds[1] < 25 * seconds[0]


_MERGE = """
import stat, sys, time
from pathlib import Path
from blobfs.images.members import Member
from blobfs.images.tree import write_tree

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

count, path, before = int(sys.argv[1]), Path(sys.argv[2]), peak()
files = (Member(b"d/n%07d" % number, stat.S_IFREG | 0o644, size=1) for number in range(count))
marks = (Member(b"d/.wh.n%07d" % number, stat.S_IFREG) for number in range(0, count, 2))
started = time.process_time()
write_tree(path, [files, marks], 0)
print(time.process_time() - started, peak() - before)
"""


@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_merge_of_many_members_is_quick_and_takes_little_memory(count: int, tmp_path: Path) -> None:
    """Files in one directory, and whiteouts of half of them."""
    path = tmp_path / "tree"
    command = [sys.executable, "-c", _MERGE, str(count), str(path)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, memory = map(float, ended.stdout.split())
    size = path.stat().st_size
    log.info("%d members: %.2f s, %d bytes of memory, file of %d", count, seconds, memory, size)
    assert seconds / count < 90e-6  # 12 µs on an idle machine
    assert memory < 48 * 2**20  # 24 of them are caches of SQLite
    with RootFilesystem(path, lambda _: BytesReader(b"")) as rootfs:
        assert rootfs.totals == (count // 2 + 2, count // 2)
        number = rootfs.resolve(b"d").number
        assert sum(1 for _ in rootfs.names(number)) == count // 2


def test_tree_is_deeper_than_any_path(tmp_path: Path) -> None:
    """Each symlink leads to the deepest directory so far, and 1,000 levels are made below it."""
    levels = b"/d" * 1000
    content = [_file(b"s0" + levels + b"/f")]
    for number in range(1, 10):
        target = b"s%d" % (number - 1) + levels
        content.append(Member(b"s%d" % number, stat.S_IFLNK, link=target))
        content.append(_file(b"s%d" % number + levels + b"/f"))
    with _merged(tmp_path / "tree", [content]) as rootfs:
        assert rootfs.totals[0] == 10_000 + 10 + 9 + 2
        assert rootfs.resolve(b"s9" + levels + b"/f").size == 0


def test_faults_do_not_hide_other_files(outside: Path) -> None:
    content = [
        archive(
            member(b"a", b"1"), hardlink(b"b", b"none"), member(b"c", kind=b"Z"),
            member(b"a/x"), member(b"d", b"4"), member(b".wh."),
        )
    ]  # fmt: skip
    with merged(content, outside / "tree") as rootfs:
        assert tree_of(rootfs).keys() == {b"", b"/a", b"/d"}
        assert faults_of(rootfs).keys() == {b"/b", b"/c"}
        assert rootfs.unplaced == (
            "members without a place: 2; the first is b'a/x' of layer 1,"
            " because b'a' above it is no directory"
        )


def test_layers_that_are_too_many_together_are_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blobfs.images.tree._MAX_SIZE", 20_000)
    layer = archive(*(member(b"d/%d" % number) for number in range(10)))
    merged([layer] * 10, tmp_path / "few").close()
    with pytest.raises(LayerInvalid, match="more than 20000 bytes"):
        merged([layer] * 100, tmp_path / "many")

"""Members of tar archives: each field, all formats of names, times and sparse files, and faults."""

import logging
import os
import stat
import subprocess
import tarfile
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest

from blobfs.errors import LayerInvalid
from blobfs.images.members import Member
from blobfs.images.tar import read_members
from tests.support import layers
from tests.support.layers import MemorySource, archive, header, member, pax, raw_pax

log = logging.getLogger(__name__)


class Repeated:
    """A ByteSource of *first*, and then of *block* again and again, of 20 MiB."""

    def __init__(self, first: bytes, block: bytes) -> None:
        self._first, self._block = first, block
        self.position = 0

    def read(self, size: int) -> bytes:
        if self.position >= 20 * 2**20:
            return b""
        start, self.position = self.position, self.position + size
        if start < len(self._first):
            assert start + size <= len(self._first)
            return self._first[start : start + size]
        assert size < 2**21, "more than one header at a time"
        return self._block * (size // len(self._block))

    def skip(self, size: int) -> None:
        self.position += size


def members(*parts: bytes) -> list[Member]:
    return list(read_members(MemorySource(archive(*parts))))


def one(*parts: bytes) -> Member:
    (found,) = members(*parts)
    return found


def test_member_has_all_fields() -> None:
    block = member(b"etc/x", b"content", mode=0o4755, uid=5, gid=2**31 + 7,
                   xattrs={b"user.a": b"\0\xff", b"security.capability": b"c"})  # fmt: skip
    content = archive(member(b"first", b"1"), block)
    _, found = read_members(MemorySource(content))
    assert found == Member(
        b"etc/x", stat.S_IFREG | 0o4755, 5, 2**31 + 7, 7, layers.MTIME_NS,
        content.index(b"content\0"), xattrs={b"user.a": b"\0\xff", b"security.capability": b"c"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "mode"),
    [(tarfile.DIRTYPE, stat.S_IFDIR), (tarfile.FIFOTYPE, stat.S_IFIFO),
     (tarfile.AREGTYPE, stat.S_IFREG), (tarfile.CONTTYPE, stat.S_IFREG),
     (tarfile.CHRTYPE, stat.S_IFCHR), (tarfile.BLKTYPE, stat.S_IFBLK),
     (tarfile.SYMTYPE, stat.S_IFLNK)],
)  # fmt: skip
def test_types(kind: bytes, mode: int) -> None:
    assert one(header(b"x", kind, mode=0o1777, link=b"y")).mode == mode | 0o1777


def test_devices_have_the_numbers_that_linux_can_have() -> None:
    found = one(header(b"x", tarfile.CHRTYPE, device=(5, 0o1234567)))
    assert found.device == (5, 0o1234567 & 0xFFFFF)


def test_links() -> None:
    symlink, hard = members(layers.symlink(b"s", b"../t"), layers.hardlink(b"h", b"./t"))
    assert (symlink.link, symlink.is_hard_link) == (b"../t", False)
    assert (hard.link, hard.is_hard_link, hard.mode & ~0o777) == (b"./t", True, stat.S_IFREG)


def test_member_without_content_skips_none() -> None:
    """A directory or a hard link has no content, whatever its header says."""
    found = members(
        header(b"d", tarfile.DIRTYPE, 1024), header(b"h", tarfile.LNKTYPE, 5, link=b"x")
    )
    assert [(each.path, each.size) for each in found] == [(b"d", 0), (b"h", 0)]


LONG = b"n\xff" * 150


@pytest.mark.parametrize(
    "parts",
    [
        (member(LONG),),
        (layers.gnu_long(LONG), header(LONG, magic=layers.GNU_MAGIC)),
        (pax({b"path": b"other"}), layers.gnu_long(LONG), header(b"short")),
    ],
)
def test_long_names(parts: tuple[bytes, ...]) -> None:
    assert one(*parts).path == LONG


def test_long_link_targets() -> None:
    gnu = (
        layers.gnu_long(LONG, tarfile.GNUTYPE_LONGLINK),
        header(b"s", tarfile.SYMTYPE, link=b"x"),
    )
    assert one(*gnu).link == one(layers.symlink(b"s", LONG)).link == LONG


def test_prefix_of_a_name_is_none_in_the_gnu_format() -> None:
    assert one(header(b"x", prefix=b"a\xff")).path == b"a\xff/x"
    assert one(header(b"x", prefix=b"14000000000", magic=layers.GNU_MAGIC)).path == b"x"
    assert one(header(b"x", prefix=b"usr/lib", magic=layers.GNU_MAGIC)).path == b"usr/lib/x"
    assert one(header(b"x", prefix=b"junk", magic=bytes(8))).path == b"x"


def test_directory_of_old_archives_has_a_slash() -> None:
    found = members(header(b"d/", tarfile.AREGTYPE), header(b"f/", tarfile.REGTYPE))
    assert [each.is_directory for each in found] == [True, False]
    assert one(pax({b"path": b"d/"}), header(b"x", tarfile.AREGTYPE)).is_directory


@pytest.mark.parametrize(
    ("text", "expected"),
    [(b"1.5", 1_500_000_000), (b"-1.25", -1_250_000_000), (b"-0.5", -500_000_000),
     (b"7", 7 * 10**9), (b"1600000000.123456789987", 1_600_000_000_123_456_789),
     (b"99999999999999999", 2**63 - 1),
     (b"-99999999999999999", -(2**63)), (b"3.", 3 * 10**9)],
)  # fmt: skip
def test_times(text: bytes, expected: int) -> None:
    assert one(pax({b"mtime": text}), header(b"x")).mtime_ns == expected


def test_times_of_plain_headers() -> None:
    assert one(header(b"x", mtime=-5)).mtime_ns == -5 * 10**9
    assert one(header(b"x", mtime=2**40)).mtime_ns == 2**63 - 1


def test_numbers_above_the_fields() -> None:
    found = one(pax({b"uid": b"4294967294", b"gid": b"-1"}), header(b"x", uid=1))
    assert (found.uid, found.gid) == (2**32 - 2, 2**32 - 1)


def test_size_of_an_extended_header_counts() -> None:
    found = members(pax({b"size": b"3"}), header(b"a"), layers.padded(b"abc"), member(b"b"))
    assert [(each.path, each.size) for each in found] == [(b"a", 3), (b"b", 0)]


def test_last_record_of_a_key_counts_and_an_empty_one_does_not() -> None:
    assert one(pax([(b"path", b"a"), (b"path", b"b")]), header(b"x")).path == b"b"
    assert one(pax([(b"path", b"a"), (b"path", b"")]), header(b"x")).path == b"x"
    assert one(member(b"x", xattrs={b"user.empty": b""})).xattrs == {}


def test_extended_header_holds_for_one_member() -> None:
    found = members(pax({b"path": b"a"}), header(b"x"), header(b"y"))
    assert [each.path for each in found] == [b"a", b"y"]


def test_global_header_is_skipped() -> None:
    assert one(raw_pax(b"junk" * 1000, tarfile.XGLTYPE), header(b"x")).path == b"x"


@pytest.mark.parametrize(
    "name",
    [b"security.selinux", b"trusted.overlay.opaque", b"other.a", b"user.", b"user." + b"n" * 251,
     b"system.nfs4_acl"],
)  # fmt: skip
def test_attributes_that_no_file_can_have_are_left_out(name: bytes) -> None:
    assert one(member(b"x", xattrs={name: b"1", b"user.b": b"2"})).xattrs == {b"user.b": b"2"}


def test_archive_may_end_without_mark_and_padding() -> None:
    (found,) = read_members(MemorySource(header(b"x", size=3) + b"abc"))
    assert (found.path, found.size, found.offset) == (b"x", 3, 512)
    assert list(read_members(MemorySource(b""))) == []


def test_members_after_the_end_are_none() -> None:
    assert [each.path for each in members(member(b"a"), layers.END, member(b"b"))] == [b"a"]


PARTS = {4096: b"a" * 512, 8192: b"b" * 1000}
SIZE = 100_000


@pytest.mark.parametrize("form", layers.SPARSE)
def test_sparse_files_in_all_formats(form: str) -> None:
    block = layers.SPARSE[form](b"x", PARTS, SIZE)
    content = archive(member(b"before", b"1"), block, member(b"after"))
    before, found, after = read_members(MemorySource(content))
    assert (before.path, found.path, after.path) == (b"before", b"x", b"after")
    assert (found.size, found.extents) == (SIZE, ((4096, 512), (8192, 1000)))
    assert content[found.offset :].startswith(b"a" * 512 + b"b" * 1000)


@pytest.mark.parametrize("form", layers.SPARSE)
def test_sparse_file_with_many_ranges(form: str) -> None:
    found = one(layers.SPARSE[form](b"x", dict.fromkeys(range(0, 10_000, 10), b"x"), 10_000))
    assert found.extents == tuple((start, 1) for start in range(0, 10_000, 10))


@pytest.mark.parametrize("form", ["gnu", "0.0", "0.1", "1.0"])
def test_sparse_file_of_gnu_tar(form: str, tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        for start in range(0, 2**20, 2**15):
            file.seek(start)
            file.write(b"%d" % start)
        file.truncate(2**21)
    options = ["--format=gnu"] if form == "gnu" else ["--format=pax", f"--sparse-version={form}"]
    command = ["tar", "-c", "-S", *options, "-C", str(tmp_path), "x"]
    content = subprocess.run(command, check=True, capture_output=True).stdout
    (found,) = read_members(MemorySource(content))
    assert (found.path, found.size, found.fault) == (b"x", 2**21, "")
    assert found.extents is not None
    shown, offset = bytearray(found.size), found.offset
    for start, length in found.extents:
        shown[start : start + length] = content[offset : offset + length]
        offset += length
    assert shown == (tmp_path / "x").read_bytes()
    assert len(found.extents) > 4


def _mapped(text: bytes, size: bytes = b"9") -> tuple[bytes, bytes]:
    return pax({b"GNU.sparse.map": text, b"GNU.sparse.size": size}), header(b"bad")


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ((header(b"bad", b"Z"),), "type b'Z'"),
        ((layers.symlink(b"bad", b""),), "target of 0 bytes"),
        ((layers.symlink(b"bad", b"t" * 4096),), "target of 4096 bytes"),
        ((pax({b"mtime": b"soon"}), header(b"bad")), "'soon'"),
        ((pax({b"mtime": b"1.x"}), header(b"bad")), "no time"),
        ((pax({b"uid": b"root"}), header(b"bad")), "'root'"),
        (_mapped(b"0,5,3,1", b"9"), "fit its size"),
        (_mapped(b"0,5", b"9"), "all ranges"),
        (_mapped(b"0,x", b"9"), "no number"),
        (_mapped(b"5,9", b"9"), "fit its size"),
        (_mapped(b"0,0", b"9" * 30), "sparse file has"),
    ],
)  # fmt: skip
def test_faulty_member_is_one_with_a_reason(parts: tuple[bytes, ...], reason: str) -> None:
    bad, after = members(*parts, member(b"after"))
    assert (bad.path, after.path, after.fault) == (b"bad", b"after", "")
    assert reason in bad.fault


@pytest.mark.parametrize(
    "content",
    [
        b"junk" * 200,
        header(b"x")[:300],
        archive(member(b"x")) [:512] + b"junk" * 128,
        member(b"x") + bytes(512) + member(b"y"),
        header(b"x", size=1000) + b"short",
        header(b"x", size=-1),
        header(b"x", size=2**80),
        pax({b"size": b"-3"}) + header(b"x"),
        pax({b"size": b"x"}) + header(b"x"),
        raw_pax(b"7 path=a\n") + header(b"x"),
        raw_pax(b"99 path=a\n") + header(b"x"),
        raw_pax(b"-9 path=a\n") + header(b"x"),
        raw_pax(b"x path=a\n") + header(b"x"),
        raw_pax(b"9 path=a ") + header(b"x"),
        raw_pax(b"9 path a\n") + header(b"x"),
        raw_pax(b"0 ") + header(b"x"),
        raw_pax(b"1" * 5000) + header(b"x"),
        pax({b"path": b"a\0b"}) + header(b"x"),
        pax({b"SCHILY.xattr.user.a\0b": b"1"}) + header(b"x"),
        pax([(b"GNU.sparse.numbytes", b"1")]) + header(b"x"),
        header(b"x", tarfile.XHDTYPE, 2**21),
        header(b"x", tarfile.GNUTYPE_LONGNAME, 2**40),
        header(b"x", tarfile.XHDTYPE, 1000) + b"short",
    ],
)  # fmt: skip
def test_archive_that_cannot_be_read_on_is_refused(content: bytes) -> None:
    with pytest.raises(LayerInvalid):
        list(read_members(MemorySource(content)))


@pytest.mark.parametrize(
    "source",
    [
        Repeated(b"", layers.gnu_long(b"x")),
        Repeated(layers.sparse_old_gnu(b"x", dict.fromkeys(range(9), b"x"), 9)[:512], b"\1" * 512),
        Repeated(layers.sparse_pax_10(b"x", {}, 9)[:1024] + header(b"x", size=2**60), b"1\n" * 256),
    ],
    ids=["long names", "old sparse map", "sparse map 1.0"],
)
def test_endless_headers_take_no_memory(source: Repeated) -> None:
    tracemalloc.start()
    try:
        with suppress(LayerInvalid):
            for _ in read_members(source):
                pass
        assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "content",
    [
        b"1" * 2**20,
        b"5 a=\n" * (2**20 // 5),
        b"9" * 30 + b" GNU.sparse.offset=" + b"1" * 2**20,
    ],
)
def test_hostile_extended_header_takes_linear_time(content: bytes) -> None:
    started = time.process_time()
    with pytest.raises(LayerInvalid):
        members(raw_pax(content[: 2**20]), header(b"x", size=-1))
    assert time.process_time() - started < 5


def test_members_are_read_quickly() -> None:
    content = archive(*(member(b"usr/share/%d" % number, b"x") for number in range(5_000)))
    started = time.process_time()
    assert sum(1 for _ in read_members(MemorySource(content))) == 5_000
    elapsed = time.process_time() - started
    log.info("%.0f µs a member", elapsed / 5_000 * 1e6)
    assert elapsed < 2


def test_archive_of_gnu_tar(tmp_path: Path) -> None:
    """The members of a real tree are those that lstat(2) sees."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"hello")
    os.link(tmp_path / "d" / "f", tmp_path / "d" / "g")
    (tmp_path / "s").symlink_to("d/f")
    os.mkfifo(tmp_path / "p")
    for form in ("gnu", "pax", "ustar", "v7", "oldgnu"):
        names = ["d", "s"] if form == "v7" else ["d", "p", "s"]
        command = ["tar", "-c", "--sort=name", f"--format={form}", "-C", str(tmp_path), *names]
        content = subprocess.run(command, check=True, capture_output=True).stdout
        for found in read_members(MemorySource(content)):
            info = (tmp_path / os.fsdecode(found.path)).lstat()
            assert found.fault == ""
            if not found.is_hard_link:
                assert (found.mode, found.uid) == (info.st_mode, info.st_uid)
                assert found.mtime_ns // 10**9 == info.st_mtime_ns // 10**9
            if form == "pax" and not found.is_hard_link:
                assert found.mtime_ns == info.st_mtime_ns

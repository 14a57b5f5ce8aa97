"""Indexes of layers that real tools have made, and of layers that are damaged or hostile."""

import bz2
import errno
import gzip
import lzma
import os
import random
import stat
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Mapping
from io import BytesIO
from itertools import repeat
from pathlib import Path
from typing import Final

import pytest

from blobfs.digest import Descriptor, Digest
from blobfs.drivers.base import BytesReader
from blobfs.errors import DigestMismatch, LayerInvalid
from blobfs.images.layer import Layer
from blobfs.images.layer_index import LayerIndex
from blobfs.images.members import Member
from tests.support.compressed_layers import (
    CountingReader,
    archive,
    estargz,
    gzipped,
    indexed,
    layer_of,
    member,
    parallel_gzipped,
    zstandard,
    zstd_frames,
)
from tests.support.services import cannot, run

_WRITERS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "tar": bytes,
    "gzip": gzipped,
    "gzip -1": lambda data: gzipped(data, 1),
    "parallel gzip": parallel_gzipped,
    "eStargz": estargz,
    "zstd": zstandard,
    "zstd frames": zstd_frames,
}

_COMPRESSIONS: Final = {"tar": "tar", "zstd": "zstd", "zstd frames": "zstd"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index"


def _small() -> bytes:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as file:
        info = tarfile.TarInfo("a")
        info.size = 3
        file.addfile(info, BytesIO(b"abc"))
    return buffer.getvalue()


@pytest.mark.parametrize("writer", _WRITERS)
def test_index_has_the_members_and_size_of_each_kind_of_layer(writer: str, path: Path) -> None:
    blob = _WRITERS[writer](archive())
    with indexed(blob, path, archive()) as index:
        assert (index.digest, index.diff_id) == (Digest.of(blob), Digest.of(archive()))
        assert (index.size, index.blob_size) == (len(archive()), len(blob))
        assert index.compression == _COMPRESSIONS.get(writer, "gzip")
        found = {each.path.rstrip(b"/"): each for each in index.members()}
    with tarfile.open(fileobj=BytesIO(archive())) as file:
        expected = {info.name.encode(): info for info in file}
    assert found.keys() == expected.keys()
    for name, info in expected.items():
        each = found[name]
        assert stat.S_IMODE(each.mode) == info.mode
        assert each.is_hard_link == info.islnk()
        assert each.link == info.linkname.encode()
        if info.isreg():
            assert (each.size, each.offset) == (info.size, info.offset_data)


@pytest.mark.parametrize("writer", _WRITERS)
def test_points_are_four_mebibytes_apart(writer: str, path: Path) -> None:
    with indexed(_WRITERS[writer](archive()), path) as index:
        count = index.span_number(index.size - 1) + 1
        sizes = [index.span(number).size for number in range(count)]
    assert sum(sizes) == len(archive())
    if writer == "zstd":
        assert len(sizes) == 1
    else:
        assert all(size >= 4 * 2**20 for size in sizes[:-1])
        assert len(sizes) >= len(archive()) // (9 * 2**20)
    assert index.is_seekable == (writer != "zstd")


def test_index_is_small(path: Path) -> None:
    blob = gzipped(archive())
    with indexed(blob, path):
        assert path.stat().st_size < 0.03 * len(blob)


def test_blob_is_read_once(path: Path) -> None:
    blob = gzipped(archive())
    reader = CountingReader(blob)
    LayerIndex.build(reader, layer_of(blob), path)
    assert reader.bytes_read == len(blob)


def test_members_keep_all_their_fields(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [
        Member(b"a", stat.S_IFREG),
        Member(bytes(range(1, 256)), stat.S_IFREG | 0o4755, 2**32 - 1, 2, 2**40, -(10**18), 512),
        Member(b"l", stat.S_IFLNK | 0o777, link=b"\xff\n\r\"'"),
        Member(b"h", stat.S_IFREG, link=b"a", is_hard_link=True),
        Member(b"d", stat.S_IFCHR, device=(4095, 2**20 - 1)),
        Member(b"s", stat.S_IFREG, size=100, extents=((0, 10), (50, 1))),
        Member(b"e", stat.S_IFREG, size=100, extents=()),
        Member(
            b"x",
            stat.S_IFDIR,
            xattrs={b"user.\xff": b"\0\xfe", b"security.capability": bytes(range(256))},
        ),
        Member(b"f", 0, fault="a fault"),
    ]
    monkeypatch.setattr("blobfs.images.layer_index.read_members", lambda _: members)
    with indexed(_small(), path) as index:
        assert list(index.members()) == members
        assert list(index.members()) == members


def test_archive_may_be_empty(path: Path) -> None:
    for number, blob in enumerate((b"", bytes(1024), member(b""), member(bytes(10240)))):
        with indexed(blob, path.with_name(str(number))) as index:
            assert list(index.members()) == []


@pytest.mark.parametrize("writer", ["gzip", "eStargz", "zstd", "zstd frames", "tar"])
def test_truncated_layer_is_invalid(writer: str, path: Path) -> None:
    blob = _WRITERS[writer](archive())
    for size in (len(blob) // 2, len(blob) // 3):
        with pytest.raises(LayerInvalid, match=r"early|ends within"):
            indexed(blob[:size], path.with_name(str(size)))


@pytest.mark.parametrize("writer", ["gzip", "zstd"])
def test_every_truncation_of_a_small_layer_is_invalid(writer: str, tmp_path: Path) -> None:
    blob = _WRITERS[writer](_small())
    for size in range(5, len(blob)):
        with pytest.raises(LayerInvalid):
            indexed(blob[:size], tmp_path / str(size))


@pytest.mark.parametrize("writer", ["gzip", "eStargz", "zstd", "zstd frames"])
def test_bytes_after_the_end_are_refused(writer: str, path: Path) -> None:
    with pytest.raises(LayerInvalid, match="followed by others, at byte"):
        indexed(_WRITERS[writer](_small()) + b"garbage", path)


@pytest.mark.parametrize("writer", ["gzip", "eStargz", "zstd"])
def test_changed_bytes_are_invalid_or_change_the_digest(writer: str, tmp_path: Path) -> None:
    blob = _WRITERS[writer](_small())
    chance = random.Random(3)
    for number in range(60):
        changed = bytearray(blob)
        changed[chance.randrange(len(blob))] ^= 1 << chance.randrange(8)
        try:
            with indexed(bytes(changed), tmp_path / str(number), _small()):
                pass  # a bit of a header that has no meaning
        except (LayerInvalid, DigestMismatch):
            pass


@pytest.mark.parametrize("writer", _WRITERS)
def test_another_diff_id_is_a_mismatch(writer: str, path: Path) -> None:
    with pytest.raises(DigestMismatch, match="in the image"):
        indexed(_WRITERS[writer](_small()), path, b"another")


@pytest.mark.parametrize("size", [None, 60, 5], ids=["changed", "truncated", "no header"])
def test_blob_with_another_digest_is_a_mismatch(size: int | None, path: Path) -> None:
    blob = gzipped(_small())
    stored = blob + b"x" if size is None else blob[:size]
    with pytest.raises(DigestMismatch, match=str(Digest.of(blob))):
        LayerIndex.build(BytesReader(stored), layer_of(blob), path)


def test_diff_id_may_have_another_algorithm(path: Path) -> None:
    blob = gzipped(_small())
    layer = Layer(Descriptor(Digest.of(blob), len(blob)), Digest.of(_small(), "sha512"))
    LayerIndex.build(BytesReader(blob), layer, path)
    with LayerIndex(path) as index:
        assert index.diff_id == layer.diff_id


@pytest.mark.parametrize(
    ("blob", "media_type", "message"),
    [
        (bz2.compress(b"x"), "", "bzip2"),
        (lzma.compress(b"x"), "", "xz"),
        (b"PK\x03\x04 and more", "", "zip"),
        (b"\x01\x02" * 400, "application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "encrypted"),
        (b"{}", "application/json", "application/json"),
        (gzip.compress(b"text" * 1000, mtime=0), "", "header"),
        (zstandard(b"text" * 1000), "", "header"),
    ],
)
def test_layer_that_is_no_archive_is_invalid(
    blob: bytes, media_type: str, message: str, path: Path
) -> None:
    with pytest.raises(LayerInvalid, match=message):
        LayerIndex.build(BytesReader(blob), layer_of(blob, media_type=media_type), path)


def test_archive_over_the_limit_is_invalid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blobfs.images.layer_index._MAX_SIZE", 2**20)
    with pytest.raises(LayerInvalid, match="more than 1048576"):
        indexed(gzipped(archive(), 1), path)


def test_attributes_that_decompress_to_too_much_are_invalid(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blobfs.images.layer_index._MAX_MEMBERS_SIZE", 2**22)
    value = random.Random(1).randbytes(2**16)
    big = Member(b"a", stat.S_IFREG, xattrs={b"user.a": value})
    monkeypatch.setattr("blobfs.images.layer_index.read_members", lambda _: repeat(big))
    with pytest.raises(LayerInvalid, match="more than 4194304"):
        indexed(_small(), path)
    assert path.stat().st_size < 2**23


def test_full_disk_is_an_error_of_the_disk(path: Path) -> None:
    if os.geteuid() != 0:
        cannot("only root can mount a small tmpfs")
    path.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=64k", "small", path)
    try:
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            indexed(gzipped(archive(), 1), path / "index")
    finally:
        run("umount", "-l", path)


def test_media_type_may_be_wrong(path: Path) -> None:
    blob = zstandard(_small())
    layer = layer_of(blob, media_type="application/vnd.oci.image.layer.v1.tar")
    LayerIndex.build(BytesReader(blob), layer, path)
    with LayerIndex(path) as index:
        assert index.compression == "zstd"


_MEASURE: Final = """
import resource, sys
from pathlib import Path
from blobfs.digest import Descriptor, Digest
from tests.support.compressed_layers import layer_of
from blobfs.drivers.base import BytesReader
from blobfs.images.layer_index import LayerIndex
blob = Path(sys.argv[1]).read_bytes()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
LayerIndex.build(BytesReader(blob), layer_of(blob), Path(sys.argv[2]))
with LayerIndex(Path(sys.argv[2])) as index:
    print(sum(1 for _ in index.members()), index.size, index.is_seekable)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def _measured(blob: bytes, path: Path) -> tuple[str, int]:
    """Index a layer in another process; return what it prints, and the KiB of memory it took."""
    blob_path = path.with_name("blob")
    blob_path.write_bytes(blob)
    command = (sys.executable, "-c", _MEASURE, blob_path, path)
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    text, kibibytes = printed.splitlines()
    return text, int(kibibytes)


@pytest.mark.parametrize("program", ["gzip", "zstd"])
def test_bomb_of_zeros_takes_little_memory(program: str, path: Path) -> None:
    size = 10**8
    command = f"head --bytes={size} /dev/zero | {program} --stdout"
    blob = subprocess.run(
        ["sh", "-c", command], check=True, stdout=subprocess.PIPE
    ).stdout  # an end mark, and zeros
    text, kibibytes = _measured(blob, path)
    assert text == f"0 {size} {program == 'gzip'}"
    assert kibibytes < 24 * 2**10
    assert path.stat().st_size < max(0.03 * len(blob), 32 * 2**10)


@pytest.mark.long
def test_million_members_take_little_memory(path: Path) -> None:
    names = (f"directory/{number}" for number in range(1000))
    headers = b"".join(tarfile.TarInfo(name).tobuf() for name in names)
    compressor = zlib.compressobj(1, wbits=31)
    parts = [compressor.compress(headers) for _ in range(1000)]
    blob = b"".join((*parts, compressor.compress(bytes(1024)), compressor.flush()))
    text, kibibytes = _measured(blob, path)
    assert text.startswith("1000000 ")
    assert kibibytes < 24 * 2**10

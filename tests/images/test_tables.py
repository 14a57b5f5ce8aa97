"""Indexes by tables of contents have what indexes by the archive have, or are refused."""

import json
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from blobfs.digest import Descriptor, Digest
from blobfs.drivers.base import BytesReader
from blobfs.errors import Corrupt, DigestMismatch, LayerInvalid
from blobfs.images.layer import Layer
from blobfs.images.layer_index import LayerIndex
from blobfs.images.members import Member
from blobfs.images.seekable import SeekableLayer, SpanCache
from blobfs.images.toc.index import TableIndex
from blobfs.images.toc.table import CHUNKED, CHUNKED_POSITION, ESTARGZ, Table
from blobfs.images.toc.verification import build_index
from tests.support import layers
from tests.support.compressed_layers import CountingReader
from tests.support.layers import archive, directory, member, symlink
from tests.support.services import run
from tests.support.tables import Change, Json, TabledLayer, chunks_of, estargz, zstd_chunked

_S: Final = 1_600_000_000 * 10**9

_CHANCE: Final = random.Random(3)


def file(name: bytes, content: bytes = b"", **more: object) -> bytes:
    """A member with a time in whole seconds."""
    return member(name, content, mtime_ns=_S, **more)  # type: ignore[arg-type]


ARCHIVE: Final = archive(
    directory(b"./", mtime_ns=_S),
    directory(b"d/", 0o1777, uid=2**31, gid=65534, mtime_ns=_S),
    file(b"d/small", b"content", mode=0o4755, xattrs={b"user.a": b"1\0\xff", b"security.x": b"2"}),
    file(b"d/random", _CHANCE.randbytes(300_000)),
    file(b"d/zeros", bytes(250_000)),
    file(b"empty"),
    file('ä\n"\\'.encode(), b"name"),
    file(b"long/" * 60 + b"name", b"long"),
    symlink(b"link", b"d/small", mtime_ns=_S),
    file(b"hard", kind=b"1", link=b"d/random"),
    file(b"fifo", kind=b"6"),
    file(b"null", kind=b"3", device=(1, 3)),
    file(b"disk", kind=b"4", device=(259, 70_000)),
    file(b".prefetch.landmark", b"\x0f"),
    file(b".wh.gone"),
    file(b"d/.wh..wh..opq"),
    *(file(b"many/%d" % number, b"%d" % number) for number in range(50)),
    directory(b"last/", mtime_ns=_S),
)

FORMS: Final[dict[str, Callable[[], TabledLayer]]] = {
    "eStargz": lambda: estargz(ARCHIVE),
    "eStargz of many chunks": lambda: estargz(ARCHIVE, chunk_size=20_000),
    "eStargz of several files in a member": lambda: estargz(
        ARCHIVE, chunk_size=100_000, min_chunk_size=50_000
    ),
    "eStargz without its table in the archive": lambda: estargz(ARCHIVE, is_listed=False),
    "zstd:chunked": lambda: zstd_chunked(ARCHIVE),
    "zstd:chunked of many chunks": lambda: zstd_chunked(ARCHIVE, chunk_size=20_000),
    "eStargz without contents": lambda: estargz(archive(directory(b"d/", mtime_ns=_S))),
    "zstd:chunked without contents": lambda: zstd_chunked(archive(file(b"a"))),
}


def _by_table(tabled: TabledLayer, path: Path) -> TableIndex:
    layer = replace(tabled.layer, by_table=True)
    build_index(BytesReader(tabled.blob), layer, path)
    return TableIndex(path)


def _in_full(tabled: TabledLayer, path: Path) -> LayerIndex:
    build_index(BytesReader(tabled.blob), tabled.layer, path)
    return LayerIndex(path)


def _contents(index: LayerIndex, blob: bytes) -> list[tuple[Member, bytes]]:
    """The members without their places, and their contents."""
    reader = SeekableLayer(BytesReader(blob), index, SpanCache())
    return [
        (replace(each, offset=0), reader.read_at(each.offset, each.size))
        for each in index.members()
    ]


@pytest.mark.parametrize("form", FORMS)
def test_index_by_a_table_has_what_the_archive_has(form: str, tmp_path: Path) -> None:
    """[S21.11] the first use reads the table, and not the layer"""
    tabled = FORMS[form]()
    with _by_table(tabled, tmp_path / "a") as ours, _in_full(tabled, tmp_path / "b") as full:
        assert _contents(ours, tabled.blob) == _contents(full, tabled.blob)
        assert (full.fault, full.diff_id) == ("", Digest.of(tabled.archive))


def test_files_of_the_table_itself_and_of_prefetching_are_members(tmp_path: Path) -> None:
    with _by_table(estargz(ARCHIVE), tmp_path / "a") as index:
        names = [each.path for each in index.members()]
    assert names[-1] == b"stargz.index.json"
    assert b".prefetch.landmark" in names
    with _by_table(estargz(ARCHIVE, is_listed=False), tmp_path / "b") as index:
        assert b"stargz.index.json" not in [each.path for each in index.members()]


def test_layers_of_skopeo_have_tables(tmp_path: Path) -> None:
    (tmp_path / "l/blobs/sha256").mkdir(parents=True)
    images = layers.LayerImages(tmp_path / "layout")
    images.add("v1", ARCHIVE)
    compress = ("--dest-compress", "--dest-compress-format", "zstd:chunked")
    run("skopeo", "copy", *compress, f"oci:{images.directory}:v1", f"dir:{tmp_path}/dir")
    (described,) = json.loads((tmp_path / "dir/manifest.json").read_bytes())["layers"]
    blob = (tmp_path / "dir" / described["digest"].partition(":")[2]).read_bytes()
    noted = {  # before version 1.10 they have another prefix
        key.replace("io.containers.", "io.github.containers."): value
        for key, value in described["annotations"].items()
    }
    with _by_table(TabledLayer(blob, ARCHIVE, noted), tmp_path / "a") as index:
        ours = _contents(index, blob)
    with _in_full(TabledLayer(blob, ARCHIVE, {}), tmp_path / "b") as index:
        assert ours == _contents(index, blob)


def test_little_of_a_layer_is_read_for_its_members_and_for_a_file(tmp_path: Path) -> None:
    content = _CHANCE.randbytes(2**20)
    many = archive(*(file(b"%d" % number, content) for number in range(40)))
    for tabled in (estargz(many), zstd_chunked(many)):
        layer = replace(tabled.layer, by_table=True)
        reader = CountingReader(tabled.blob)
        build_index(reader, layer, tmp_path / "index")
        assert reader.bytes_read < 0.04 * len(tabled.blob)
        with TableIndex(tmp_path / "index") as index:
            reader = CountingReader(tabled.blob)
            found = {each.path: each for each in index.members()}[b"20"]
            seekable = SeekableLayer(reader, index, SpanCache())
            assert seekable.read_at(found.offset, found.size) == content
            assert reader.bytes_read < 10 * 2**20
            assert (tmp_path / "index").stat().st_size < 0.03 * len(tabled.blob)
        (tmp_path / "index").unlink()


def test_small_files_beside_each_other_are_read_in_one_request(tmp_path: Path) -> None:
    tabled = estargz(ARCHIVE)
    spans = SpanCache()
    with _by_table(tabled, tmp_path / "a") as index:
        reader = SeekableLayer(BytesReader(tabled.blob), index, spans)
        for each in index.members():
            reader.read_at(each.offset, each.size)
    assert spans.decompressed == 1


def test_changed_bytes_of_a_chunk_are_an_error(tmp_path: Path) -> None:
    """[S21.11] Every chunk that is read is verified by its digest in the table"""
    tabled = zstd_chunked(archive(file(b"a", b"x" + _CHANCE.randbytes(1000) + b"x")))
    at = tabled.blob.index(b"(\xb5/\xfd", 4) + 500
    blob = tabled.blob[:at] + bytes((tabled.blob[at] ^ 1,)) + tabled.blob[at + 1 :]
    with _by_table(tabled, tmp_path / "a") as index:
        (each,) = index.members()
        with pytest.raises(DigestMismatch, match="has changed"):
            SeekableLayer(BytesReader(blob), index, SpanCache()).read_at(each.offset, 10)
        with pytest.raises(DigestMismatch, match="has changed"):
            SeekableLayer(BytesReader(blob[:at]), index, SpanCache()).read_at(each.offset, 10)


@pytest.mark.parametrize("write", [estargz, zstd_chunked])
@pytest.mark.parametrize("at", [0, 100])
def test_changed_bytes_of_a_chunk_leave_the_files_beside_it(
    write: Callable[[bytes], TabledLayer], at: int, tmp_path: Path
) -> None:
    """[S21.11] Every chunk that is read is verified by its digest in the table"""
    tabled = write(archive(*(file(b"%d" % each, _CHANCE.randbytes(1000)) for each in range(3))))
    with _by_table(tabled, tmp_path / "a") as index:
        files = {each.path: each for each in index.members()}
        at += [chunk.position for chunk in index.chunks() if chunk.size == 1000][1]
        blob = tabled.blob[:at] + bytes((tabled.blob[at] ^ 1,)) + tabled.blob[at + 1 :]
        spans = SpanCache()
        changed = SeekableLayer(BytesReader(blob), index, spans)
        right = SeekableLayer(BytesReader(tabled.blob), index, spans)
        for name in (b"0", b"2"):
            where = (files[name].offset, 1000)
            assert changed.read_at(*where) == right.read_at(*where)
        assert changed.read_nowait(files[b"0"].offset, 1000) is not None
        assert changed.read_nowait(files[b"1"].offset, 1000) is None
        with pytest.raises(DigestMismatch, match="has changed"):
            changed.read_at(files[b"1"].offset, 1)
        assert len(right.read_at(files[b"1"].offset, 1000)) == 1000  # the blob is read again


def _at(which: str, **values: object) -> Change:
    """Change fields of the first entry of a name; None removes one."""

    def change(document: Json) -> None:
        entry = document["entries"][_number(document, which)]
        entry.update(values)
        for key in [key for key, value in entry.items() if value is None]:
            del entry[key]

    return change


def _number(document: Json, name: str) -> int:
    return [entry["name"] for entry in document["entries"]].index(name)


def _without(name: str) -> Change:
    return lambda document: document["entries"].pop(_number(document, name))


def _chunk(number: int, **values: object) -> Change:
    def change(document: Json) -> None:
        list(chunks_of(document))[number].update(values)

    return change


def _second(**values: object) -> Change:
    """Change the second chunk of a file."""

    def change(document: Json) -> None:
        document["entries"][_number(document, "d/random") + 1].update(values)

    return change


def _swapped(document: Json) -> None:
    entries = document["entries"]
    entries[2], entries[3] = entries[3], entries[2]


_REFUSED: Final[dict[str, Change]] = {
    "another version": lambda document: document.update(version=2),
    "no version": lambda document: document.pop("version"),
    "no entries": lambda document: document.pop("entries"),
    "entries that are null": lambda document: document.update(entries=None),
    "an entry that is no object": lambda document: document["entries"].append(7),
    "an entry without a name": _at("d/small", name=None),
    "a name with NUL": _at("d/small", name="a\0b"),
    "a name that is a number": _at("d/small", name=1),
    "a name that is half a surrogate": _at("d/small", name="\ud800"),
    "a name that was not UTF-8": _at("d/small", name="a\ufffd"),
    "an unknown type": _at("d/small", type="door"),
    "a type that is a list": _at("d/small", type=["reg"]),
    "a mode that is text": _at("d/small", mode="0644"),
    "a mode that is true": _at("d/small", mode=True),
    "an owner beyond 64 bits": _at("d/small", uid=2**64),
    "a negative size": _at("d/small", size=-1),
    "a huge size": _at("d/small", size=2**60),
    "a size that the chunks do not have": _at("d/random", size=100_001),
    "a time that is none": _at("d/small", modtime="yesterday"),
    "a time in Arabic digits": _at("d/small", modtime="\u0662\u0660\u0662\u0660-01-01T00:00:00Z"),
    "a month of no year": _at("d/small", modtime="2020-13-01T00:00:00Z"),
    "attributes that are a list": _at("d/small", xattrs=["a"]),
    "an attribute that is no Base64": _at("d/small", xattrs={"user.a": "!"}),
    "an attribute that is a number": _at("d/small", xattrs={"user.a": 1}),
    "a link without a target": _at("link", linkName=None),
    "a target that is too long": _at("link", linkName="a" * 4096),
    "a chunk without a digest": _chunk(1, chunkDigest=""),
    "a digest of another algorithm": _chunk(1, chunkDigest="sha512:" + "0" * 128),
    "a digest of no form": _chunk(1, chunkDigest="sha256:0"),
    "a negative offset": _chunk(1, offset=-5),
    "an offset that is a fraction": _chunk(1, offset=1.5),
    "a negative inner offset": _chunk(1, innerOffset=-1),
    "chunks that overlap": lambda document: _chunk(1, offset=next(chunks_of(document))["offset"])(
        document
    ),
    "chunks in another order": _swapped,
    "a chunk that is missing": lambda document: document["entries"].pop(4),
    "a chunk of no file": _at("d/", type="chunk"),
    "a file instead of a chunk": _second(type="reg"),
    "a chunk behind a gap": _second(chunkOffset=1),
    "a chunk beyond its file": _second(chunkSize=300_001),
}


def _refused(tabled: TabledLayer, path: Path, caplog: pytest.LogCaptureFixture) -> str:
    """The reason for which a table is refused; the layer is indexed without it."""
    with pytest.raises(Corrupt, match="cannot be used"):
        _by_table(tabled, path)
    with caplog.at_level(logging.WARNING), _in_full(tabled, path.with_name("full")) as index:
        assert (index.fault, index.diff_id) == ("", Digest.of(tabled.archive))
    (record,) = caplog.records
    return record.getMessage()


@pytest.mark.parametrize("name", _REFUSED)
def test_layer_with_a_table_that_is_invalid_is_read_in_full(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """[S21.12] A table that is missing, invalid, or has another digest is not used"""
    tabled = estargz(ARCHIVE, _REFUSED[name], chunk_size=100_000)
    assert "is read in full: its table" in _refused(tabled, tmp_path / "a", caplog)


@pytest.mark.parametrize("write", [estargz, zstd_chunked])
def test_table_with_a_chunk_behind_the_contents_is_not_used(
    write: Callable[[bytes, Change], TabledLayer],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tabled = write(ARCHIVE, _chunk(-1, offset=2**39))
    assert "is read in full: its table" in _refused(tabled, tmp_path / "a", caplog)


_ENTRY: Final = b'{"name": "a", "type": "reg"}'

_TEXTS: Final[dict[str, bytes]] = {
    "nothing": b"",
    "a list": b"[]",
    "half of an entry": b'{"version": 1, "entries": [{"name": "a", "type"',
    "no comma": b'{"version": 1, "entries": [' + _ENTRY + _ENTRY + b"]}",
    "text behind the end": b'{"version": 1, "entries": []} {}',
    "entries twice": b'{"version": 1, "entries": [], "entries": []}',
    "not UTF-8": b'{"version": 1, "entries": [{"name": "\xff", "type": "reg"}]}',
    "deep": b'{"version": 1, "entries": [' + b"[" * 100_000,
    "a huge number": b'{"version": 1, "entries": [' + b"1" * 100_000 + b"]}",
    "binary": random.Random(1).randbytes(1000),
}


@pytest.mark.parametrize("name", _TEXTS)
def test_text_that_is_no_table_is_refused(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tabled = estargz(ARCHIVE, encode=lambda _: _TEXTS[name])
    _refused(tabled, tmp_path / "a", caplog)


def _with_blob(tabled: TabledLayer, blob: bytes) -> TabledLayer:
    return replace(tabled, blob=blob)


def _broken() -> dict[str, TabledLayer]:
    """Layers whose annotations or footers lead to no table that they vouch for."""
    gzipped, chunked = estargz(ARCHIVE), zstd_chunked(ARCHIVE)
    blob, noted = gzipped.blob, chunked.annotations
    position, size, *_ = map(int, noted[CHUNKED_POSITION].split(":"))

    def moved(to: int) -> TabledLayer:
        footer = blob[-51:-35] + b"%016x" % to + blob[-19:]
        return replace(gzipped, blob=blob[:-51] + footer)

    def noted_as(text: str) -> TabledLayer:
        return replace(chunked, annotations=noted | {CHUNKED_POSITION: text})

    other = str(Digest.of(b"other"))
    return {
        "another digest": replace(gzipped, annotations={ESTARGZ: other}),
        "no digest": replace(gzipped, annotations={ESTARGZ: "sha256:x"}),
        "an empty digest": replace(gzipped, annotations={ESTARGZ: ""}),
        "a footer that leads to a file": moved(0),
        "a footer that leads to itself": moved(len(blob) - 51),
        "a footer that leads nowhere": moved(2**63),
        "a footer that leads into the table": moved(len(blob) - 60),
        "a plain layer": TabledLayer(ARCHIVE, ARCHIVE, gzipped.annotations),
        "an eStargz layer as zstd:chunked": replace(gzipped, annotations=noted),
        "a zstd:chunked layer as eStargz": replace(chunked, annotations=gzipped.annotations),
        "another digest of zstd:chunked": replace(chunked, annotations=noted | {CHUNKED: other}),
        "a position of no form": noted_as("1:2:3"),
        "a position of another kind": noted_as(f"{position}:{size}:1:2"),
        "a position in other digits": noted_as("\u0663:\u0664:\u0665:1"),
        "a negative position": noted_as(f"-1:{size}:1:1"),
        "a position at the start": noted_as(f"0:{size}:1:1"),
        "a position behind the end": noted_as(f"{len(chunked.blob)}:{size}:1:1"),
        "a size of everything": noted_as(f"0:{10**17}:1:1"),
        "a size that is too small": noted_as(f"{position}:{size - 1}:1:1"),
    }


@pytest.mark.parametrize("name", _broken())
def test_layer_without_the_table_that_its_manifest_names_is_read_in_full(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _refused(_broken()[name], tmp_path / "a", caplog)


def test_table_that_rounds_times_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    precise = archive(member(b"a", b"1"))
    assert "rounded" in _refused(estargz(precise), tmp_path / "a", caplog)
    with _by_table(zstd_chunked(precise), tmp_path / "b") as index:
        (each,) = index.members()
    assert each.mtime_ns == layers.MTIME_NS


def test_table_without_the_last_files_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def cut(document: Json) -> None:
        del document["entries"][-2:]

    assert "lacks b'many/49'" in _refused(estargz(ARCHIVE, cut), tmp_path / "a", caplog)


def test_table_with_a_huge_entry_is_refused(tmp_path: Path) -> None:
    def enlarge(document: Json) -> None:
        document["entries"][0]["linkName"] = "a" * 5_000_000

    with pytest.raises(LayerInvalid, match="too large"):
        _by_table(zstd_chunked(ARCHIVE, enlarge), tmp_path / "a")


def test_table_that_decompresses_to_very_much_is_refused(tmp_path: Path) -> None:
    def bomb(document: Json) -> None:
        document.update({str(number): " " * 2_000_000 for number in range(68)})

    with pytest.raises(LayerInvalid, match="more than"):
        _by_table(zstd_chunked(ARCHIVE, bomb), tmp_path / "a")


_LIES: Final[dict[str, Change]] = {
    "name": _at("d/small", name="d/other"),
    "type": _at("empty", type="fifo"),
    "mode": _at("d/small", mode=0o644),
    "owner": _at("d/small", uid=7),
    "time": _at("d/small", modtime="2020-01-01T00:00:00Z"),
    "target": _at("link", linkName="d/random"),
    "device": _at("null", devMinor=5),
    "attributes": _at("d/small", xattrs={"user.a": "MQ=="}),
    "attribute added": _at("empty", xattrs={"user.a": "MQ=="}),
    "digest": _chunk(1, chunkDigest=str(Digest.of(b""))),
    "member missing": _without("empty"),
    "member added": lambda document: document["entries"].append({"name": "x", "type": "fifo"}),
    "place of a content": _at("d/small", innerOffset=1, chunkDigest=str(Digest.of(b"ontent\0"))),
}


@pytest.mark.parametrize("lie", _LIES)
def test_table_that_differs_from_the_archive_is_a_fault_of_the_layer(
    lie: str, tmp_path: Path
) -> None:
    """[S21.13] compares the archive with the table"""
    for write in (estargz, zstd_chunked):
        with _in_full(write(ARCHIVE, _LIES[lie]), tmp_path / write.__name__) as index:
            assert "differs from the archive" in index.fault


def test_layer_without_annotations_has_no_table() -> None:
    noted = {CHUNKED: "sha256:0", "other": "1"}
    assert Table.of(noted) is None
    assert Layer(Descriptor(Digest.of(b""), 0), None, Table.of({})).table is None

"""Layouts in tar archives: other tools, hostile members, and what a crash leaves."""

import io
import os
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from blobfs.digest import Digest
from blobfs.errors import (
    BlobUnknown,
    Busy,
    Corrupt,
    DigestMismatch,
    MountRefused,
    NotAFile,
    Unsupported,
)
from blobfs.reference import Tag
from blobfs.transfer.layout import ArchiveSource, ArchiveTarget, LayoutSource, LayoutTarget
from tests.support import images
from tests.support.killing import ends_before
from tests.support.places import described, put_image
from tests.support.services import run
from tests.support.transfers import content_of, copy, read

LATEST = Tag("latest")
CONTENT = bytes(range(256)) * 12_000  # more than is received in memory
BLOB = described(CONTENT)
NAME = f"blobs/sha256/{BLOB.digest.encoded}"
LAYOUT = "oci-layout"
INDEX = b'{"schemaVersion":2,"manifests":[]}'


def archive(file: Path, *members: tuple[tarfile.TarInfo, bytes], **options: int) -> Path:
    """Write an archive of members with their contents."""
    with tarfile.open(file, "w", format=options.get("format", tarfile.PAX_FORMAT)) as tar:
        for info, content in members:
            if info.isreg():
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file


def member(name: str, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


@pytest.mark.registry
def test_skopeo_reads_and_writes_archives(tmp_path: Path) -> None:
    file = tmp_path / "ours.tar"
    with LayoutSource(images.small()) as source, ArchiveTarget(file) as target:
        copy(source, target)
        expected = content_of(source)
    run("skopeo", "copy", f"oci-archive:{file}:v2", f"oci:{tmp_path}/theirs:v2")
    run("skopeo", "copy", f"oci-archive:{file}:v2", f"oci-archive:{tmp_path}/theirs.tar:app:v2")
    with LayoutSource(tmp_path / "theirs") as source:
        assert content_of(source)[""].tags == {Tag("v2"): expected[""].tags[Tag("v2")]}
    with ArchiveSource(tmp_path / "theirs.tar") as source:
        assert content_of(source)["app"].tags == {Tag("v2"): expected[""].tags[Tag("v2")]}


@pytest.mark.parametrize("options", [(), ("--format=gnu", "-S"), ("--format=ustar",)])
def test_an_archive_that_tar_makes_of_a_layout_is_read(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    layout, file = tmp_path / "layout", tmp_path / "layout.tar"
    with LayoutTarget(layout) as target:
        target.put_blob("app", BLOB, [CONTENT])
        target.finish()
    run("tar", "-C", layout, *options, "-cf", file, ".")
    with ArchiveSource(file) as source, LayoutSource(layout) as original:
        assert content_of(source) == content_of(original)


def test_an_existing_archive_is_refused_or_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "copy.tar"
    with ArchiveTarget(file) as target:
        first = put_image(target, "app", b"config", CONTENT, tag="latest")
        target.finish()
    with pytest.raises(MountRefused, match="use sync"):
        ArchiveTarget(file)
    before = file.read_bytes()
    with ArchiveTarget(file, replace=True) as target:
        assert target.missing("app", [BLOB]) == []
        second = put_image(target, "app", b"config", b"another", tag="latest")
        assert file.read_bytes() == before
        target.untag("app", Tag("missing"))
        target.finish()
        third = put_image(target, "app", b"config", b"third", tag="v3")
        target.finish()
    with ArchiveSource(file) as source:
        assert source.tagged("app", LATEST) == second
        assert set(source.revisions("app")) == {first, second, third}
        assert read(source, "app", BLOB.digest) == CONTENT
    assert os.listdir(tmp_path) == ["copy.tar"]


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.long)])
def test_a_sync_that_is_killed_anywhere_keeps_the_old_archive(memory: Path, step: int) -> None:
    """[S22.44] `sync` makes a new one of it and the copy, and then replaces it"""
    old, origin = memory / "old.tar", memory / "origin.tar"
    for file, tag in ((old, "old"), (origin, "new")):
        with ArchiveTarget(file) as target:
            put_image(target, "app", b"config", CONTENT, tag.encode(), tag=tag)
            alias = described(b"alias", "sha512")
            target.put_blob("app", alias, [b"alias"])
            target.finish()

    def sync(file: Path) -> None:
        with ArchiveSource(origin) as source, ArchiveTarget(file, replace=True) as target:
            copy(source, target)

    for number in count(0, step):
        file = memory / str(number) / "copy.tar"
        file.parent.mkdir()
        shutil.copy(old, file)
        is_done = ends_before(number, partial(sync, file))
        for expected in ({"old"}, {"old", "new"}):
            with ArchiveSource(file) as source:
                content = content_of(source)["app"]
                assert content.tags.keys() >= expected
                assert len(content.blobs) == 3 + len(content.tags)
            sync(file)
        assert os.listdir(file.parent) == ["copy.tar"]
        shutil.rmtree(file.parent)
        if is_done:
            break
    assert number > 20


def test_one_writer_of_an_archive_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "copy.tar"
    with ArchiveTarget(file) as first, ArchiveTarget(file) as second:
        put_image(first, "app", b"config")
        with pytest.raises(Busy, match="another copy writes"):
            put_image(second, "app", b"config")
        with ArchiveTarget(file) as third:
            first.finish()
            with pytest.raises(Busy):
                put_image(third, "app", b"config")


def test_several_threads_write_one_archive(tmp_path: Path) -> None:
    contents = [bytes([n]) * (n * 70_001) for n in range(40)]
    with ArchiveTarget(tmp_path / "copy.tar") as target:

        def put(content: bytes) -> None:
            blob = described(content)
            target.put_blob("app", blob, (content[:7], content[7:]))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, contents))
        target.finish()
    with ArchiveSource(tmp_path / "copy.tar") as source:
        assert content_of(source)["app"].blobs == set(map(Digest.of, contents))
    with tarfile.open(tmp_path / "copy.tar") as tar:
        assert [info.name for info in tar][-2:] == ["index.json", "oci-layout"]


def test_a_large_blob_that_fails_leaves_room_for_the_next_attempt_or_zeros(tmp_path: Path) -> None:
    """[S22.44] A blob that could not be copied may leave zeros in the archive"""
    file = tmp_path / "copy.tar"
    contents = [bytes([n]) * (2**20 + n) for n in range(1, 4)]
    blobs = [described(each) for each in contents]
    with ArchiveTarget(file) as target:
        for blob, content in zip(blobs, contents, strict=True):
            for wrong in (content[:-1], content + b"+", content[:-1] + b"-"):
                with pytest.raises(DigestMismatch):
                    target.put_blob("app", blob, [wrong])
        target.put_blob("app", blobs[1], [contents[1]])
        target.finish()
    with ArchiveSource(file) as source:
        assert content_of(source)["app"].blobs == {blobs[1].digest}
    with tarfile.open(file) as tar:
        members = {info.name: tar.extractfile(info) for info in tar}
    assert list(members)[1:] == [f"blobs/sha256/{blobs[1].digest.encoded}", "index.json", LAYOUT]
    assert file.read_bytes().count(b"\1") == 0


def test_bytes_that_a_crash_has_damaged_are_sent_again(tmp_path: Path) -> None:
    """[S22.44] A copy that was killed goes on with it"""
    file, other = tmp_path / "copy.tar", described(b"other")
    with ArchiveTarget(file) as target:
        target.put_blob("app", BLOB, [CONTENT])
        target.flush()
        target.put_blob("app", other, [b"other"])
    partial = tmp_path / "copy.tar.partial"
    partial.write_bytes(partial.read_bytes().replace(b"other", bytes(5)) + b"half a header")
    with (tmp_path / "copy.tar.partial.notes").open("ab") as notes:
        notes.write(b'["app", null, ["sha256:')
    with ArchiveTarget(file) as target:
        assert not target.link("new", described(b"unknown"), None)
        assert target.link("new", BLOB, None)
        assert not target.link("new", other, None)
        assert target.missing("app", [BLOB, other]) == [other]
        target.put_blob("app", other, [b"other"])
        target.finish()
    with ArchiveSource(file) as source:
        assert content_of(source)["app"].blobs == {BLOB.digest, other.digest}


def test_compressed_archives_and_those_of_old_docker_are_refused(tmp_path: Path) -> None:
    """[S22.45] is refused with the command that converts it"""
    file = archive(tmp_path / "a.tar", (member("index.json"), INDEX))
    for command in (("gzip", "-k"), ("zstd", "-q"), ("xz", "-k"), ("bzip2", "-k")):
        run(*command, file)
    for suffix in ("gz", "zst", "xz", "bz2"):
        with pytest.raises(Unsupported, match="decompress it"):
            ArchiveSource(tmp_path / f"a.tar.{suffix}")
    old = archive(tmp_path / "old.tar", (member("manifest.json"), b"[]"))
    with pytest.raises(Unsupported, match="docker-archive"):
        ArchiveSource(old)
    os.mkfifo(tmp_path / "fifo")
    for other in (tmp_path / "fifo", tmp_path):
        with pytest.raises(NotAFile):
            ArchiveSource(other)


def test_links_count_only_if_they_lead_to_a_blob_before_them(tmp_path: Path) -> None:
    """[S22.45] No name and no link in it leads out of it"""
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT)
    names = [f"blobs/sha256/{number:064x}" for number in range(5)]
    alias = f"blobs/sha512/{Digest.of(CONTENT, 'sha512').encoded}"
    file = archive(
        tmp_path / "a.tar",
        (member(names[0], type=tarfile.SYMTYPE, linkname=str(secret)), b""),
        (member(names[1], type=tarfile.LNKTYPE, linkname=str(secret)), b""),
        (member(names[2], type=tarfile.LNKTYPE, linkname=NAME), b""),
        (member(names[3], type=tarfile.DIRTYPE), b""),
        (member(f"../{names[4]}"), CONTENT),
        (member(f"/{NAME}"), b"absolute"),
        (member(f"./{NAME}"), CONTENT),
        (member(alias, type=tarfile.LNKTYPE, linkname=f"./{NAME}"), b""),
        (member("index.json"), b"the first of two"),
        (member("index.json"), INDEX),
    )
    with ArchiveSource(file) as source:
        for name in names:
            with pytest.raises(BlobUnknown):
                source.size("", Digest.parse(f"sha256:{name[-64:]}"))
        assert read(source, "", BLOB.digest) == CONTENT
        assert read(source, "", Digest.of(CONTENT, "sha512")) == CONTENT
        assert list(source.repositories()) == []


def test_an_archive_that_lies_is_an_error_and_takes_no_memory(tmp_path: Path) -> None:
    whole = archive(tmp_path / "a.tar", (member("index.json"), INDEX), (member(NAME), CONTENT))
    for size in (540, 1536 + 513, 50_000):
        (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:size])
        with pytest.raises(Corrupt, match="no whole tar archive"):
            ArchiveSource(tmp_path / "cut.tar")
    huge = member(NAME)
    huge.size = 2**60
    (tmp_path / "huge.tar").write_bytes(huge.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    extended = member("x", type=tarfile.XHDTYPE)
    extended.size = 2**33
    (tmp_path / "extended.tar").write_bytes(extended.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    os.truncate(tmp_path / "extended.tar", 2**34)
    (tmp_path / "text.tar").write_bytes(b"no archive " * 100)
    for name in ("huge", "extended", "text"):
        with pytest.raises(Corrupt, match="no whole tar archive"):
            ArchiveSource(tmp_path / f"{name}.tar")

"""Layouts and archives that somebody else may write to, or has made with bad intent."""

import io
import json
import os
import time
from pathlib import Path

import pytest

from blobfs.digest import Descriptor, Digest
from blobfs.errors import (
    AccessDenied,
    BlobfsError,
    DigestMismatch,
    Interrupted,
    ManifestInvalid,
    MountRefused,
)
from blobfs.transfer.layout import (
    ArchiveSource,
    ArchiveStreamTarget,
    ArchiveTarget,
    LayoutSource,
    LayoutTarget,
)
from blobfs.transfer.layout.entries import Index
from tests.support.places import described
from tests.support.transfers import content_of

LARGE = Descriptor(Digest.of(b"large"), 2**62)
HOLE = Descriptor(Digest.of(b"hole"), 2**26)
SMALL = described(b"small")


def test_a_symlink_in_a_layout_leads_no_second_name_out(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "new/blobs").mkdir(parents=True)
    (tmp_path / "new/blobs/sha256").symlink_to(outside)
    blob = described(b"content", "sha512")
    with LayoutTarget(tmp_path / "new") as target, pytest.raises(AccessDenied):
        target.put_blob("app", blob, [b"content"])
    assert not list(outside.iterdir())


@pytest.mark.parametrize("name", ["index.json", f"blobs/sha256/{SMALL.digest.encoded}"])
def test_a_fifo_in_a_layout_is_an_error(tmp_path: Path, name: str) -> None:
    with LayoutTarget(tmp_path) as target:
        target.put_blob("app", SMALL, [b"small"])
        target.finish()
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(BlobfsError), LayoutSource(tmp_path) as source:
        content_of(source)


def test_a_long_name_of_an_image_costs_no_time() -> None:
    entry = {"mediaType": "x", "digest": str(SMALL.digest), "size": 5}
    named = {**entry, "annotations": {"org.opencontainers.image.ref.name": ":1" * 20_000}}
    begin_s = time.process_time()
    [found] = Index.read(json.dumps({"manifests": [named]}).encode()).entries
    assert time.process_time() - begin_s < 2
    assert (found.repository, found.tag) == ("", None)


def test_an_index_of_empty_values_takes_no_memory() -> None:
    with pytest.raises(ManifestInvalid, match="values"):
        Index.read(b'{"manifests": [' + b"[]," * 9_000_000 + b"1]}")


def test_notes_that_are_none_are_left_out(tmp_path: Path) -> None:
    digest = str(SMALL.digest)
    notes = [
        ["r", None, [5, 1, "m"], []],
        ["r", None, {"a": 1}, []],
        ["r", None, [digest, "x", "m"], []],
        ["r", None, [digest, 1, []], []],
        [["r"], None, [digest, 1, "m"], []],
        ["r", 5, None, []],
        ["../r", None, [digest, 5, "application/octet-stream"], []],
        ["\ud800", "v1", None, []],
        5,
    ]
    lines = [*(json.dumps(note).encode() for note in notes), b"[" * 100_000, b"\xff"]
    (tmp_path / ".blobfs-notes").write_bytes(b"\n".join(lines))
    with LayoutTarget(tmp_path) as target:
        target.put_blob("app", SMALL, [b"small"])
        target.finish()
    with LayoutSource(tmp_path) as source:
        found = content_of(source)
    assert {name: content.blobs for name, content in found.items()} == {"app": {SMALL.digest}}


def test_a_size_that_no_file_has_spoils_no_archive(tmp_path: Path) -> None:
    file = tmp_path / "copy.tar"
    with ArchiveTarget(file) as target:
        with pytest.raises(BlobfsError):
            target.put_blob("app", LARGE, [b"short"])
        target.put_blob("app", SMALL, [b"small"])
        target.finish()
    with ArchiveSource(file) as source:
        assert content_of(source)["app"].blobs == {SMALL.digest}


def test_bytes_that_never_came_take_no_room_in_an_archive(tmp_path: Path) -> None:
    file = tmp_path / "copy.tar"
    with ArchiveTarget(file) as target:
        with pytest.raises(DigestMismatch):
            target.put_blob("app", HOLE, [b"secret"])
        target.put_blob("app", SMALL, [b"small"])
        target.finish()
    assert file.stat().st_blocks * 512 < HOLE.size // 4
    with file.open("rb") as opened:
        assert b"secret" not in opened.read(4096)


def test_a_blob_that_lies_about_its_size_ends_an_archive_in_a_stream() -> None:
    with ArchiveStreamTarget(io.BytesIO()) as target, pytest.raises(Interrupted):
        target.put_blob("app", LARGE, [b"short"])


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("name", ["copy.tar.partial", "copy.tar.partial.notes"])
def test_files_of_another_user_in_a_directory_for_all_are_no_beginning(
    tmp_path: Path, name: str
) -> None:
    """[S22.48] A partial archive of another user"""
    with ArchiveTarget(tmp_path / "copy.tar") as target:
        target.put_blob("app", SMALL, [b"small"])
        target.flush()
    tmp_path.chmod(0o1777)
    os.chown(tmp_path / name, 1234, -1)
    with pytest.raises(MountRefused, match="of another user"):
        ArchiveTarget(tmp_path / "copy.tar")

"""One blob in a file or a standard stream."""

import os
import sys
from pathlib import Path

import pytest

from blobfs.digest import Digest
from blobfs.errors import DigestMismatch, MountRefused, NotAFile, PathNotFound
from blobfs.transfer.blobfile import FileSource, FileTarget
from tests.support.places import described
from tests.support.transfers import Stream, read

CONTENT = bytes(range(256)) * 9_000
BLOB = described(CONTENT)


def test_a_file_is_a_blob_under_each_of_its_digests(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    with FileSource(tmp_path / "file") as source:
        assert list(source.repositories()) == [""]
        assert list(source.blobs("")) == [BLOB.digest]
        for algorithm in ("sha256", "sha512"):
            assert read(source, "", Digest.of(CONTENT, algorithm)) == CONTENT
        with pytest.raises(DigestMismatch, match=f"{BLOB.digest}, and not sha256:"):
            source.size("", Digest.of(b"another"))


def test_standard_input_is_a_blob(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Stream(CONTENT))
    with FileSource(None) as source:
        assert read(source, "", BLOB.digest) == CONTENT


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, error in ((tmp_path, NotAFile), (tmp_path / "fifo", NotAFile)):
        with pytest.raises(error):
            FileSource(path)
    with pytest.raises(PathNotFound):
        FileSource(tmp_path / "missing")


def test_a_file_is_replaced_by_verified_bytes_only(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with FileTarget(path, BLOB.digest) as target:
        assert target.missing("", [BLOB]) == [BLOB]
        with pytest.raises(DigestMismatch):
            target.put_blob("", BLOB, [CONTENT, b"more"])
        assert path.read_bytes() == b"before"
        target.put_blob("", BLOB, [CONTENT[:5], CONTENT[5:]])
        assert target.missing("", [BLOB]) == []
    assert path.read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["file"]
    with FileTarget(path, BLOB.digest) as target:
        assert target.missing("", [BLOB]) == []


def test_a_file_in_a_directory_for_all_has_the_mode_of_any_other(tmp_path: Path) -> None:
    """[S22.21] A file has the mode that other programs give it."""
    tmp_path.chmod(0o1777)
    (tmp_path / "other").touch()
    with FileTarget(tmp_path / "file", BLOB.digest) as target:
        target.put_blob("", BLOB, [CONTENT])
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_standard_output_gets_the_bytes_and_an_error_if_they_are_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = Stream()
    monkeypatch.setattr(sys, "stdout", out)
    with FileTarget(None, BLOB.digest) as target:
        target.put_blob("", BLOB, [CONTENT[:9], CONTENT[9:]])
    assert out.buffer.getvalue() == CONTENT
    with FileTarget(None, BLOB.digest) as target:
        with pytest.raises(DigestMismatch):
            target.put_blob("", BLOB, [CONTENT, b"more"])
        with pytest.raises(MountRefused, match="copy again"):
            target.put_blob("", BLOB, [CONTENT])


def test_an_image_does_not_go_into_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with FileTarget(path, Digest.of(b"manifest")) as target:
        with pytest.raises(MountRefused, match="is a manifest"):
            target.missing("", [BLOB])
        with pytest.raises(MountRefused, match="is a manifest"):
            target.put_blob("", BLOB, [CONTENT])
        with pytest.raises(MountRefused, match="is a manifest"):
            target.has_manifest("", BLOB)
    assert not path.exists()

"""Copies from and to places that fail: they end soon, and say what to do."""

import errno
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs.digest import Descriptor, Digest
from blobfs.drivers.base import DirEntry, FileReader
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.drivers.oserrors import raise_translated
from blobfs.errors import AccessDenied, Interrupted, StorageUnavailable
from blobfs.reference import RepositoryName, Tag
from blobfs.storage.manifest import OCI_MANIFEST
from blobfs.transfer import route
from blobfs.transfer.catalog import Catalog
from blobfs.transfer.route import Ends
from blobfs.transfer.storage import StorageSource
from blobfs.transfer.storage_target import StorageTarget
from tests.support.command import invoke
from tests.support.copies import Copies
from tests.support.layout import APP, as_bytes, descriptor


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Copies:
    monkeypatch.setattr(route, "_PAUSES_S", (0.0, 0.0, 0.0))
    return Copies(tmp_path)


def test_a_place_that_does_not_answer_ends_a_copy_after_some_attempts(copies: Copies) -> None:
    """[S22.27] A copy ends if ten items in a row are not answered, each after several attempts"""
    copies.put_image("v1", b"config")
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise StorageUnavailable("the place does not answer")

    source, target = StorageSource(str(copies.source)), StorageTarget(str(copies.target))
    pauses: list[str] = []
    with Ends(source, target, 0) as ends:
        ends.on_pause = pauses.append
        for _ in range(9):
            with pytest.raises(StorageUnavailable):
                ends.attempt(fail)
        assert pauses == ["the place does not answer"] * 9 * 2
        for _ in range(2):
            with pytest.raises(Interrupted, match="nothing is answered"):
                ends.attempt(fail)
        assert len(calls) == 10 * 4 + 1
        assert ends.attempt(lambda: 7) == 7
        with pytest.raises(StorageUnavailable):
            ends.attempt(fail)


def test_a_blob_of_many_repositories_that_cannot_be_read_fails_once(
    copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S22.4] What is missing, wrong or unreadable keeps the images that need it out"""
    for n in range(12):
        copies.put_image("v1", b"config", b"layer", name=RepositoryName(f"app{n}"))
    copies.put_image("good", b"config", b"another layer")
    found = StorageSource.open
    attempts: list[str] = []

    def open_(self: StorageSource, repository: str, blob: Descriptor) -> FileReader:
        if blob.digest == Digest.of(b"layer"):
            attempts.append(repository)
            raise StorageUnavailable("Input/output error")
        return found(self, repository, blob)

    monkeypatch.setattr(StorageSource, "open", open_)
    result = copies.cp()
    assert result.exit_code == 1
    assert len(attempts) == 4
    assert set(copies.tags()) == {"team/app:good"}


def _refuse_files(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise_translated(OSError(code, os.strerror(code)), "/docker")

    monkeypatch.setattr(FilesystemDriver, "put_files", refuse)


def test_a_read_only_target_ends_a_copy(copies: Copies, monkeypatch: pytest.MonkeyPatch) -> None:
    """[S22.28] A copy ends at once if the target is full or read-only"""
    for n in range(5):
        copies.put_image("v1", b"config", b"layer", name=RepositoryName(f"app{n}"))
    copies.target.mkdir()
    (copies.target / "docker/registry/v2/repositories").mkdir(parents=True)
    _refuse_files(monkeypatch, errno.EROFS)
    result = copies.cp()
    assert result.exit_code == 1
    [line] = result.stderr.splitlines()
    assert line == "Error: /docker: Read-only file system; mount that file system for writing"


def test_a_full_target_is_named(copies: Copies, monkeypatch: pytest.MonkeyPatch) -> None:
    copies.put_image("v1", b"config", b"layer")
    _refuse_files(monkeypatch, errno.ENOSPC)
    result = copies.cp()
    assert result.exit_code == 1
    [line] = result.stderr.splitlines()
    assert line == (
        f"Error: {copies.target}: /docker: No space left on device;"
        " run the same command again to go on"
    )


def test_a_full_journal_is_one_line(copies: Copies, monkeypatch: pytest.MonkeyPatch) -> None:
    copies.put_image("v1", b"config", b"layer")

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Catalog, "set_planned", fail)
    result = copies.cp()
    assert result.exit_code == 1
    [line] = result.stderr.splitlines()
    assert f"the journal in {copies.state}: database or disk is full" in line
    assert "--state-dir" in line


def test_a_full_disk_of_the_journal_is_named(tmp_path: Path) -> None:
    """SQLite ends the transaction then, and with it the savepoint."""
    catalog = Catalog.opened(tmp_path / "journal", "key")
    catalog.db.execute("PRAGMA max_page_count = 1")  # SQLite takes the pages that there are
    blobs = ((b"%1000d" % n, 1) for n in range(1000))
    with pytest.raises(sqlite3.OperationalError, match="full"), catalog.transaction() as db:
        db.executemany("INSERT INTO blob (digest, size) VALUES (?, ?)", blobs)
    catalog.db.close()


def test_sizes_that_a_manifest_invents_are_no_overflow(copies: Copies) -> None:
    """The sum of two sizes may be larger than any integer of SQLite."""
    digests = [copies.layout.layer(content, APP) for content in (b"config", b"layer", b"other")]
    sizes = (2**63 - 1, 2**63 - 1, -1)
    parts = [descriptor(digest, size=size) for digest, size in zip(digests, sizes, strict=True)]
    payload = as_bytes(
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": parts[0], "layers": parts[1:]}
    )
    copies.layout.tag(copies.layout.revision(payload), Tag("v1"))
    assert copies.cp("--dry-run").exit_code == 0
    assert copies.cp().exit_code == 0
    assert set(copies.tags()) == {"team/app:v1"}


def test_a_dry_run_makes_no_journal_and_lists_failures(copies: Copies) -> None:
    """[S22.10] With `--dry-run` the places are read, and nothing is changed"""
    copies.put_image("v1", b"config", b"layer")
    copies.layout.tag(Digest.of(b"missing"), Tag("bad"))
    result = copies.cp("--dry-run")
    assert result.exit_code == 1
    assert "team/app:bad" in result.stderr
    assert not copies.state.exists()
    assert not copies.target.exists()
    events = [json.loads(line) for line in copies.cp("--dry-run", "--json").stdout.splitlines()]
    assert [event["event"] for event in events] == ["plan", "failure"]


def test_a_password_in_an_argument_is_not_printed(copies: Copies) -> None:
    copies.put_image("v1", b"config")
    result = invoke("cp", copies.source, "docker://me:secret@host/app")
    assert result.exit_code == 1
    assert "secret" not in result.output
    assert "BLOBFS_DEST_CREDS" in result.output


def test_a_repository_that_cannot_be_listed_is_a_failure(
    copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S22.4] What is missing, wrong or unreadable keeps the images that need it out"""
    copies.put_image("v1", b"config", b"layer", name=RepositoryName("secret"))
    copies.put_image("good", b"config", b"another layer")
    found = FilesystemDriver.listdir

    def listdir(self: FilesystemDriver, path: str) -> Iterator[DirEntry]:
        if "/secret" in path:
            raise AccessDenied(f"{path}: Permission denied")
        return found(self, path)

    monkeypatch.setattr(FilesystemDriver, "listdir", listdir)
    result = copies.cp()
    assert result.exit_code == 1
    assert "repository secret: " in result.stderr
    assert set(copies.tags()) == {"team/app:good"}

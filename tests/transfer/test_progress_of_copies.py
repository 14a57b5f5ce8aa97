"""The progress of copies: each blob counts once, however often it is looked at or sent."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from blobfs.cli.copy_progress import CopyProgress
from blobfs.digest import Descriptor, Digest
from blobfs.errors import StorageUnavailable
from blobfs.reference import RepositoryName
from blobfs.transfer import route
from blobfs.transfer.storage_target import StorageTarget
from tests.support.copies import Copies, Noted, completed, counts

LOST = Digest.of(b"layer")


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Copies:
    monkeypatch.setattr(route, "_PAUSES_S", (0.0, 0.0, 0.0))
    copies = Copies(tmp_path)
    copies.put_image("v1", b"config", b"layer", b"another layer")
    copies.put_image("v2", b"config 2", b"layer")
    copies.put_image("v1", b"config", b"layer", name=RepositoryName("other"))
    return copies


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The bytes and the total of each plan at its end."""
    found: list[tuple[int, int]] = []
    showing = CopyProgress.showing

    @contextmanager
    def noting(self: CopyProgress, total: int) -> Iterator[None]:
        with showing(self, total):
            yield
        found.append((self._bytes, self._total))

    monkeypatch.setattr(CopyProgress, "showing", noting)
    return found


def test_the_second_plan_of_a_resumed_copy_does_not_count_again(
    copies: Copies, ends: list[tuple[int, int]]
) -> None:
    """[S22.31] A copy that goes on shows the rest of the earlier plan, and then the new one"""
    blob = copies.blob(copies.source, LOST)
    blob.rename(copies.directory / "kept")
    assert copies.cp("--fail-fast").exit_code == 1
    assert copies.has_journal()
    (copies.directory / "kept").rename(blob)
    copies.put_image("v3", b"config 3", b"layer 3")
    ends.clear()
    found = counts(copies.cp("--json"))
    assert {kind: sum(found[kind].values()) - found[kind]["bytes"] for kind in found} == {
        "blob": 8, "manifest": 4, "tag": 4,
    }  # fmt: skip
    assert len(ends) == 2
    assert [count for count, _ in ends] == [total for _, total in ends]


@pytest.mark.parametrize(("links", "linked"), [(4, 1), (6, 3)])
def test_a_blob_that_is_sent_again_counts_once(
    copies: Copies, ends: list[tuple[int, int]], links: int, linked: int
) -> None:
    """The target loses a blob after some *links*.

    It is sent again for another repository, or at the second look at all of them.
    [S22.31] counts each blob once, also if it is looked at again, or its bytes are sent again
    """
    kinds: list[str] = []

    def lose(kind: str, _: str) -> None:
        kinds.append(kind)
        if kinds == ["blob"] * links:
            copies.blob(copies.target, LOST).unlink()

    progress = Noted(lose)
    with copies.opened() as copy:
        assert completed(copy, progress) == []
    assert copies.files(copies.target) == copies.files(copies.source)
    [(count, total)] = ends
    assert count == total
    assert progress.summary()["blobs"] == {
        "there": 0, "linked": linked, "copied": 0, "sent": 5, "bytes": total + 5,
    }  # fmt: skip


def test_bytes_that_are_sent_again_count_once(
    copies: Copies, ends: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S22.31] counts each blob once, also if it is looked at again, or its bytes are sent again"""
    put = StorageTarget.put_blob
    failures = [StorageUnavailable("a connection is lost")] * 3

    def put_blob(
        self: StorageTarget, repository: str, blob: Descriptor, chunks: Iterator[bytes]
    ) -> None:
        if blob.digest == LOST and failures:
            assert b"".join(chunks) == b"layer"
            raise failures.pop()
        put(self, repository, blob, chunks)

    monkeypatch.setattr(StorageTarget, "put_blob", put_blob)
    assert copies.cp().exit_code == 0
    assert not failures
    [(count, total)] = ends
    assert count == total


def test_bytes_that_the_verification_of_the_target_reads_count_once(
    copies: Copies, ends: list[tuple[int, int]]
) -> None:
    """[S22.31] counts each blob once, also if it is looked at again, or its bytes are sent again"""
    copies.cp()
    copies.blob(copies.target, LOST).write_bytes(b"LAYER")
    ends.clear()
    assert copies.cp("--verify-target").exit_code == 0
    [(count, total)] = ends
    assert count == total


def test_a_pause_is_told_once_in_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    progress = CopyProgress(as_json=True)
    progress.pause("host: Connection refused")
    progress.pause("host: Connection refused")
    assert capsys.readouterr().err == "host: Connection refused; trying again\n"

"""Copies from and to places that fail: they end soon, and say what to do."""

from pathlib import Path

import pytest

from blobfs.digest import Descriptor, Digest
from blobfs.drivers.base import FileReader
from blobfs.errors import Interrupted, StorageUnavailable
from blobfs.reference import RepositoryName
from blobfs.transfer import route
from blobfs.transfer.route import Ends
from blobfs.transfer.storage import StorageSource
from blobfs.transfer.storage_target import StorageTarget
from tests.support.copies import Copies


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
    with Ends(source, target, 0) as ends:
        for _ in range(9):
            with pytest.raises(StorageUnavailable):
                ends.attempt(fail)
        for _ in range(2):
            with pytest.raises(Interrupted, match="run the same command again"):
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

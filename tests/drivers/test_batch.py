"""Small files that are stored together, by each driver and by the wrapper that keeps them."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from blobfs.drivers.base import NewFile, StorageDriver
from blobfs.drivers.batch import BatchDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.errors import AccessDenied, NotAFile, PathNotFound, StorageUnavailable
from tests.support.failing_driver import TroubledDriver
from tests.support.files import content_of

FILES = [
    NewFile("/a/b/immutable", b"1", is_immutable=True),
    NewFile("/a/b/mutable", b"2", is_immutable=False),
    NewFile("/a/empty", b"", is_immutable=False),
]

MANY = [NewFile(f"/{n % 7}/{n % 50}/{n}", b"%d" % n, is_immutable=True) for n in range(200)]


def test_many_files_are_divided_among_threads(tmp_path: Path) -> None:
    driver = FilesystemDriver.below(tmp_path)
    driver.put_files(MANY)
    driver.put_files(MANY)
    for file in MANY:
        assert content_of(driver, file.path) == file.content
    driver.close()
    assert sum(len(files) for *_, files in os.walk(tmp_path)) == len(MANY)


def test_files_are_created_and_replaced(driver: StorageDriver) -> None:
    driver.put_content("/a/b/mutable", b"old")
    driver.put_files(FILES)
    driver.put_files([])
    for file in FILES:
        assert content_of(driver, file.path) == file.content


def test_files_have_the_modes_of_single_files(tmp_path: Path) -> None:
    driver = FilesystemDriver.below(tmp_path)
    driver.put_files(FILES)
    driver.put_immutable("/a/b/other", [b"1"])
    driver.put_content("/a/b/another", b"2")
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "a/b").iterdir()}
    assert modes["immutable"] == modes["other"]
    assert modes["mutable"] == modes["another"]
    driver.close()


def test_no_file_is_visible_before_all_are_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []

    def sync(fd: int) -> None:
        seen.append({name for *_, files in os.walk(tmp_path) for name in files})

    monkeypatch.setattr("blobfs.drivers.file_batch._sync_file_system", sync)
    driver = FilesystemDriver.below(tmp_path)
    driver.put_files(FILES)
    driver.close()
    names = {"immutable", "mutable", "empty"}
    assert len(seen) == 2
    assert seen[0].isdisjoint(names)
    assert len(seen[0]) == 3
    assert seen[1] == names


@pytest.mark.parametrize("files", [FILES, MANY])
def test_a_failed_batch_leaves_no_temporary_file(
    files: list[NewFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("blobfs.drivers.file_batch._sync_file_system", fail)
    driver = FilesystemDriver.below(tmp_path)
    with pytest.raises(StorageUnavailable):
        driver.put_files(files)
    driver.close()
    assert not [name for *_, files in os.walk(tmp_path) for name in files]


def test_an_error_of_one_thread_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "3/17/17").mkdir(parents=True)
    driver = FilesystemDriver.below(tmp_path)
    with pytest.raises(NotAFile):
        driver.put_files(MANY)
    driver.close()
    assert not list(tmp_path.rglob("*.tmp"))


def _rank(path: str) -> int:
    return int(path[-1])


def test_a_symlink_that_replaces_a_directory_meanwhile_leads_no_file_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside, directory = tmp_path / "outside", tmp_path / "root/above/directory"
    outside.mkdir()

    def replace_directory(fd: int) -> None:
        for file in directory.iterdir():
            os.link(file, outside / file.name)
        directory.rename(directory.with_name("moved"))
        directory.symlink_to(outside)

    monkeypatch.setattr("blobfs.drivers.file_batch._sync_file_system", replace_directory)
    directory.parent.mkdir(parents=True)
    driver = FilesystemDriver.below(tmp_path / "root")
    with pytest.raises(PathNotFound):
        driver.put_files([NewFile("/above/directory/link", b"1", is_immutable=False)])
    driver.close()
    assert not (outside / "link").exists()


def test_small_files_are_kept_until_they_are_flushed_by_rank() -> None:
    inner = TroubledDriver(InMemoryDriver())
    batch = BatchDriver(inner, _rank)
    batch.put_content("/2", b"two")
    batch.put_immutable("/1", [b"on", b"e"])
    batch.put_immutable("/3", [bytes(70_000), b"large"])
    assert inner.methods("/3") == ["put_content"]
    assert inner.methods("/1") == inner.methods("/2") == []
    assert batch.read_at("/2", 1, 5) == b"wo"
    assert content_of(batch, "/1") == b"one"
    assert (batch.stat("/1").size, batch.stat_now("/1").size) == (3, 3)
    batch.flush()
    assert [call.path for call in inner.calls[-2:]] == ["/1", "/2"]
    assert content_of(inner, "/1") == b"one"


def test_a_batch_is_stored_when_it_is_full() -> None:
    inner = InMemoryDriver()
    batch = BatchDriver(inner, _rank)
    for number in range(8192):
        batch.put_content(f"/{number}", b"")
    assert content_of(inner, "/8191") == b""


def test_a_part_that_may_not_be_written_keeps_no_other_out(tmp_path: Path) -> None:
    class Refusing(FilesystemDriver):
        def put_files(self, files: Iterable[NewFile]) -> None:
            files = list(files)
            for file in files:
                if file.path.startswith(("/bad", "/shared/2")):
                    raise AccessDenied(f"{file.path}: Permission denied")
            super().put_files(files)

    batch = BatchDriver(Refusing.below(tmp_path), _rank, owner=_owner)
    for path in ("/shared/1", "/good/1", "/bad/1", "/bad/2", "/good/3"):
        batch.put_content(path, b"")
    batch.flush()
    assert batch.refused == {"bad": "/bad/1: Permission denied"}
    batch.put_content("/bad/3", b"")
    batch.flush()
    stored = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert stored == {"shared/1", "good/1", "good/3"}
    batch.put_content("/shared/2", b"")
    with pytest.raises(AccessDenied, match="shared"):
        batch.flush()


def test_a_file_in_the_place_of_a_directory_keeps_no_other_part_out(tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("no directory")
    batch = BatchDriver(FilesystemDriver.below(tmp_path), lambda _: 0, owner=_owner)
    for path in ("/bad/links/1/link", "/good/links/1/link"):
        batch.put_content(path, b"")
    batch.flush()
    assert set(batch.refused) == {"bad"}
    assert (tmp_path / "good/links/1/link").is_file()


def _owner(path: str) -> str:
    return path.split("/")[1].removeprefix("shared")


def test_a_failed_flush_is_repeated_by_the_next_one() -> None:
    inner = TroubledDriver(InMemoryDriver())
    batch = BatchDriver(inner, _rank)
    batch.put_content("/1", b"one")
    inner.fail_method = "put_content"
    with pytest.raises(StorageUnavailable):
        batch.flush()
    assert batch.read_at("/1", 0, 9) == b"one"
    with pytest.raises(PathNotFound):
        inner.stat("/1")
    batch.flush()
    assert content_of(inner, "/1") == b"one"


def test_immutable_files_that_arrived_are_not_sent_again() -> None:
    """The answers of an object store may be lost, so it is asked after a failure."""
    inner = InMemoryDriver()
    troubled = TroubledDriver(inner, fail_at=2)
    troubled.is_object_store = True
    batch = BatchDriver(troubled, _rank)
    for name in ("/1", "/2"):
        batch.put_immutable(name, [name.encode()])
    batch.put_content("/3", b"three")
    with pytest.raises(StorageUnavailable):
        batch.flush()
    assert content_of(inner, "/1") == b"/1"
    batch.flush()
    assert troubled.methods("/1").count("put_content") == 1
    assert [content_of(inner, name) for name in ("/2", "/3")] == [b"/2", b"three"]

"""What the filesystem driver syncs, and in which order, so that a crash takes nothing back."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blobfs.drivers.base import NewFile, StorageDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.errors import StorageFull

_TEMPORARY = re.compile(r"\.[0-9a-f-]{36}\.tmp$")


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[StorageDriver]:
    driver = FilesystemDriver.below(tmp_path)
    yield driver
    driver.close()


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every sync, with the path below the root that is synced, and every rename, in order."""
    steps: list[str] = []
    rename = os.rename

    def note_sync(fd: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        steps.append("sync /" + _TEMPORARY.sub(".tmp", str(path.relative_to(tmp_path))))

    def note_rename(old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        rename(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        steps.append(f"rename to {new}")

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note_rename)
    return steps


def test_put_syncs_the_content_before_it_gets_its_name_and_the_directory_after(
    driver: StorageDriver, steps: list[str], tmp_path: Path
) -> None:
    (tmp_path / "d").mkdir()
    driver.put_content("/d/a", b"content")
    assert steps == ["sync /d/a.tmp", "rename to a", "sync /d"]


def test_put_syncs_the_parent_of_every_directory_it_made(
    driver: StorageDriver, steps: list[str], tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    driver.put_content("/there/d/e/a", b"content")
    assert steps == [
        "sync /there/d/e/a.tmp",
        "rename to a",
        "sync /there/d/e",
        "sync /there/d",
        "sync /there",
    ]


def test_put_syncs_the_root_below_which_it_made_a_directory(
    driver: StorageDriver, steps: list[str]
) -> None:
    driver.put_content("/d/a", b"content")
    assert steps[-2:] == ["sync /d", "sync /."]


def test_move_syncs_the_new_directory_and_the_parents_it_made(
    driver: StorageDriver, steps: list[str]
) -> None:
    driver.put_content("/a", b"content")
    steps.clear()
    driver.move("/a", "/d/e/b")
    assert steps == ["rename to b", "sync /d/e", "sync /d", "sync /."]


def test_delete_syncs_the_directory(driver: StorageDriver, steps: list[str]) -> None:
    driver.put_content("/d/a", b"content")
    steps.clear()
    driver.delete("/d/a")
    assert steps == ["sync /d"]


def test_create_syncs_the_parent_of_every_directory_it_made(
    driver: StorageDriver, steps: list[str]
) -> None:
    with driver.create("/d/e/a"):
        assert steps == ["sync /d", "sync /."]


@pytest.mark.parametrize("act", ["flush", "close", "commit"])
def test_writer_syncs_the_bytes_and_then_their_name(
    driver: StorageDriver, steps: list[str], act: str
) -> None:
    with driver.create("/d/a") as writer:
        writer.write(b"content")
        steps.clear()
        getattr(writer, act)()
        assert steps == ["sync /d/a", "sync /d"]


def test_cancel_syncs_the_directory(driver: StorageDriver, steps: list[str]) -> None:
    writer = driver.create("/d/a")
    steps.clear()
    writer.cancel()
    assert steps == ["sync /d"]


def test_writing_alone_syncs_nothing(driver: StorageDriver, steps: list[str]) -> None:
    with driver.create("/d/a") as writer:
        steps.clear()
        writer.write(b"content")
        writer.rewrite(0, b"C")
        writer.truncate(3)
        assert steps == []


def _during_rename_to(
    name: str, monkeypatch: pytest.MonkeyPatch, steps: list[str], call: Callable[[], None]
) -> list[str]:
    """Call *call* once, before the next rename to *name*; return its steps when it has ended."""
    seen: list[str] = []
    rename = os.rename

    def interleaved(old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        if new.rpartition("/")[2] == name and not seen:
            before = len(steps)
            call()
            seen.extend(steps[before:])
        rename(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "rename", interleaved)
    return seen


_MAKERS: dict[str, Callable[[StorageDriver], None]] = {
    "put": lambda driver: driver.put_content("/d/e/a", b"content"),
    "batch": lambda driver: driver.put_files(
        [
            NewFile("/d/e/a", b"content", is_immutable=False),
            NewFile("/d/f", b"", is_immutable=False),
        ]
    ),
}


@pytest.mark.parametrize("make", _MAKERS.values(), ids=_MAKERS)
def test_put_syncs_the_parents_that_another_thread_has_made_and_not_synced(
    driver: StorageDriver,
    steps: list[str],
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[StorageDriver], None],
) -> None:
    seen = _during_rename_to(
        "a", monkeypatch, steps, lambda: driver.put_content("/d/e/b", b"content")
    )
    make(driver)
    assert seen == ["sync /d/e/b.tmp", "rename to b", "sync /d/e", "sync /d", "sync /."]
    steps.clear()
    driver.put_content("/d/e/c", b"content")
    assert steps == ["sync /d/e/c.tmp", "rename to c", "sync /d/e"]


def test_put_syncs_the_parents_that_another_has_made_in_vain(
    driver: StorageDriver, steps: list[str]
) -> None:
    def failing() -> Iterator[bytes]:
        yield b"content"
        raise StorageFull("no room")

    with pytest.raises(StorageFull):
        driver.put_immutable("/d/e/a", failing())
    driver.put_content("/d/b", b"content")
    assert steps == ["sync /d/b.tmp", "rename to b", "sync /d", "sync /."]


def test_removed_directory_is_made_and_synced_anew(driver: StorageDriver, steps: list[str]) -> None:
    driver.put_content("/d/e/a", b"content")
    driver.delete("/d")
    steps.clear()
    driver.put_content("/d/a", b"content")
    assert steps == ["sync /d/a.tmp", "rename to a", "sync /d", "sync /."]

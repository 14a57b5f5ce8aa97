"""What is left, and what is told, when the file system below a driver fails for real."""

import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from blobfs.drivers.base import DirEntry, StorageDriver
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.errors import (
    AccessDenied,
    BlobfsError,
    NotAFile,
    StorageFull,
    StorageUnavailable,
    TooLarge,
)
from tests.support.files import content_of, walk
from tests.support.services import cannot

Act = Callable[[StorageDriver], object]

ACTS: dict[str, Act] = {
    "stat": lambda driver: driver.stat("/d/a"),
    "listdir": lambda driver: list(driver.listdir("/d")),
    "walk": lambda driver: list(walk(driver, "/")),
    "open": lambda driver: driver.open("/d/a").close(),
    "get_content": lambda driver: content_of(driver, "/d/a"),
    "put_content": lambda driver: driver.put_content("/d/a", b""),
    "put_content in a new directory": lambda driver: driver.put_content("/new/a", b""),
    "create": lambda driver: driver.create("/d/new").close(),
    "append": lambda driver: driver.append("/d/a").close(),
    "move": lambda driver: driver.move("/d/a", "/e/a"),
    "delete": lambda driver: driver.delete("/e"),
    "prune": lambda driver: driver.prune("/d"),
}
CHANGES: dict[str, Act] = {
    "put_content": lambda driver: driver.put_content("/d/a", b""),
    "put_content in a new directory": lambda driver: driver.put_content("/new/a", b""),
    "create": lambda driver: driver.create("/d/new"),
    "create over": lambda driver: driver.create("/d/a"),
    "append": lambda driver: driver.append("/d/a"),
    "move": lambda driver: driver.move("/d/a", "/d/b"),
    "delete": lambda driver: driver.delete("/d/a"),
    "delete all": lambda driver: driver.delete("/d"),
}


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[StorageDriver]:
    driver = BaseDriver(FilesystemDriver.below(tmp_path))
    yield driver
    driver.close()


@contextmanager
def _limit(kind: int, soft: int) -> Iterator[None]:
    before, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (before, hard))


def test_put_content_that_cannot_be_renamed_leaves_no_temporary(
    driver: StorageDriver, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(NotAFile):
        driver.put_content("/a", b"content")
    assert os.listdir(tmp_path) == ["a"]


def test_put_content_that_cannot_be_written_leaves_no_temporary(
    driver: StorageDriver, tmp_path: Path
) -> None:
    with _limit(resource.RLIMIT_FSIZE, 5000), pytest.raises(TooLarge):
        driver.put_content("/a", b"n" * 100_000)
    assert os.listdir(tmp_path) == []


def test_put_content_that_cannot_be_written_keeps_the_old_content(driver: StorageDriver) -> None:
    driver.put_content("/a", b"old")
    with _limit(resource.RLIMIT_FSIZE, 5000), pytest.raises(TooLarge):
        driver.put_content("/a", b"n" * 100_000)
    assert content_of(driver, "/a") == b"old"


def test_writer_that_runs_out_of_room_counts_what_it_wrote(driver: StorageDriver) -> None:
    with driver.create("/a") as writer:
        with _limit(resource.RLIMIT_FSIZE, 5000), pytest.raises(TooLarge):
            writer.write(b"n" * 100_000)
        assert writer.size == driver.stat("/a").size == 5000


def test_writer_that_ran_out_of_room_can_be_gone_on_with(driver: StorageDriver) -> None:
    with (
        _limit(resource.RLIMIT_FSIZE, 5000),
        pytest.raises(TooLarge),
        driver.create("/a") as writer,
    ):
        writer.write(b"n" * 100_000)
    with driver.append("/a") as writer:
        writer.write(b"n" * (100_000 - writer.size))
        writer.commit()
    assert content_of(driver, "/a") == b"n" * 100_000


@pytest.mark.usefixtures("no_descriptor_left_open")
@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_running_out_of_descriptors_leaves_none_open(
    driver: StorageDriver, act: Act, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", os.fstat)
    failures = 0
    for spare in range(100):
        for path in ("/d/a", "/d/f/b", "/e/a"):
            driver.put_content(path, b"content")
        with _limit(resource.RLIMIT_NOFILE, _lowest_free_descriptor() + spare):
            try:
                act(driver)
            except StorageUnavailable:
                failures += 1
            else:
                break
        with suppress(BlobfsError):
            driver.delete("/new")
    assert 0 < failures < 100


@pytest.mark.usefixtures("no_descriptor_left_open")
@pytest.mark.parametrize("act", ["commit", "cancel", "close"])
def test_writer_that_fails_at_its_end_leaves_no_descriptor_open(
    driver: StorageDriver, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = driver.create("/a")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _fail)
        with pytest.raises(StorageUnavailable):
            getattr(writer, act)()


@pytest.mark.usefixtures("no_descriptor_left_open")
def test_writer_that_is_dropped_leaves_no_descriptor_open(driver: StorageDriver) -> None:
    driver.create("/a").write(b"content")


def _fail(_fd: int) -> None:
    raise OSError(errno.EIO, "as a broken disk answers")


@pytest.mark.usefixtures("no_descriptor_left_open")
def test_making_a_driver_without_descriptors_leaves_none_open(tmp_path: Path) -> None:
    for spare in range(3):
        with (
            _limit(resource.RLIMIT_NOFILE, _lowest_free_descriptor() + spare),
            suppress(BlobfsError),
        ):
            FilesystemDriver.below(tmp_path).close()


def _lowest_free_descriptor() -> int:
    fd = os.open(os.devnull, os.O_RDONLY)
    os.close(fd)
    return fd


@contextmanager
def _mounted(directory: Path, *options: str | Path) -> Iterator[None]:
    """A file system mounted at *directory*, where we may mount one."""
    directory.mkdir()
    done = subprocess.run(["mount", *options, directory], capture_output=True, check=False)
    if done.returncode:
        cannot(f"cannot mount here: {os.fsdecode(done.stderr).splitlines()[0]}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[StorageDriver]:
    root = tmp_path / "root"
    with _mounted(root, "-t", "tmpfs", "blobfs-test"):
        (root / "d").mkdir()
        (root / "d/a").write_bytes(b"content")
        subprocess.run(["mount", "-o", "remount,ro", root], check=True)
        driver = BaseDriver(FilesystemDriver.below(root))
        yield driver
        driver.close()


@pytest.mark.parametrize("act", CHANGES.values(), ids=CHANGES)
def test_change_of_a_read_only_file_system_is_denied(read_only: StorageDriver, act: Act) -> None:
    with pytest.raises(AccessDenied):
        act(read_only)


def test_reading_of_a_read_only_file_system_is_not_denied(read_only: StorageDriver) -> None:
    assert content_of(read_only, "/d/a") == b"content"


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[StorageDriver]:
    """A driver over a file system that has room for 256 KiB."""
    with _mounted(tmp_path / "root", "-t", "tmpfs", "-o", "size=256k", "blobfs-test"):
        driver = BaseDriver(FilesystemDriver.below(tmp_path / "root"))
        yield driver
        driver.close()


def test_put_content_into_a_full_file_system_says_so(tiny: StorageDriver) -> None:
    with pytest.raises(StorageFull, match="/d/a"):
        tiny.put_content("/d/a", bytes(2**20))
    assert list(tiny.listdir("/d")) == []


def test_put_content_into_a_full_file_system_keeps_the_old_content(tiny: StorageDriver) -> None:
    tiny.put_content("/d/a", b"old")
    with pytest.raises(StorageFull):
        tiny.put_content("/d/a", bytes(2**20))
    assert content_of(tiny, "/d/a") == b"old"


def test_writer_counts_what_a_file_system_took_before_it_was_full(tiny: StorageDriver) -> None:
    with tiny.create("/a") as writer:
        with pytest.raises(StorageFull):
            writer.write(b"n" * 2**20)
        assert writer.size == tiny.stat("/a").size == 2**18


def test_writer_goes_on_when_a_full_file_system_has_room_again(tiny: StorageDriver) -> None:
    tiny.put_content("/other", bytes(2**17))
    with tiny.create("/a") as writer:
        with pytest.raises(StorageFull):
            writer.write(b"n" * 2**18)
        tiny.delete("/other")
        writer.write(b"n" * (2**18 - writer.size))
        writer.commit()
    assert content_of(tiny, "/a") == b"n" * 2**18


def test_rewrite_beyond_the_room_counts_what_was_written(tiny: StorageDriver) -> None:
    with tiny.create("/a") as writer:
        writer.write(b"old")
        with pytest.raises(StorageFull):
            writer.rewrite(1, b"n" * 2**20)
        assert writer.size == tiny.stat("/a").size == 2**18


def test_full_file_system_can_be_emptied(tiny: StorageDriver) -> None:
    with tiny.create("/a") as writer:
        with pytest.raises(StorageFull):
            writer.write(bytes(2**20))
        writer.cancel()
    tiny.put_content("/b", bytes(2**17))


@pytest.fixture
def untyped(tmp_path: Path) -> Iterator[StorageDriver]:
    """A driver over a file system whose directories do not tell files from directories."""
    if shutil.which("mke2fs") is None:
        cannot("mke2fs is not installed")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(2**20)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext2", "-O", "^filetype", image], check=True)
    with _mounted(tmp_path / "root", "-o", "loop", image):
        driver = BaseDriver(FilesystemDriver.below(tmp_path / "root"))
        yield driver
        driver.close()


def test_listdir_tells_directories_from_files_where_readdir_does_not(
    untyped: StorageDriver,
) -> None:
    untyped.put_content("/d/e/a", b"")
    untyped.put_content("/d/b", b"")
    assert set(untyped.listdir("/d")) == {DirEntry("e", True), DirEntry("b", False)}

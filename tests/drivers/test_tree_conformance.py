"""What every driver tells of files and directories. Never edited for one of them."""

import time
from collections.abc import Callable

import pytest

from blobfs.drivers.base import DirEntry, StorageDriver
from blobfs.drivers.capacity import capacity_of
from blobfs.errors import NotFound
from tests.support.files import MISSING, missing_path


def test_root_of_an_empty_driver_is_a_directory_without_children(driver: StorageDriver) -> None:
    assert driver.stat("/").is_dir
    assert list(driver.listdir("/")) == []


def test_capacity_is_unknown_or_plausible(driver: StorageDriver) -> None:
    capacity = capacity_of(driver)
    assert capacity is None or 0 <= capacity.available <= capacity.free <= capacity.size


def test_stat_of_a_file_tells_its_size(driver: StorageDriver) -> None:
    driver.put_content("/d/a", b"content")
    info = driver.stat("/d/a")
    assert (info.path, info.size, info.is_dir) == ("/d/a", 7, False)


def test_stat_of_a_directory_tells_no_size(driver: StorageDriver) -> None:
    driver.put_content("/d/e/a", b"content")
    info = driver.stat("/d/e")
    assert (info.path, info.size, info.is_dir) == ("/d/e", 0, True)


def test_stat_of_a_missing_path_tells_which(driver: StorageDriver) -> None:
    driver.put_content("/d/file", b"")
    for path in MISSING:
        assert missing_path(driver.stat, path) == path


def test_mtime_of_a_file_is_in_nanoseconds_since_the_epoch(driver: StorageDriver) -> None:
    driver.put_content("/a", b"")
    assert abs(driver.stat("/a").mtime_ns - time.time_ns()) < 60 * 10**9


@pytest.mark.parametrize(
    "change",
    [
        lambda driver: driver.put_content("/a", b"newer"),
        lambda driver: driver.create("/a").commit(),
    ],
    ids=["put_content", "create"],
)
def test_mtime_advances_when_a_file_is_replaced(
    driver: StorageDriver, change: Callable[[StorageDriver], None]
) -> None:
    driver.put_content("/a", b"older")
    before = driver.stat("/a").mtime_ns
    deadline = time.monotonic() + 10
    change(driver)
    while driver.stat("/a").mtime_ns <= before:
        assert time.monotonic() < deadline, "the mtime stays where it was"
        change(driver)


def test_mtime_of_a_directory_may_be_unknown_but_not_negative(driver: StorageDriver) -> None:
    driver.put_content("/d/a", b"")
    assert driver.stat("/d").mtime_ns >= 0


def test_stat_many_keeps_the_order(driver: StorageDriver) -> None:
    driver.put_content("/b", b"1")
    driver.put_content("/a", b"22")
    driver.put_content("/c/d", b"333")
    paths = ["/b", "/c", "/a", "/c/d", "/b", "/"]
    assert driver.stat_many(paths) == [driver.stat(path) for path in paths]


def test_stat_many_tells_none_of_what_is_missing(driver: StorageDriver) -> None:
    driver.put_content("/d/file", b"")
    assert driver.stat_many(MISSING) == [None] * len(MISSING)


def test_stat_many_of_nothing_is_nothing(driver: StorageDriver) -> None:
    assert driver.stat_many([]) == []


def test_listdir_names_every_child_once(driver: StorageDriver) -> None:
    names = [f"file-{number}" for number in range(50)]
    for name in names:
        driver.put_content(f"/d/{name}", b"")
    assert sorted(entry.name for entry in driver.listdir("/d")) == sorted(names)


def test_listdir_tells_directories_from_files(driver: StorageDriver) -> None:
    driver.put_content("/d/file", b"")
    driver.put_content("/d/below/file", b"")
    assert set(driver.listdir("/d")) == {DirEntry("file", False), DirEntry("below", True)}


def test_listdir_names_direct_children_only(driver: StorageDriver) -> None:
    driver.put_content("/d/e/f/a", b"")
    assert list(driver.listdir("/d")) == [DirEntry("e", True)]


def test_listdir_of_the_root_names_the_top(driver: StorageDriver) -> None:
    driver.put_content("/d/e/a", b"")
    driver.put_content("/a", b"")
    assert set(driver.listdir("/")) == {DirEntry("d", True), DirEntry("a", False)}


def test_listdir_leaves_out_siblings_that_share_a_prefix(driver: StorageDriver) -> None:
    driver.put_content("/d/a", b"")
    driver.put_content("/dd/b", b"")
    assert list(driver.listdir("/d")) == [DirEntry("a", False)]


def test_listdir_of_no_directory_is_refused_before_the_first_child(driver: StorageDriver) -> None:
    driver.put_content("/d/file", b"")
    for path in (*MISSING, "/d/file"):
        assert missing_path(driver.listdir, path) == path


def test_listdir_names_the_others_when_one_goes_meanwhile(driver: StorageDriver) -> None:
    names = {f"file-{number}" for number in range(50)}
    for name in names:
        driver.put_content(f"/d/{name}", b"")
    entries = driver.listdir("/d")
    first = next(entries).name
    gone = (names - {first}).pop()
    driver.delete(f"/d/{gone}")
    assert {first, gone, *(entry.name for entry in entries)} == names


def test_listing_need_not_be_read_to_its_end(driver: StorageDriver) -> None:
    driver.put_content("/d/a", b"")
    driver.put_content("/d/b", b"")
    next(driver.listdir("/d"))
    driver.delete("/d")
    assert list(driver.listdir("/")) == []


def test_emptied_directory_is_missing_or_empty(driver: StorageDriver) -> None:
    driver.put_content("/d/only", b"")
    driver.delete("/d/only")
    try:
        entries = list(driver.listdir("/d"))
    except NotFound:
        entries = []
    assert entries == []

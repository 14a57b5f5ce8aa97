"""What every driver does with a file that is being written. Never edited for one of them."""

import random
from collections.abc import Callable
from hashlib import sha256
from operator import methodcaller

import pytest

from blobfs.drivers.base import FileWriter, StorageDriver
from blobfs.errors import NotFound, PathNotFound, WriterClosed
from tests.support.files import MISSING, content_of, missing_path, walk

each_end = pytest.mark.parametrize(
    "end",
    [methodcaller("commit"), methodcaller("cancel"), methodcaller("close")],
    ids=["commit", "cancel", "close"],
)
each_empty_file = pytest.mark.parametrize(
    "make",
    [
        lambda driver: driver.put_content("/a", b""),
        lambda driver: driver.create("/a").commit(),
        lambda driver: driver.create("/a").close(),
    ],
    ids=["put", "committed", "closed"],
)


def test_commit_makes_the_file_readable_and_known_with_its_size(driver: StorageDriver) -> None:
    with driver.create("/d/e/a") as writer:
        writer.write(b"one")
        writer.write(b"two")
        writer.commit()
    assert content_of(driver, "/d/e/a") == b"onetwo"
    assert driver.stat("/d/e/a").size == 6


def test_commit_without_a_write_makes_an_empty_file(driver: StorageDriver) -> None:
    with driver.create("/a") as writer:
        writer.commit()
    assert content_of(driver, "/a") == b""


def test_large_stream_reads_back(driver: StorageDriver) -> None:
    chunks = [random.Random(seed).randbytes(2**20) for seed in range(4)] * 4
    with driver.create("/large") as writer:
        for chunk in chunks:
            writer.write(chunk)
        writer.commit()
    with driver.open("/large") as reader:
        assert sha256(b"".join(reader.chunks())).digest() == sha256(b"".join(chunks)).digest()


def test_no_bytes_can_be_written(driver: StorageDriver) -> None:
    with driver.create("/a") as writer:
        writer.write(b"")
        assert writer.size == 0
        writer.commit()


def test_create_over_a_file_takes_the_old_content_away_at_once(
    driver_with_directories: StorageDriver,
) -> None:
    driver_with_directories.put_content("/a", b"old")
    with driver_with_directories.create("/a"):
        assert _content_if_any(driver_with_directories, "/a") != b"old"


def test_commit_over_a_longer_file_leaves_none_of_it(driver: StorageDriver) -> None:
    driver.put_content("/a", b"much longer")
    with driver.create("/a") as writer:
        writer.write(b"short")
        writer.commit()
    assert content_of(driver, "/a") == b"short"


def test_size_counts_what_is_only_buffered(driver: StorageDriver) -> None:
    with driver.create("/a") as writer:
        writer.write(b"abc")
        writer.write(b"de")
        assert writer.size == 5


def test_size_of_a_new_writer_is_none_of_the_old_file(driver: StorageDriver) -> None:
    driver.put_content("/a", b"old")
    with driver.create("/a") as writer:
        assert writer.size == 0


@each_end
def test_all_after_the_end_is_refused_but_close_and_changes_nothing(
    driver: StorageDriver, end: Callable[[FileWriter], None]
) -> None:
    writer = driver.create("/a")
    writer.write(b"content")
    end(writer)
    before = _content_if_any(driver, "/a")
    for act in (methodcaller("write", b"late"), *map(methodcaller, ("commit", "flush", "cancel"))):
        with pytest.raises(WriterClosed):
            act(writer)
    writer.close()
    assert _content_if_any(driver, "/a") == before


def test_leaving_the_with_block_closes_the_writer(driver: StorageDriver) -> None:
    with driver.create("/a") as writer:
        pass
    with pytest.raises(WriterClosed):
        writer.write(b"late")


def test_with_block_that_fails_keeps_what_was_written(driver: StorageDriver) -> None:
    def write_and_fail() -> None:
        with driver.create("/a") as writer:
            writer.write(b"kept")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    with driver.append("/a") as writer:
        assert writer.size == 4


def test_cancel_of_a_new_file_leaves_nothing(driver: StorageDriver) -> None:
    with driver.create("/a") as writer:
        writer.write(b"content")
        writer.cancel()
    with pytest.raises(PathNotFound):
        driver.stat("/a")


def test_cancel_over_an_old_file_leaves_nothing(driver_with_directories: StorageDriver) -> None:
    driver_with_directories.put_content("/a", b"old")
    with driver_with_directories.create("/a") as writer:
        writer.cancel()
    with pytest.raises(PathNotFound):
        driver_with_directories.stat("/a")


def test_cancel_of_an_append_leaves_nothing(driver: StorageDriver) -> None:
    with driver.create("/a") as writer:
        writer.write(b"first")
    with driver.append("/a") as writer:
        writer.write(b"second")
        writer.cancel()
    with pytest.raises(PathNotFound):
        driver.stat("/a")


def test_cancel_leaves_the_siblings(driver: StorageDriver) -> None:
    driver.put_content("/d/ab", b"sibling")
    with driver.create("/d/a") as writer:
        writer.cancel()
    assert content_of(driver, "/d/ab") == b"sibling"


def test_cancel_when_the_file_is_gone_does_no_harm(driver: StorageDriver) -> None:
    with driver.create("/a") as writer:
        writer.flush()
        driver.delete("/a")
        writer.cancel()


@pytest.mark.parametrize("size", [32, 4 * 2**20], ids=["small", "large"])
def test_stream_goes_on_after_each_close(driver: StorageDriver, size: int) -> None:
    parts = [random.Random(seed).randbytes(size) for seed in range(3)]
    with driver.create("/d/a") as writer:
        writer.write(parts[0])
    for number, part in enumerate(parts[1:], 1):
        with driver.append("/d/a") as writer:
            assert writer.size == number * size
            writer.write(part)
            assert writer.size == (number + 1) * size
    with driver.append("/d/a") as writer:
        writer.commit()
    assert content_of(driver, "/d/a") == b"".join(parts)


def test_closing_without_a_write_changes_nothing(driver: StorageDriver) -> None:
    with driver.create("/a") as writer:
        writer.write(b"first")
    driver.append("/a").close()
    with driver.append("/a") as writer:
        writer.commit()
    assert content_of(driver, "/a") == b"first"


@each_empty_file
def test_append_goes_on_with_an_empty_file(
    driver: StorageDriver, make: Callable[[StorageDriver], None]
) -> None:
    make(driver)
    with driver.append("/a") as writer:
        assert writer.size == 0
        writer.write(b"content")
        writer.commit()
    assert content_of(driver, "/a") == b"content"


def test_append_to_a_missing_file_tells_which_and_makes_none(driver: StorageDriver) -> None:
    driver.put_content("/d/file", b"")
    for path in MISSING:
        assert missing_path(driver.append, path) == path
    assert [info.path for info in walk(driver, "/")] == ["/d", "/d/file"]


def _content_if_any(driver: StorageDriver, path: str) -> bytes | None:
    try:
        return content_of(driver, path)
    except NotFound:
        return None

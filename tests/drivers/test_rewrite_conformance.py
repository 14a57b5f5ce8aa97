"""What drivers do to change and to show what is being written. Never edited for one of them."""

from collections.abc import Callable
from operator import methodcaller

import pytest

from blobfs.drivers.base import FileWriter, StorageDriver
from blobfs.errors import WriterClosed
from tests.support.files import content_of

each_end = pytest.mark.parametrize(
    "end",
    [methodcaller("commit"), methodcaller("cancel"), methodcaller("close")],
    ids=["commit", "cancel", "close"],
)


@pytest.fixture
def driver(driver_with_directories: StorageDriver) -> StorageDriver:
    """A store of objects cannot change, or show, what was written."""
    return driver_with_directories


def _written(driver: StorageDriver, content: bytes = b"0123456789") -> FileWriter:
    writer = driver.create("/d/a")
    writer.write(content)
    return writer


def _committed(driver: StorageDriver, writer: FileWriter) -> bytes:
    writer.commit()
    return content_of(driver, "/d/a")


@pytest.mark.parametrize(
    ("offset", "data", "expected"),
    [
        (0, b"ab", b"ab23456789"),
        (4, b"ab", b"0123ab6789"),
        (8, b"ab", b"01234567ab"),
        (8, b"abcd", b"01234567abcd"),
        (10, b"ab", b"0123456789ab"),
        (0, b"abcdefghijkl", b"abcdefghijkl"),
        (4, b"", b"0123456789"),
    ],
    ids=["start", "middle", "end", "across the end", "at the end", "all and more", "nothing"],
)
def test_rewrite_replaces_what_was_there(
    driver: StorageDriver, offset: int, data: bytes, expected: bytes
) -> None:
    writer = _written(driver)
    writer.rewrite(offset, data)
    assert writer.size == len(expected)
    assert _committed(driver, writer) == expected


def test_write_after_a_rewrite_goes_to_the_end(driver: StorageDriver) -> None:
    writer = _written(driver)
    writer.rewrite(2, b"ab")
    writer.write(b"end")
    assert _committed(driver, writer) == b"01ab456789end"


def test_rewrite_reaches_what_an_earlier_writer_wrote(driver: StorageDriver) -> None:
    _written(driver).close()
    writer = driver.append("/d/a")
    writer.rewrite(2, b"ab")
    assert _committed(driver, writer) == b"01ab456789"


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, b""),
        (4, b"0123"),
        (10, b"0123456789"),
        (13, b"0123456789\0\0\0"),
    ],
    ids=["to nothing", "shorter", "as it is", "longer"],
)
def test_truncate_cuts_or_fills_with_zeros(
    driver: StorageDriver, size: int, expected: bytes
) -> None:
    writer = _written(driver)
    writer.truncate(size)
    assert writer.size == size
    assert _committed(driver, writer) == expected


@pytest.mark.parametrize("size", [4, 13], ids=["shorter", "longer"])
def test_write_after_a_truncate_goes_to_the_new_end(driver: StorageDriver, size: int) -> None:
    writer = _written(driver)
    writer.truncate(size)
    writer.write(b"end")
    assert _committed(driver, writer) == b"0123456789\0\0\0"[:size] + b"end"


def test_bytes_that_were_cut_off_do_not_come_back(driver: StorageDriver) -> None:
    writer = _written(driver)
    writer.truncate(4)
    writer.truncate(6)
    assert _committed(driver, writer) == b"0123\0\0"


@pytest.mark.parametrize(
    ("offset", "size", "expected"),
    [(0, 3, b"012"), (8, 9, b"89"), (10, 1, b""), (99, 1, b""), (0, 0, b"")],
    ids=["start", "across the end", "at the end", "past the end", "nothing"],
)
def test_read_at_shows_what_was_written(
    driver: StorageDriver, offset: int, size: int, expected: bytes
) -> None:
    with _written(driver) as writer:
        assert writer.read_at(offset, size) == expected


def test_read_at_shows_what_an_earlier_writer_wrote(driver: StorageDriver) -> None:
    _written(driver).close()
    with driver.append("/d/a") as writer:
        writer.write(b"end")
        assert writer.read_at(8, 99) == b"89end"


def test_read_at_shows_what_was_rewritten(driver: StorageDriver) -> None:
    with _written(driver) as writer:
        writer.rewrite(2, b"ab")
        assert writer.read_at(0, 99) == b"01ab456789"


@each_end
@pytest.mark.parametrize(
    "act",
    [
        methodcaller("rewrite", 0, b"late"),
        methodcaller("truncate", 0),
        methodcaller("read_at", 0, 1),
        methodcaller("flush"),
        methodcaller("cancel"),
    ],
    ids=["rewrite", "truncate", "read_at", "flush", "cancel"],
)
def test_nothing_can_be_done_after_the_end(
    driver: StorageDriver, end: Callable[[FileWriter], None], act: Callable[[FileWriter], object]
) -> None:
    writer = _written(driver)
    end(writer)
    with pytest.raises(WriterClosed):
        act(writer)

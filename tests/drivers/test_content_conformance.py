"""What every driver does with whole files and open ones. Never edited for one of them."""

import random
from collections.abc import Callable

import pytest

from blobfs.drivers.base import StorageDriver
from tests.support.files import MISSING, content_of, missing_path

CONTENTS = {
    "no bytes": b"",
    "1 byte": b"1",
    "utf-8": "añ字𝄞".encode(),
    "not utf-8": b"\x80\x00\xff\xfe\r\n",
    "32 bytes": random.Random(32).randbytes(32),
    "1 MiB": random.Random(20).randbytes(2**20),
}
DIGITS = b"0123456789"

RANGES = [  # at the start, in the middle, and at and across the end
    (0, 3, b"012"),
    (4, 2, b"45"),
    (0, 10, DIGITS),
    (9, 1, b"9"),
    (8, 9, b"89"),
    (3, 0, b""),
    (10, 1, b""),
    (99, 1, b""),
    (2**62, 1, b""),
]

each_content = pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)


@each_content
def test_get_content_and_chunks_return_what_put_content_stored(
    driver: StorageDriver, content: bytes
) -> None:
    driver.put_content("/a/b", content)
    assert content_of(driver, "/a/b") == content
    with driver.open("/a/b", len(content)) as reader:
        assert b"".join(reader.chunks()) == content


@each_content
def test_chunks_return_what_a_writer_committed(driver: StorageDriver, content: bytes) -> None:
    with driver.create("/a/b") as writer:
        writer.write(content)
        writer.commit()
    with driver.open("/a/b") as reader:
        assert b"".join(reader.chunks()) == content


def test_every_well_formed_path_can_hold_a_file(driver: StorageDriver) -> None:
    for path in (
        "/a",
        "/2",
        "/aa",
        "/a.a",
        "/0-9/abcdefg",
        "/abcdefg/z.75",
        "/abc/1.2.3.4.5-6_zyx/123.z/4",
        "/docker/docker-registry",
        "/123.abc",
        "/abc./abc",
        "/.abc",
        "/a--b",
        "/a-.b",
        "/_.abc",
        "/Docker/docker-registry",
        "/Abc/Cba",
        "/...",
        "/..a/b..",
        "/-",
        "/b" * 100,
    ):
        driver.put_content(path, path.encode())
        assert content_of(driver, path) == path.encode()


def test_paths_that_differ_in_case_are_different_files(driver: StorageDriver) -> None:
    driver.put_content("/a", b"lower")
    driver.put_content("/A", b"upper")
    assert content_of(driver, "/a") == b"lower"


def test_put_content_truncates_a_longer_file(driver: StorageDriver) -> None:
    driver.put_content("/a", b"longer")
    driver.put_content("/a", b"short")
    assert content_of(driver, "/a") == b"short"


def test_put_content_again_and_again_leaves_the_last_content(driver: StorageDriver) -> None:
    for size in range(20, 0, -1):
        driver.put_content("/a", bytes([size]) * size)
    assert content_of(driver, "/a") == b"\x01"


def test_put_content_shrinks_a_file_from_4096_bytes_to_2048(driver: StorageDriver) -> None:
    driver.put_content("/a", b"a" * 4096)
    driver.put_content("/a", b"b" * 2048)
    assert content_of(driver, "/a") == b"b" * 2048


def test_put_content_replaces_what_a_writer_committed(driver: StorageDriver) -> None:
    with driver.create("/a") as writer:
        writer.write(b"stream")
        writer.commit()
    driver.put_content("/a", b"put")
    assert content_of(driver, "/a") == b"put"


def test_read_at_is_short_only_past_the_end(driver: StorageDriver) -> None:
    driver.put_content("/a", DIGITS)
    for offset, size, expected in RANGES:
        assert driver.read_at("/a", offset, size) == expected


@pytest.mark.parametrize("known_size", [None, 10])
def test_reader_is_short_only_past_the_end(driver: StorageDriver, known_size: int | None) -> None:
    driver.put_content("/a", DIGITS)
    with driver.open("/a", known_size) as reader:
        assert reader.size == 10
        for offset, size, expected in RANGES:
            assert reader.read_at(offset, size) == expected


def test_reading_at_random_offsets_gives_the_file_from_there(driver: StorageDriver) -> None:
    numbers = random.Random(1)
    content = numbers.randbytes(100_000)
    driver.put_content("/a", content)
    with driver.open("/a") as reader:
        for _ in range(200):
            offset, size = numbers.randrange(110_000), numbers.randrange(5000)
            assert reader.read_at(offset, size) == content[offset : offset + size]


def test_reader_keeps_its_size_when_the_file_is_replaced(driver: StorageDriver) -> None:
    driver.put_content("/a", DIGITS)
    with driver.open("/a") as reader:
        driver.put_content("/a", b"")
        assert reader.size == 10


def test_two_readers_of_a_file_do_not_move_each_other(driver: StorageDriver) -> None:
    driver.put_content("/a", DIGITS)
    with driver.open("/a") as one, driver.open("/a") as other:
        one.read_at(0, 5)
        assert other.read_at(0, 2) == b"01"


def test_chunks_are_of_the_size_asked_for_but_the_last(driver: StorageDriver) -> None:
    driver.put_content("/a", DIGITS)
    with driver.open("/a") as reader:
        assert list(reader.chunks(4)) == [b"0123", b"4567", b"89"]


def test_chunks_of_an_empty_file_are_none(driver: StorageDriver) -> None:
    driver.put_content("/a", b"")
    with driver.open("/a") as reader:
        assert list(reader.chunks()) == []


def test_closing_a_reader_twice_does_no_harm(driver: StorageDriver) -> None:
    driver.put_content("/a", DIGITS)
    reader = driver.open("/a")
    reader.close()
    reader.close()


@pytest.mark.parametrize(
    "read",
    [
        lambda driver, path: driver.open(path),
        content_of,
        lambda driver, path: driver.read_at(path, 0, 1),
        lambda driver, path: driver.read_at(path, 64, 1),
        lambda driver, path: driver.open(path, 3).read_at(0, 3),
    ],
    ids=["open", "get_content", "read_at the start", "read_at an offset", "open_of_size"],
)
def test_reading_a_missing_path_tells_which(
    driver: StorageDriver, read: Callable[[StorageDriver, str], object]
) -> None:
    driver.put_content("/d/file", b"")
    for path in (*MISSING, "/d/file/far/below"):
        assert missing_path(read, driver, path) == path

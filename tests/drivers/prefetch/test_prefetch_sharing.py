"""What handles share, how much memory they take, and what is left when they are closed."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from blobfs.drivers.base import FileReader
from blobfs.drivers.prefetch.driver import ReadAheadDriver, ReadAheadOptions
from tests.support.remote_driver import (
    CONTENT,
    KIB,
    MIB,
    SMALL,
    Gate,
    RemoteDriver,
    read_checked,
    reading_ahead,
)


def test_second_handle_asks_for_nothing_that_is_held(
    remote: RemoteDriver, driver: ReadAheadDriver
) -> None:
    with driver.open("/d/a") as one, driver.open("/d/a", len(CONTENT)) as other:
        for offset in range(0, len(CONTENT), KIB):
            read_checked(one, offset, offset + KIB)
            if offset >= 128 * KIB:
                read_checked(other, offset - 128 * KIB, offset - 127 * KIB)
    assert len(remote.requests) <= len(CONTENT) // SMALL.part


def test_second_handle_waits_for_what_is_on_its_way(
    remote: RemoteDriver, driver: ReadAheadDriver
) -> None:
    gate = remote.answer = Gate(lambda _offset: True)
    with driver.open("/d/a") as one, driver.open("/d/a") as other, ThreadPoolExecutor(2) as pool:
        reads = [pool.submit(reader.read_at, 0, KIB) for reader in (one, other)]
        remote.until(lambda: driver.stats()["waits"] == 2)
        gate.open()
        assert [read.result() for read in reads] == [CONTENT[:KIB]] * 2
    assert remote.requests == [(0, 2 * KIB)]


def test_parts_of_a_closed_file_serve_the_next_handle(
    remote: RemoteDriver, driver: ReadAheadDriver
) -> None:
    for _ in range(2):
        with driver.open("/d/a") as reader:
            read_checked(reader, 0, KIB)
    assert remote.requests == [(0, 2 * KIB)]


def test_parts_that_were_read_go_soon(remote: RemoteDriver, driver: ReadAheadDriver) -> None:
    with driver.open("/d/a") as reader:
        read_checked(reader, 0, len(CONTENT))
        assert driver.stats()["held_bytes"] <= SMALL.memory // 4
        assert driver.stats()["wasted_bytes"] == 0


def test_eight_readers_keep_within_the_memory(remote: RemoteDriver) -> None:
    options = ReadAheadOptions(memory=MIB, part=64 * KIB, first=2 * KIB, streams=8)
    held: list[int] = []
    for number in range(8):
        remote.put_content(f"/{number}", CONTENT[: 2 * MIB])
    with reading_ahead(remote, options) as driver:

        def answer(_offset: int, data: bytes) -> bytes:
            held.append(driver.stats()["held_bytes"])
            return data

        remote.answer = answer
        barrier = Barrier(8, timeout=30)

        def read(number: int) -> None:
            with driver.open(f"/{number}") as reader:
                barrier.wait()
                read_checked(reader, 0, 2 * MIB, 4 * KIB)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(read, range(8)))
    assert max(held) <= options.memory
    assert remote.most_running <= options.memory
    assert len(remote.requests) <= 8 * 2 * MIB // (16 * KIB)


@pytest.mark.parametrize("memory", [0, 1, 100, KIB, 5 * KIB, 70 * KIB])
def test_little_memory_makes_reads_slow_but_good(remote: RemoteDriver, memory: int) -> None:
    options = ReadAheadOptions(memory=memory, part=64 * KIB, first=2 * KIB, streams=2)
    with reading_ahead(remote, options) as driver, driver.open("/d/a") as reader:
        read_checked(reader, 0, MIB)
        assert driver.stats()["held_bytes"] <= memory
    assert len(remote.requests) <= MIB // KIB


def test_memory_of_a_reader_that_stopped_goes_to_one_that_reads(remote: RemoteDriver) -> None:
    options = ReadAheadOptions(memory=512 * KIB, part=64 * KIB, first=2 * KIB)
    remote.put_content("/b", CONTENT)
    with reading_ahead(remote, options) as driver, driver.open("/d/a") as idle:
        read_checked(idle, 0, MIB)
        remote.until(lambda: remote.running == 0)
        before = len(remote.requests)
        with driver.open("/b") as busy:
            read_checked(busy, 0, len(CONTENT))
        assert len(remote.requests) - before <= 1.5 * len(CONTENT) // options.part
        read_checked(idle, MIB, 2 * MIB)


def test_many_files_are_read_at_once(remote: RemoteDriver, driver: ReadAheadDriver) -> None:
    for number in range(50):
        remote.put_content(f"/{number}", CONTENT[: (number + 1) * KIB])
    readers = [driver.open(f"/{number}") for number in range(50)]
    for offset in range(0, 50 * KIB, 500):
        for number, reader in enumerate(readers):
            end = min(offset + 500, (number + 1) * KIB)
            assert reader.read_at(offset, 500) == CONTENT[offset:end]
    for reader in readers:
        reader.close()
    assert driver.stats()["held_bytes"] <= SMALL.memory


@pytest.mark.parametrize(
    "close",
    [lambda driver, reader: reader.close(), lambda driver, reader: driver.close()],
    ids=["reader", "driver"],
)
def test_close_cancels_what_is_queued(
    remote: RemoteDriver, close: Callable[[ReadAheadDriver, FileReader], None]
) -> None:
    gate = remote.answer = Gate(lambda offset: offset >= 8 * KIB)
    options = ReadAheadOptions(memory=MIB, part=4 * KIB, first=2 * KIB, streams=1)
    driver = ReadAheadDriver(remote, options)
    reader = driver.open("/d/a")
    read_checked(reader, 0, 8 * KIB)
    remote.until(lambda: remote.running > 0)
    requests = list(remote.requests)
    close(driver, reader)
    gate.open()
    remote.until(lambda: remote.running == 0)
    with reading_ahead(remote, options) as other, other.open("/d/a") as another:
        read_checked(another, 100 * KIB, 101 * KIB)
    assert remote.requests == [*requests, (100 * KIB, KIB)]


def test_close_leaves_what_another_waits_for(remote: RemoteDriver) -> None:
    gate = remote.answer = Gate(lambda offset: offset >= 8 * KIB)
    options = ReadAheadOptions(memory=MIB, part=4 * KIB, first=2 * KIB, streams=1)
    with reading_ahead(remote, options) as driver, driver.open("/d/a") as other:
        reader = driver.open("/d/a")
        read_checked(other, 0, 8 * KIB)
        read_checked(reader, 0, 8 * KIB)
        remote.until(lambda: remote.running > 0)
        reader.close()
        gate.open()
        read_checked(other, 8 * KIB, 64 * KIB)
    assert len(set(remote.offsets())) == len(remote.requests)


def test_wrapped_readers_are_closed_once_nothing_is_fetched_with_them(
    remote: RemoteDriver, driver: ReadAheadDriver
) -> None:
    gate = remote.answer = Gate(lambda offset: offset >= 32 * KIB)
    reader = driver.open("/d/a")
    read_checked(reader, 0, 32 * KIB)
    remote.until(lambda: remote.running > 0)
    reader.close()
    assert remote.closed == 0
    gate.open()
    remote.until(lambda: remote.closed == 1)


def test_whole_contents_are_asked_of_the_wrapped_driver(
    remote: RemoteDriver, driver: ReadAheadDriver
) -> None:
    assert driver.read_at("/d/a", 0, len(CONTENT)) == CONTENT
    assert driver.read_at("/d/a", 5, 3) == CONTENT[5:8]
    assert driver.stats()["requests"] == 0
    assert not driver.is_local

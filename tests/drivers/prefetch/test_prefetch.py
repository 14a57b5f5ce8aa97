"""What is fetched ahead, and with how many requests."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Lock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blobfs.drivers.base import FileReader
from blobfs.drivers.prefetch.driver import ReadAheadDriver, ReadAheadOptions
from blobfs.drivers.prefetch.prefetcher import PartSizer
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


def _read_side_by_side(reader: FileReader, threads: int, size: int = KIB) -> None:
    """All of it, each thread taking what comes next, as the kernel's own read-ahead does."""
    offsets = iter(range(0, len(CONTENT), size))
    lock = Lock()

    def read(_number: int) -> None:
        while True:
            with lock:
                offset = next(offsets, None)
            if offset is None:
                return
            read_checked(reader, offset, offset + size, size)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, range(threads)))


def test_first_read_asks_for_little(remote: RemoteDriver, driver: ReadAheadDriver) -> None:
    with driver.open("/d/a") as reader:
        read_checked(reader, 0, KIB)
    assert remote.requests == [(0, 2 * KIB)]


def test_first_parts_of_a_file_reach_four_times_as_far_each() -> None:
    cuts = PartSizer(256 * KIB, 8 * MIB)
    ends = [0]
    while ends[-1] < 64 * MIB:
        ends.append(cuts.end(ends[-1], 0, 128 * MIB))
    assert [end // (256 * KIB) for end in ends] == [0, 1, 4, 16, 32, 64, 128, 192, 256]


@pytest.mark.parametrize("first", [128 * KIB, 256 * KIB, MIB, 8 * MIB, 16 * MIB])
def test_gibibyte_takes_no_more_requests_than_parts(first: int) -> None:
    cuts = PartSizer(first, 8 * MIB)
    offset = requests = 0
    while offset < 2**30:
        offset = cuts.end(offset, 0, 128 * MIB)
        requests += 1
    assert requests <= 128


def test_file_read_in_order_takes_no_more_requests_than_parts(
    remote: RemoteDriver, driver: ReadAheadDriver
) -> None:
    with driver.open("/d/a") as reader:
        read_checked(reader, 0, len(CONTENT))
    assert len(remote.requests) <= len(CONTENT) // SMALL.part


def test_file_is_asked_for_once(remote: RemoteDriver, driver: ReadAheadDriver) -> None:
    with driver.open("/d/a") as reader:
        read_checked(reader, 0, len(CONTENT))
    asked = sorted(remote.requests)
    assert asked[0][0] == 0
    assert sum(asked[-1]) == len(CONTENT)
    assert all(offset + size == after for (offset, size), (after, _) in pairwise(asked))


def test_reads_that_come_in_any_order_are_still_reads_in_order(
    remote: RemoteDriver, driver: ReadAheadDriver
) -> None:
    with driver.open("/d/a") as reader:
        for start in range(0, len(CONTENT), 4 * KIB):
            for offset in (start + KIB, start + 3 * KIB, start, start + 2 * KIB):
                read_checked(reader, offset, offset + KIB)
    assert len(remote.requests) <= len(CONTENT) // SMALL.part


@pytest.mark.parametrize("size", [4 * KIB, 32 * KIB, 128 * KIB, MIB])
def test_threads_read_a_file_together(
    remote: RemoteDriver, driver: ReadAheadDriver, size: int
) -> None:
    with driver.open("/d/a") as reader:
        _read_side_by_side(reader, 4, size)
    assert len(remote.requests) <= 1.1 * len(CONTENT) // SMALL.part + 8


def test_requests_are_made_side_by_side_ahead_of_the_reader(
    remote: RemoteDriver, driver: ReadAheadDriver
) -> None:
    gate = remote.answer = Gate(lambda offset: offset >= MIB)
    with driver.open("/d/a") as reader:
        read_checked(reader, 0, MIB // 2)
        remote.until(lambda: remote.running >= MIB // 2)
        gate.open()


def test_no_more_requests_are_under_way_than_streams(remote: RemoteDriver) -> None:
    gate = remote.answer = Gate(lambda offset: offset >= MIB)
    options = ReadAheadOptions(memory=4 * MIB, part=64 * KIB, first=2 * KIB, streams=3)
    with reading_ahead(remote, options) as driver, driver.open("/d/a") as reader:
        read_checked(reader, 0, MIB)
        remote.until(lambda: remote.running == 3 * 64 * KIB)
        gate.open()
        read_checked(reader, MIB, 3 * MIB)
        assert remote.most_running <= 4 * 64 * KIB


def test_data_that_is_there_is_read_without_a_wait(
    remote: RemoteDriver, driver: ReadAheadDriver
) -> None:
    with driver.open("/d/a") as reader:
        read_checked(reader, 0, 16 * KIB)
        remote.until(lambda: remote.running == 0)
        before = driver.stats()
        read_checked(reader, 16 * KIB, 20 * KIB)
        after = driver.stats()
    assert (after["hits"] - before["hits"], after["waits"]) == (4, before["waits"])


def test_skip_within_the_window_is_served_from_it(
    remote: RemoteDriver, driver: ReadAheadDriver
) -> None:
    with driver.open("/d/a") as reader:
        read_checked(reader, 0, 256 * KIB)
        skipped_to = 256 * KIB + 300 * KIB
        remote.until(lambda: any(sum(request) > skipped_to + KIB for request in remote.requests))
        read_checked(reader, skipped_to, skipped_to + KIB)
    assert (skipped_to, KIB) not in remote.requests


def test_reader_that_skips_keeps_what_it_skipped_no_longer_than_needed(
    remote: RemoteDriver,
) -> None:
    content = bytes(40 * MIB)
    remote.put_content("/long", content)
    options = ReadAheadOptions(memory=64 * MIB, part=MIB, first=64 * KIB)
    with reading_ahead(remote, options) as driver, driver.open("/long") as reader:
        for offset in range(0, len(content), MIB):
            reader.read_at(offset, 64 * KIB)
        remote.until(lambda: driver.stats()["held_bytes"] <= (16 + 16 + 2) * MIB)


def test_random_reads_are_one_request_each_for_what_was_asked(
    remote: RemoteDriver, driver: ReadAheadDriver
) -> None:
    reads = [(offset * MIB + 7, 777) for offset in (3, 6, 1, 4, 7, 2, 5, 3, 1)]
    with driver.open("/d/a") as reader:
        for offset, size in reads:
            assert reader.read_at(offset, size) == CONTENT[offset : offset + size]
        assert driver.stats()["held_bytes"] == 0
    assert remote.requests == reads


def test_reading_in_order_from_the_middle_starts_a_window(
    remote: RemoteDriver, driver: ReadAheadDriver
) -> None:
    with driver.open("/d/a") as reader:
        read_checked(reader, 6 * MIB, 6 * MIB + KIB)
        read_checked(reader, 3 * MIB, 5 * MIB)
    assert remote.requests[:3] == [(6 * MIB, KIB), (3 * MIB, KIB), (3 * MIB + KIB, 3 * KIB)]
    assert len(remote.requests) <= 2 * MIB // SMALL.part + 2 * SMALL.memory // SMALL.part


def test_random_read_does_not_end_the_window(remote: RemoteDriver, driver: ReadAheadDriver) -> None:
    with driver.open("/d/a") as reader:
        for offset in range(0, 4 * MIB, 256 * KIB):
            read_checked(reader, offset, offset + 256 * KIB)
            read_checked(reader, 7 * MIB + offset // 8, 7 * MIB + offset // 8 + KIB)
    assert len(remote.requests) <= 4 * MIB // SMALL.part + 16 + SMALL.memory // SMALL.part


def test_second_pass_is_a_run_again(remote: RemoteDriver, driver: ReadAheadDriver) -> None:
    with driver.open("/d/a") as reader:
        read_checked(reader, 0, len(CONTENT))
        read_checked(reader, 0, len(CONTENT))
    assert len(remote.requests) <= 2 * len(CONTENT) // SMALL.part


@pytest.mark.parametrize("size", [1, 1999, 2 * KIB, 3 * KIB])
def test_small_file_is_one_request(
    remote: RemoteDriver, driver: ReadAheadDriver, size: int
) -> None:
    remote.put_content("/small", CONTENT[:size])
    with driver.open("/small") as reader:
        assert b"".join(reader.chunks(100)) == CONTENT[:size]
    assert remote.requests == [(0, size)]


def test_nothing_is_asked_where_there_is_nothing(
    remote: RemoteDriver, driver: ReadAheadDriver
) -> None:
    remote.put_content("/empty", b"")
    with driver.open("/empty") as reader:
        assert reader.read_at(0, KIB) == b""
    with driver.open("/d/a") as reader:
        assert reader.read_at(len(CONTENT), KIB) == b""
        assert reader.read_at(2**62, KIB) == b""
        assert reader.read_at(0, 0) == b""
    assert remote.requests == []


def test_read_across_the_end_is_short(driver: ReadAheadDriver) -> None:
    with driver.open("/d/a") as reader:
        assert reader.read_at(len(CONTENT) - 3, KIB) == CONTENT[-3:]


@settings(max_examples=150, deadline=None)
@given(
    size=st.integers(0, 3000),
    memory=st.sampled_from([0, 10, 100, 500, 5000]),
    part=st.sampled_from([7, 64, 200]),
    reads=st.lists(
        st.tuples(st.integers(0, 1), st.integers(-50, 3000), st.integers(0, 400)), max_size=40
    ),
)
def test_any_reads_give_the_bytes_of_the_file(
    size: int, memory: int, part: int, reads: list[tuple[int, int, int]]
) -> None:
    remote = RemoteDriver()
    remote.put_content("/a", CONTENT[:size])
    options = ReadAheadOptions(memory=memory, part=part, first=5, streams=2)
    ends = [0, 0]
    with (
        reading_ahead(remote, options) as driver,
        driver.open("/a") as one,
        driver.open("/a") as other,
    ):
        for handle, offset, length in reads:
            start = ends[handle] if offset < 0 else offset  # goes on
            data = (one, other)[handle].read_at(start, length)
            assert data == CONTENT[:size][start : start + length]
            assert driver.stats()["held_bytes"] <= memory
            ends[handle] = start + length

"""What every driver does for several threads at once. Never edited for one of them."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

from blobfs.drivers.base import StorageDriver
from blobfs.errors import PathNotFound
from tests.support.files import content_of, walk

THREADS = 8


def _at_once(*acts: Callable[[], object]) -> None:
    """Run *acts*, each on a thread, begun together; raises what any of them raised."""
    barrier = Barrier(len(acts), timeout=60)

    def run(act: Callable[[], object]) -> None:
        barrier.wait()
        act()

    with ThreadPoolExecutor(len(acts)) as pool:
        list(pool.map(run, acts))


def _rounds(driver: StorageDriver, most: int) -> int:
    """Fewer, where each takes a request."""
    return most if driver.is_local else most // 5


def test_ten_readers_each_see_the_whole_file(driver: StorageDriver) -> None:
    content = random.Random(1).randbytes(8 * 2**20)
    driver.put_content("/a", content)

    def read() -> None:
        with driver.open("/a") as reader:
            assert b"".join(reader.chunks()) == content

    _at_once(*[read] * 10)


def test_threads_share_a_reader(driver: StorageDriver) -> None:
    content = random.Random(2).randbytes(2**20)
    driver.put_content("/a", content)
    with driver.open("/a") as reader:

        def read(seed: int) -> None:
            numbers = random.Random(seed)
            for _ in range(_rounds(driver, 100)):
                offset = numbers.randrange(len(content))
                assert reader.read_at(offset, 4096) == content[offset : offset + 4096]

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(read, range(THREADS)))


def test_streams_written_side_by_side_do_not_mix(driver: StorageDriver) -> None:
    def content(number: int) -> bytes:
        return random.Random(number).randbytes(2 * 2**20)

    def write(number: int) -> None:
        data = memoryview(content(number))
        with driver.create(f"/d/{number}") as writer:
            for offset in range(0, len(data), 2**18):
                writer.write(bytes(data[offset : offset + 2**18]))
            writer.commit()

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(write, range(32)))
    assert all(content_of(driver, f"/d/{number}") == content(number) for number in range(32))


def test_readers_never_see_a_part_of_what_is_put(driver: StorageDriver) -> None:
    contents = (b"a" * 100_000, b"b" * 50_000)
    driver.put_content("/a", contents[0])
    finished = Event()

    def put() -> None:
        try:
            for number in range(_rounds(driver, 100)):
                driver.put_content("/a", contents[number % 2])
        finally:
            finished.set()

    def read() -> None:
        while not finished.is_set():
            assert driver.read_at("/a", 0, len(contents[0]) + 1) in contents

    _at_once(put, read, read)


def test_writers_of_one_path_leave_the_content_of_one(driver: StorageDriver) -> None:
    contents = [bytes([number]) * 10_000 for number in range(THREADS)]
    _at_once(*(lambda c=content: driver.put_content("/a", c) for content in contents))
    assert content_of(driver, "/a") in contents


def test_new_directories_can_be_made_by_all_at_once(driver: StorageDriver) -> None:
    def put(number: int) -> None:
        for depth in range(10):
            driver.put_content(f"/new{'/d' * depth}/{number}", b"")

    _at_once(*(lambda n=number: put(n) for number in range(THREADS)))
    files = [info for info in walk(driver, "/") if not info.is_dir]
    assert len(files) == 10 * THREADS


def test_moves_to_one_target_leave_one_of_the_sources(driver: StorageDriver) -> None:
    for number in range(THREADS):
        driver.put_content(f"/source/{number}", bytes([number]))
    _at_once(
        *(lambda n=number: driver.move(f"/source/{n}", "/target") for number in range(THREADS))
    )
    assert content_of(driver, "/target") in {bytes([number]) for number in range(THREADS)}
    assert driver.stat_many([f"/source/{number}" for number in range(THREADS)]) == [None] * THREADS


def test_deleted_directory_is_gone_for_each_that_deleted_it(driver: StorageDriver) -> None:
    for number in range(_rounds(driver, 300)):
        driver.put_content(f"/d/{number % 10}/{number}", b"")

    def delete() -> None:
        try:
            driver.delete("/d")
        except PathNotFound:
            pass
        assert driver.stat_many(["/d"]) == [None]

    _at_once(*[delete] * 4)


def test_listing_a_directory_that_others_change_does_not_fail(driver: StorageDriver) -> None:
    for number in range(20):
        driver.put_content(f"/d/kept-{number}", b"")
    finished = Event()

    def change() -> None:
        try:
            for number in range(_rounds(driver, 100)):
                driver.put_content(f"/d/e{number}/f", b"")
                driver.delete(f"/d/e{number}")
        finally:
            finished.set()

    def read() -> None:
        while not finished.is_set():
            walked = {info.path for info in walk(driver, "/d")}
            assert {f"/d/kept-{number}" for number in range(20)} <= walked

    _at_once(change, read)

"""What readers see when requests fail or hang, and when what was fetched has changed."""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

import pytest

from blobfs.drivers.base import StorageDriver
from blobfs.drivers.prefetch.driver import ReadAheadDriver, ReadAheadOptions
from blobfs.errors import BlobfsError, FileChanged, PathNotFound, StorageUnavailable
from tests.support.remote_driver import Gate, RemoteDriver

KIB = 2**10
CONTENT = random.Random(1).randbytes(2**20)
OTHER = random.Random(2).randbytes(2**20)
OPTIONS = ReadAheadOptions(memory=2**20, part=16 * KIB, first=2 * KIB, streams=4, hedge_after_s=60)

Fail = Callable[[], BlobfsError]
Change = Callable[[StorageDriver], object]

each_error = pytest.mark.parametrize(
    "error",
    [lambda: StorageUnavailable("gone"), lambda: PathNotFound("/d/a"), lambda: FileChanged("new")],
    ids=["unavailable", "missing", "changed"],
)


@pytest.fixture
def remote() -> RemoteDriver:
    remote = RemoteDriver()
    remote.put_content("/d/a", CONTENT)
    return remote


@pytest.fixture
def driver(remote: RemoteDriver) -> Iterator[ReadAheadDriver]:
    driver = ReadAheadDriver(remote, OPTIONS)
    yield driver
    driver.close()


@pytest.fixture
def impatient(remote: RemoteDriver) -> Iterator[ReadAheadDriver]:
    """Asks again after a moment."""
    driver = ReadAheadDriver(remote, replace(OPTIONS, hedge_after_s=0.02))
    yield driver
    driver.close()


class Failing:
    """Answers the first *times* requests from *offset* on with an error."""

    def __init__(self, error: Fail, offset: int = 0, times: int = 2**30) -> None:
        self._error = error
        self._offset = offset
        self._left = times

    def __call__(self, offset: int, data: bytes) -> bytes:
        if offset >= self._offset and self._left:
            self._left -= 1
            raise self._error()
        return data


def _read_all(driver: StorageDriver, size: int = KIB) -> bytes:
    with driver.open("/d/a") as reader:
        return b"".join(reader.chunks(size))


def test_answer_that_stays_out_is_asked_for_again(
    remote: RemoteDriver, impatient: ReadAheadDriver
) -> None:
    gate = remote.answer = Gate(lambda offset: offset == 0, times=1)
    with impatient.open("/d/a") as reader:
        assert reader.read_at(0, KIB) == CONTENT[:KIB]
    assert remote.requests == [(0, 2 * KIB)] * 2
    assert impatient.stats()["hedged"] == 1
    gate.open()
    remote.until(lambda: impatient.stats()["held_bytes"] == 2 * KIB)


def test_random_read_is_asked_for_again_too(
    remote: RemoteDriver, impatient: ReadAheadDriver
) -> None:
    gate = remote.answer = Gate(lambda _offset: True, times=1)
    with impatient.open("/d/a") as reader:
        assert reader.read_at(500 * KIB, 100) == CONTENT[500 * KIB :][:100]
    assert remote.requests == [(500 * KIB, 100)] * 2
    gate.open()
    remote.until(lambda: impatient.stats()["held_bytes"] == 0)


def test_part_fetched_ahead_is_asked_for_again(
    remote: RemoteDriver, impatient: ReadAheadDriver
) -> None:
    gate = remote.answer = Gate(lambda offset: offset == 32 * KIB, times=1)
    assert _read_all(impatient) == CONTENT
    assert remote.offsets().count(32 * KIB) == 2
    gate.open()


def test_first_answer_is_taken_though_it_was_asked_for_again(
    remote: RemoteDriver, impatient: ReadAheadDriver
) -> None:
    first, second = Gate(lambda _offset: True), Gate(lambda _offset: True)
    gates = iter((first, second))
    lock = threading.Lock()

    def answer(offset: int, data: bytes) -> bytes:
        with lock:
            gate = next(gates)
        return gate(offset, data)

    remote.answer = answer
    with impatient.open("/d/a") as reader, ThreadPoolExecutor(1) as pool:
        read = pool.submit(reader.read_at, 0, KIB)
        remote.until(lambda: len(remote.requests) == 2)
        first.open()
        assert read.result() == CONTENT[:KIB]
        assert impatient.stats()["held_bytes"] == 4 * KIB
        second.open()
        remote.until(lambda: impatient.stats()["held_bytes"] == 2 * KIB)
        assert impatient.stats()["wasted_bytes"] == 2 * KIB


def test_second_answer_is_waited_for_after_the_first_failed(
    remote: RemoteDriver, impatient: ReadAheadDriver
) -> None:
    first, second = Gate(lambda _offset: True), Gate(lambda _offset: True)

    def answer(offset: int, data: bytes) -> bytes:
        if len(remote.requests) > 1:
            return second(offset, data)
        first(offset, data)
        raise StorageUnavailable("gone")

    remote.answer = answer
    with impatient.open("/d/a") as reader, ThreadPoolExecutor(1) as pool:
        read = pool.submit(reader.read_at, 0, KIB)
        remote.until(lambda: len(remote.requests) == 2)
        first.open()
        remote.until(lambda: impatient.stats()["held_bytes"] == 2 * KIB)
        second.open()
        assert read.result() == CONTENT[:KIB]


def test_all_that_wait_are_served_by_one_more_request(
    remote: RemoteDriver, impatient: ReadAheadDriver
) -> None:
    gate = remote.answer = Gate(lambda _offset: True, times=1)
    with impatient.open("/d/a") as reader, ThreadPoolExecutor(4) as pool:
        reads = [pool.submit(reader.read_at, number * 512, 512) for number in range(4)]
        assert b"".join(read.result() for read in reads) == CONTENT[: 2 * KIB]
    assert remote.offsets().count(0) == 2
    gate.open()


def test_reader_asks_for_itself_where_there_is_no_memory_for_two(remote: RemoteDriver) -> None:
    gate = remote.answer = Gate(lambda _offset: True, times=1)
    options = ReadAheadOptions(memory=2 * KIB, part=16 * KIB, first=2 * KIB, hedge_after_s=0.02)
    driver = ReadAheadDriver(remote, options)
    with driver.open("/d/a") as reader:
        remote.answer = lambda offset, data: gate(0, data) if len(data) > KIB else data
        assert reader.read_at(0, KIB) == CONTENT[:KIB]
    assert remote.requests == [(0, 2 * KIB), (0, KIB)]
    gate.open()
    driver.close()


def test_reads_do_not_wait_for_threads_that_all_hang(remote: RemoteDriver) -> None:
    gate = Gate(lambda _offset: True)
    own = threading.current_thread()
    remote.answer = lambda offset, data: (
        data if threading.current_thread() is own else gate(offset, data)
    )
    options = ReadAheadOptions(memory=2**20, first=2 * KIB, streams=1, hedge_after_s=0.02)
    driver = ReadAheadDriver(remote, options)
    with driver.open("/d/a") as hung, driver.open("/d/a") as reader, ThreadPoolExecutor(3) as pool:
        reads = [pool.submit(hung.read_at, number * 100 * KIB, KIB) for number in (2, 4, 6)]
        remote.until(lambda: remote.running == 3 * KIB)
        assert reader.read_at(800 * KIB, KIB) == CONTENT[800 * KIB :][:KIB]
        gate.open()
        assert [len(read.result()) for read in reads] == [KIB] * 3
    driver.close()


def test_usual_time_of_requests_decides_how_long_to_wait(
    remote: RemoteDriver, impatient: ReadAheadDriver
) -> None:
    never = threading.Event()

    def answer(_offset: int, data: bytes) -> bytes:
        never.wait(0.2)
        return data

    remote.answer = answer
    with impatient.open("/d/a") as reader:
        for number in range(1, 5):
            reader.read_at(number * 100 * KIB, KIB)
    assert impatient.stats()["hedged"] == 1


@each_error
def test_error_of_a_read_is_raised(
    remote: RemoteDriver, driver: ReadAheadDriver, error: Fail
) -> None:
    remote.answer = Failing(error)
    with driver.open("/d/a") as reader:
        for offset in (0, KIB, 500 * KIB):
            with pytest.raises(type(error())):
                reader.read_at(offset, KIB)
        assert driver.stats()["held_bytes"] == 0


@each_error
def test_error_of_a_read_is_not_remembered(
    remote: RemoteDriver, driver: ReadAheadDriver, error: Fail
) -> None:
    remote.answer = Failing(error, times=1)
    with driver.open("/d/a") as reader:
        with pytest.raises(type(error())):
            reader.read_at(0, KIB)
        assert reader.read_at(0, KIB) == CONTENT[:KIB]


@each_error
@pytest.mark.parametrize("times", [1, 2, 5])
def test_what_failed_ahead_is_asked_for_again(
    remote: RemoteDriver, driver: ReadAheadDriver, error: Fail, times: int
) -> None:
    gate = Gate(lambda offset: offset >= 8 * KIB)
    failing = Failing(error, 8 * KIB, times)
    remote.answer = lambda offset, data: failing(offset, gate(offset, data))
    with driver.open("/d/a") as reader:
        assert reader.read_at(0, 4 * KIB) == CONTENT[: 4 * KIB]
        assert reader.read_at(4 * KIB, 4 * KIB) == CONTENT[4 * KIB : 8 * KIB]
        remote.until(lambda: remote.running >= 16 * KIB)
        gate.open()
        remote.until(lambda: remote.running == 0)
        remote.answer = lambda _offset, data: data
        assert b"".join(reader.chunks(KIB)) == CONTENT


def test_error_is_raised_where_it_goes_on(remote: RemoteDriver, driver: ReadAheadDriver) -> None:
    remote.answer = Failing(lambda: StorageUnavailable("gone"), 100 * KIB)
    with driver.open("/d/a") as reader:
        chunks = reader.chunks(KIB)
        assert b"".join(islice(chunks, 80)) == CONTENT[: 80 * KIB]
        with pytest.raises(StorageUnavailable, match="gone"):
            list(chunks)


def test_short_answer_is_a_changed_file(remote: RemoteDriver, driver: ReadAheadDriver) -> None:
    remote.answer = lambda _offset, data: data[:-1]
    with driver.open("/d/a") as reader:
        for offset in (0, 500 * KIB):
            with pytest.raises(FileChanged):
                reader.read_at(offset, KIB)


def test_changed_file_is_not_shared_with_new_handles(
    remote: RemoteDriver, driver: ReadAheadDriver
) -> None:
    with driver.open("/d/a") as reader:
        reader.read_at(0, KIB)
        remote.put_content("/d/a", OTHER)  # by somebody else
        remote.answer = Failing(lambda: FileChanged("new"), times=1)
        with pytest.raises(FileChanged):
            reader.read_at(500 * KIB, KIB)
        assert _read_all(driver) == OTHER


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_bug_below_fails_the_read_and_no_other(
    remote: RemoteDriver, driver: ReadAheadDriver
) -> None:
    def answer(_offset: int, data: bytes) -> bytes:
        if len(remote.requests) == 1:
            raise ZeroDivisionError
        return data

    remote.answer = answer
    with driver.open("/d/a") as reader, pytest.raises(StorageUnavailable):
        reader.read_at(0, KIB)
    assert _read_all(driver) == CONTENT


def _write(driver: StorageDriver) -> None:
    with driver.create("/d/a") as writer:
        writer.write(OTHER)
        writer.commit()


def _append(driver: StorageDriver) -> None:
    with driver.append("/d/a") as writer:
        writer.truncate(0)
        writer.write(OTHER)
        writer.commit()


def _delete(delete: Change) -> Change:
    def change(driver: StorageDriver) -> None:
        delete(driver)
        driver.put_content("/d/a", OTHER)

    return change


each_change = pytest.mark.parametrize(
    "change",
    [
        lambda driver: driver.put_content("/d/a", OTHER),
        _write,
        _append,
        lambda driver: driver.move("/other", "/d/a"),
        _delete(lambda driver: driver.move("/d/a", "/elsewhere")),
        _delete(lambda driver: driver.delete("/d/a")),
        _delete(lambda driver: driver.delete("/d")),
    ],
    ids=["put", "create", "append", "move to", "move from", "delete", "above"],
)


@each_change
def test_change_drops_what_is_held(
    remote: RemoteDriver, driver: ReadAheadDriver, change: Change
) -> None:
    remote.put_content("/other", OTHER)
    assert _read_all(driver) == CONTENT
    assert driver.stats()["held_bytes"] > 0
    change(driver)
    assert driver.stats()["held_bytes"] == 0
    assert _read_all(driver) == OTHER


@each_change
def test_change_drops_what_is_on_its_way(
    remote: RemoteDriver, driver: ReadAheadDriver, change: Change
) -> None:
    remote.put_content("/other", OTHER)
    gate = remote.answer = Gate(lambda offset: offset >= 32 * KIB, times=1)
    with driver.open("/d/a") as reader:
        for offset in range(0, 16 * KIB, KIB):
            reader.read_at(offset, KIB)
        remote.until(lambda: remote.running > 0)
        change(driver)
        gate.open()
        assert _read_all(driver) == OTHER
        assert b"".join(reader.chunks(KIB)) == CONTENT  # as it was when it was opened


@pytest.mark.parametrize("path", ["/d/ab", "/d/b", "/da", "/"])
def test_change_elsewhere_drops_nothing(
    remote: RemoteDriver, driver: ReadAheadDriver, path: str
) -> None:
    with driver.open("/d/a") as reader:
        reader.read_at(0, KIB)
        driver.put_content(f"{path}/c" if path == "/da" else f"{path.rstrip('/')}/x", b"")
        reader.read_at(KIB, KIB)
    assert remote.requests == [(0, 2 * KIB)]


def test_file_that_is_being_written_is_shared_with_nobody(
    remote: RemoteDriver, driver: ReadAheadDriver
) -> None:
    with driver.append("/d/a") as writer:
        assert _read_all(driver) == CONTENT
        assert driver.stats()["held_bytes"] == 0
        writer.rewrite(0, OTHER)
        writer.flush()
        assert _read_all(driver) == OTHER


def test_close_ends_the_threads(remote: RemoteDriver) -> None:
    before = set(threading.enumerate())
    driver = ReadAheadDriver(remote, OPTIONS)
    assert _read_all(driver) == CONTENT
    threads = set(threading.enumerate()) - before
    assert threads
    assert all(thread.daemon for thread in threads)
    driver.close()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)

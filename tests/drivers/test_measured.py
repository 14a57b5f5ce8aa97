"""Whatever a driver is asked to do is measured, once, whether it succeeds or not."""

import inspect
from collections.abc import Callable

import pytest

from blobfs import metrics
from blobfs.drivers.base import FileWriter, StorageDriver
from blobfs.drivers.base_driver import BaseDriver, BaseObjectStore, with_base
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.drivers.objectstore import ObjectStore
from blobfs.drivers.resumable import ResumableUploads
from blobfs.errors import PathNotFound
from blobfs.fuse.stats import timings
from tests.support.files import content_of


@pytest.fixture
def driver() -> StorageDriver:
    driver = InMemoryDriver()
    driver.name = "of this test"
    driver.put_content("/a/b", b"content")
    return with_base(driver)


def _counts() -> dict[str, int]:
    return {
        action: timing.count
        for (name, action), timing in timings(metrics.STORAGE_SECONDS).items()
        if name == "of this test"
    }


def _measured_by(call: Callable[[], object]) -> dict[str, int]:
    """What *call* adds to the counts."""
    before = _counts()
    call()
    added = {action: count - before.get(action, 0) for action, count in _counts().items()}
    return {action: count for action, count in added.items() if count}


def _methods(cls: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(cls, inspect.isfunction) if name[0] != "_"}


def test_every_method_of_a_driver_is_measured() -> None:
    methods = _methods(StorageDriver) | _methods(ResumableUploads) | {"capacity"}
    assert methods <= vars(BaseDriver).keys()


def test_every_method_of_a_writer_is_measured(driver: StorageDriver) -> None:
    with driver.create("/c") as writer:
        assert _methods(FileWriter) - {"can_write_nowait"} <= vars(type(writer)).keys()


def test_every_method_of_an_object_store_is_measured() -> None:
    assert _methods(ObjectStore) <= vars(BaseObjectStore).keys() | vars(BaseDriver).keys()


def test_call_is_measured_once(driver: StorageDriver) -> None:
    assert _measured_by(lambda: driver.stat_many(["/a", "/a/b", "/a/c"])) == {"stat_many": 1}


def test_call_that_fails_is_measured(driver: StorageDriver) -> None:
    def fail() -> None:
        with pytest.raises(PathNotFound):
            driver.stat("/nowhere")
        with pytest.raises(PathNotFound):
            driver.listdir("/nowhere")

    assert _measured_by(fail) == {"stat": 1, "listdir": 1}


def test_reads_of_an_open_file_are_measured(driver: StorageDriver) -> None:
    def read() -> None:
        with driver.open("/a/b") as reader:
            assert b"".join(reader.chunks(4)) == b"content"

    assert _measured_by(read) == {"open": 1, "reader.read_at": 3}


def test_writes_of_a_new_file_are_measured(driver: StorageDriver) -> None:
    def write() -> None:
        with driver.create("/c") as writer:
            writer.write(b"more")
            writer.commit()

    expected = {"create": 1, "writer.write": 1, "writer.commit": 1, "writer.close": 1}
    assert _measured_by(write) == expected
    assert content_of(driver, "/c") == b"more"


def test_listing_is_measured_to_its_end(driver: StorageDriver) -> None:
    found = driver.listdir("/a")
    assert _measured_by(lambda: next(found)) == {}
    assert _measured_by(lambda: list(found)) == {"listdir": 1}


def test_listing_that_is_given_up_is_measured(driver: StorageDriver) -> None:
    assert _measured_by(lambda: next(driver.listdir("/a"))) == {"listdir": 1}

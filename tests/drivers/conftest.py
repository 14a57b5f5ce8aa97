"""The drivers that the conformance suite is run against, each bare and checked."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs.drivers.base import StorageDriver
from blobfs.drivers.checked import CheckedDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.drivers.readahead import ReadAheadDriver, ReadAheadOptions


@pytest.fixture(
    params=[
        "inmemory",
        "filesystem",
        "checked inmemory",
        "checked filesystem",
        "readahead inmemory",
    ]
)
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StorageDriver]:
    driver = _driver(request.param, tmp_path)
    yield driver
    _take_down(driver)


@pytest.fixture(params=["inmemory", "filesystem"])
def checked_driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StorageDriver]:
    driver = CheckedDriver(_driver(request.param, tmp_path))
    yield driver
    _take_down(driver)


@pytest.fixture
def no_descriptor_left_open() -> Iterator[None]:
    """Fails a test after which, its other fixtures taken down, more descriptors are open."""
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) <= before


def _driver(kind: str, directory: Path) -> StorageDriver:
    match kind.split():
        case ["checked", inner]:
            return CheckedDriver(_driver(inner, directory))
        case ["readahead", inner]:
            return ReadAheadDriver(_driver(inner, directory), ReadAheadOptions())
        case ["filesystem"]:
            return FilesystemDriver.below(directory)
        case _:
            return InMemoryDriver()


def _take_down(driver: StorageDriver) -> None:
    for entry in list(driver.listdir("/")):
        driver.delete(f"/{entry.name}")
    assert list(driver.listdir("/")) == [], "delete left something behind"
    driver.close()

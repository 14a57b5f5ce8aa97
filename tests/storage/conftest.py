"""The drivers that a registry's storage is laid out in."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs.drivers.base import StorageDriver
from blobfs.drivers.checked import CheckedDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.drivers.inmemory import InMemoryDriver
from tests.storage.layout import Layout


@pytest.fixture(params=["inmemory", "filesystem"])
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StorageDriver]:
    inner = InMemoryDriver() if request.param == "inmemory" else FilesystemDriver.below(tmp_path)
    driver = CheckedDriver(inner)
    yield driver
    driver.close()


@pytest.fixture
def layout(driver: StorageDriver) -> Layout:
    return Layout(driver)

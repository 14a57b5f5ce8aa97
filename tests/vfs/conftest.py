"""A registry in memory, and the tree that a mount would show of it."""

import pytest

from blobfs.drivers.base import StorageDriver
from blobfs.drivers.checked import CheckedDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.vfs.nodes import Directory
from tests.storage.layout import Layout
from tests.vfs.walking import tree_of


@pytest.fixture
def driver() -> StorageDriver:
    return CheckedDriver(InMemoryDriver())


@pytest.fixture
def layout(driver: StorageDriver) -> Layout:
    return Layout(driver)


@pytest.fixture
def root(driver: StorageDriver) -> Directory:
    return tree_of(driver).root()

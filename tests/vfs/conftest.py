"""A registry in memory, and the tree that a mount would show of it."""

import os

import pytest

from blobfs.drivers.base import StorageDriver
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.vfs.nodes import Directory
from tests.support.layout import Layout
from tests.support.walking import tree_of


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is laid out here need not outlast the machine, and a busy disk takes minutes."""
    monkeypatch.setattr(os, "fsync", os.fstat)


@pytest.fixture
def driver() -> StorageDriver:
    return BaseDriver(InMemoryDriver())


@pytest.fixture
def layout(driver: StorageDriver) -> Layout:
    return Layout(driver)


@pytest.fixture
def root(driver: StorageDriver) -> Directory:
    return tree_of(driver).root()

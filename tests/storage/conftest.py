"""The drivers that a registry's storage is laid out in."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs.drivers.base import StorageDriver
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.drivers.inmemory import InMemoryDriver
from tests.support.failing_driver import TroubledDriver
from tests.support.layout import Layout
from tests.support.s3_proxy import S3Proxy
from tests.support.s3_servers import S3Server


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is laid out here need not outlast the machine, and a busy disk takes minutes."""
    monkeypatch.setattr(os, "fsync", os.fstat)


@pytest.fixture(params=["inmemory", "filesystem"])
def driver(request: pytest.FixtureRequest) -> Iterator[StorageDriver]:
    driver = BaseDriver(_driver(request))
    yield driver
    driver.close()


@pytest.fixture
def layout(driver: StorageDriver) -> Layout:
    return Layout(driver)


def _driver(request: pytest.FixtureRequest) -> StorageDriver:
    if request.param == "inmemory":
        return InMemoryDriver()
    directory: Path = request.getfixturevalue("tmp_path")
    return FilesystemDriver.below(directory)


@pytest.fixture
def troubled(driver: StorageDriver) -> TroubledDriver:
    return TroubledDriver(driver)


@pytest.fixture(scope="module")
def proxy(ceph: S3Server) -> Iterator[S3Proxy]:
    with S3Proxy.before(ceph.endpoint) as proxy:
        yield proxy

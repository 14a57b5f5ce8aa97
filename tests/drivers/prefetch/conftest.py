"""A remote driver with one file, and a driver that reads it ahead."""

from collections.abc import Iterator

import pytest

from blobfs.drivers.prefetch.driver import ReadAheadDriver
from tests.support.remote_driver import CONTENT, SMALL, RemoteDriver, reading_ahead


@pytest.fixture
def remote() -> RemoteDriver:
    remote = RemoteDriver()
    remote.put_content("/d/a", CONTENT)
    return remote


@pytest.fixture
def driver(remote: RemoteDriver) -> Iterator[ReadAheadDriver]:
    with reading_ahead(remote, SMALL) as driver:
        yield driver

"""The drivers that the conformance suite is run against, bare and as a registry wraps them."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from blobfs.drivers.base import StorageDriver
from blobfs.drivers.base_driver import BaseDriver, with_base
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.drivers.prefetch.driver import ReadAheadDriver, ReadAheadOptions
from blobfs.drivers.rate_limit import RateLimits, with_limits
from blobfs.drivers.s3.driver import S3Driver
from blobfs.drivers.s3.options import S3Options
from tests.support.s3_prefixes import S3Place
from tests.support.s3_servers import S3Server

WITH_DIRECTORIES = [
    "inmemory",
    "filesystem",
    "readahead checked inmemory",
    "checked limited filesystem",
]
OBJECT_STORES = [
    pytest.param(kind, marks=pytest.mark.s3) for kind in ("s3 on moto", "checked s3 on ceph")
]


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the attempts of a request."""
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda **_: 0)
    monkeypatch.setattr("blobfs.drivers.s3.reader._BACKOFF_S", 0)


@pytest.fixture(params=[*WITH_DIRECTORIES, *OBJECT_STORES])
def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StorageDriver]:
    with _driving(request.param, tmp_path, request) as driver:
        yield driver


@pytest.fixture(params=WITH_DIRECTORIES)
def driver_with_directories(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[StorageDriver]:
    """For what a store of objects does not do, because it has neither directories nor drafts."""
    with _driving(request.param, tmp_path, request) as driver:
        yield driver


@contextmanager
def _driving(kind: str, directory: Path, request: pytest.FixtureRequest) -> Iterator[StorageDriver]:
    if "s3" not in kind.split():
        driver = _driver(kind, directory)
        yield driver
        _take_down(driver)
        return
    *wrappers, _, _, server = kind.split()
    place: S3Place = request.getfixturevalue(f"{server}_place")
    options = place.options()
    store = place.driver(options)
    driver = with_base(store) if wrappers else store
    yield driver
    place.take_down(driver, options)


@pytest.fixture(scope="session")
def ceph_place(ceph: S3Server) -> Iterator[S3Place]:
    with S3Place.on(ceph) as place:
        yield place


@pytest.fixture(scope="session")
def moto_place(moto: S3Server) -> Iterator[S3Place]:
    with S3Place.on(moto) as place:
        yield place


@pytest.fixture(params=["moto", "ceph"])
def place(request: pytest.FixtureRequest) -> S3Place:
    """For tests that are marked s3."""
    place: S3Place = request.getfixturevalue(f"{request.param}_place")
    return place


@pytest.fixture
def options(place: S3Place) -> S3Options:
    return place.options()


@pytest.fixture
def ceph_store(ceph_place: S3Place) -> Iterator[S3Driver]:
    options = ceph_place.options()
    store = ceph_place.driver(options)
    yield store
    ceph_place.take_down(store, options)


@pytest.fixture
def store(place: S3Place, options: S3Options) -> Iterator[S3Driver]:
    store = place.driver(options)
    yield store
    place.take_down(store, options)


@pytest.fixture(params=["inmemory", "filesystem"])
def checked_driver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StorageDriver]:
    driver = BaseDriver(_driver(request.param, tmp_path))
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
            return with_base(_driver(inner, directory))
        case ["limited", inner]:
            return with_limits(_driver(inner, directory), RateLimits(2**40, 10**6))
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

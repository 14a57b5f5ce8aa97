"""Fixtures of the tests of uploads."""

import pytest

from blobfs.drivers.base import StorageDriver
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.repository import Repository
from tests.support.failing_driver import TroubledDriver
from tests.support.layout import APP


@pytest.fixture
def repository(driver: StorageDriver) -> Repository:
    return Repository(driver, BlobStore(driver), APP)


@pytest.fixture
def troubled_repository(troubled: TroubledDriver) -> Repository:
    return Repository(troubled, BlobStore(troubled), APP)

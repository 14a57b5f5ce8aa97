"""Uploads in memory are bounded, however many there are."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from blobfs.drivers.base import StorageDriver
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.repository import Repository
from blobfs.storage.uploads import buffer
from blobfs.storage.uploads.buffer import IN_MEMORY, MemoryBudget, UploadBuffer
from blobfs.storage.uploads.metadata import UploadFiles, UploadRecord
from blobfs.storage.uploads.staging import LocalStaging
from tests.support.layout import APP


def test_no_more_can_be_reserved_than_there_is() -> None:
    budget = MemoryBudget(10)
    assert budget.reserve(6)
    assert not budget.reserve(5)
    assert budget.reserve(4)


def test_released_bytes_can_be_reserved_again() -> None:
    budget = MemoryBudget(10)
    budget.reserve(10)
    budget.release(10)
    assert budget.reserve(10)


def test_upload_beyond_the_budget_goes_to_the_storage(driver: StorageDriver) -> None:
    uploads = Repository(driver, BlobStore(driver), APP).uploads
    writers = [uploads.create() for _ in range(80)]
    for writer in writers:
        writer.write(bytes(IN_MEMORY))
    assert 16 <= sum(writer.is_stored for writer in writers) < 80
    for writer in writers:
        writer.cancel()


@pytest.mark.parametrize("offset", [0, 2])
def test_memory_that_a_write_would_take_at_once_is_left_to_no_other_upload(
    driver: StorageDriver, monkeypatch: pytest.MonkeyPatch, offset: int
) -> None:
    monkeypatch.setattr(buffer, "UPLOADS", MemoryBudget(10))
    one, two = (UploadBuffer(_staging(driver), datetime.now(UTC)) for _ in range(2))
    assert one.can_write_nowait(offset, 8 - offset)
    assert not two.can_write_nowait(offset, 8 - offset)
    two.write_at(0, bytes(8))
    one.write_at(offset, bytes(8 - offset))
    assert one.is_in_memory


def test_write_beyond_a_gap_that_is_larger_than_the_budget_is_not_made_at_once(
    driver: StorageDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buffer, "UPLOADS", MemoryBudget(10))
    assert not UploadBuffer(_staging(driver), datetime.now(UTC)).can_write_nowait(9, 2)


def _staging(driver: StorageDriver) -> LocalStaging:
    return LocalStaging(driver, UploadFiles(driver, APP, str(uuid4())), UploadRecord())


def test_uploads_that_ended_give_their_memory_back(driver: StorageDriver) -> None:
    uploads = Repository(driver, BlobStore(driver), APP).uploads
    for number in range(80):
        writer = uploads.create()
        writer.write(number.to_bytes(IN_MEMORY, "big"))
        assert not writer.is_stored
        writer.cancel() if number % 2 else writer.commit()

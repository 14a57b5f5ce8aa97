"""Uploads in memory are bounded, however many there are."""

from blobfs.drivers.base import StorageDriver
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.repository import Repository
from blobfs.storage.uploads.buffer import IN_MEMORY, MemoryBudget
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


def test_uploads_that_ended_give_their_memory_back(driver: StorageDriver) -> None:
    uploads = Repository(driver, BlobStore(driver), APP).uploads
    for number in range(80):
        writer = uploads.create()
        writer.write(number.to_bytes(IN_MEMORY, "big"))
        assert not writer.is_stored
        writer.cancel() if number % 2 else writer.commit()

"""The states of a blob's upload, and what a placed upload keeps."""

from dataclasses import replace

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.errors import NotADirectory, ReadOnly, WriterClosed
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.repository import Repository
from blobfs.storage.uploads.blobwriter import BlobWriter
from blobfs.storage.uploads.state import UploadState
from tests.support.layout import APP
from tests.support.uploads import LARGE


@pytest.fixture
def placed(driver: StorageDriver) -> BlobWriter:
    """A writer whose commit has moved the data, and could not link the blob."""
    writer = Repository(driver, BlobStore(driver), APP).uploads.create(digest=Digest.of(LARGE))
    writer.write(LARGE)
    obstacle = paths.layers(APP)
    driver.put_content(obstacle, b"")
    with pytest.raises(NotADirectory):
        writer.commit()
    driver.delete(obstacle)
    return writer


@pytest.mark.parametrize("state", UploadState)
def test_ended_upload_changes_no_more(state: UploadState) -> None:
    with pytest.raises(WriterClosed, match="the upload has ended"):
        UploadState.ENDED.to(state, "the upload")


@pytest.mark.parametrize("state", [UploadState.PLACED, UploadState.PLACED_UNLISTED])
def test_placed_upload_does_not_return_to_memory(state: UploadState) -> None:
    with pytest.raises(ReadOnly, match="commit it again"):
        state.to(UploadState.IN_MEMORY, "the upload")


def test_placed_upload_takes_no_bytes(placed: BlobWriter) -> None:
    with pytest.raises(ReadOnly):
        placed.write(b"more")
    assert not placed.write_nowait(placed.size, b"more")


def test_placed_upload_keeps_its_blob_under_another_declared_digest(
    driver: StorageDriver, placed: BlobWriter
) -> None:
    other = Digest.of(LARGE, "sha512")
    placed.declare(replace(placed.record, digest=other))
    placed.close()
    repository = Repository(driver, BlobStore(driver), APP)
    repository.uploads.resume(placed.id).commit()
    assert repository.layers.open(other).read_at(0, len(LARGE)) == LARGE

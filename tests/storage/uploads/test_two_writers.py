"""Two mounts that write one upload: no bytes but the verified ones are ever in a blob."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base import FileReader, StorageDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.errors import Busy, ContentMismatch, Stale
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.repository import Repository
from blobfs.storage.uploads.blobwriter import BlobWriter
from tests.support.failing_driver import TroubledDriver
from tests.support.layout import APP
from tests.support.uploads import LARGE, UPLOADS, blob_content, files_below, states

CONTENT = LARGE * 3
HALF = len(CONTENT) // 2
DIGEST = Digest.of(CONTENT)


@pytest.fixture
def drivers(tmp_path: Path) -> Iterator[tuple[StorageDriver, StorageDriver]]:
    found = FilesystemDriver.below(tmp_path), FilesystemDriver.below(tmp_path)
    yield found
    for driver in found:
        driver.close()


@pytest.fixture
def driver(drivers: tuple[StorageDriver, StorageDriver]) -> StorageDriver:
    return drivers[0]


@pytest.fixture
def writers(drivers: tuple[StorageDriver, StorageDriver]) -> tuple[BlobWriter, BlobWriter]:
    """Two of one upload, which has its first half."""
    one, other = (Repository(driver, BlobStore(driver), APP) for driver in drivers)
    writer = one.uploads.create(name="layer.tar", digest=DIGEST)
    writer.write(CONTENT[:HALF])
    writer.suspend()
    return writer, other.uploads.resume(writer.id)


def test_blob_that_another_mount_has_committed_is_never_written(
    driver: StorageDriver, writers: tuple[BlobWriter, BlobWriter], tmp_path: Path
) -> None:
    """[S7.20] No mount writes into a committed blob. Nor by a descriptor whose own look came too
    early.
    """
    one, other = writers
    with (tmp_path / paths.upload_data(APP, one.id)[1:]).open("r+b") as kept:
        other.write(CONTENT[HALF:])
        other.commit()
        with pytest.raises(Stale):
            one.write_at(0, b"late")
        kept.write(b"late")  # as in the moment between the look and the write
    assert blob_content(driver, DIGEST) == CONTENT
    with pytest.raises(Stale):
        one.suspend()
    assert files_below(driver, UPLOADS) == set()


def test_mount_that_is_alone_moves_the_data(
    writers: tuple[BlobWriter, BlobWriter], tmp_path: Path
) -> None:
    """[S7.20] It copies what another mount has open, and what a registry has begun, into the blob
    instead of moving it there.
    """
    one, other = writers
    before = (tmp_path / paths.upload_data(APP, one.id)[1:]).stat().st_ino
    one.close()
    other.write(CONTENT[HALF:])
    other.commit()
    assert (tmp_path / paths.blob_data(DIGEST)[1:]).stat().st_ino == before


def test_upload_that_another_mount_went_on_with_is_not_written_over(
    driver: StorageDriver, writers: tuple[BlobWriter, BlobWriter]
) -> None:
    """[S7.12] Where another mount or a registry has written since the file was opened here, a
    write, an fsync and a close are EBUSY.
    """
    one, other = writers
    other.write(CONTENT[HALF:])
    other.suspend()
    with pytest.raises(Busy):
        one.write(b"other")
    assert other.commit(DIGEST).digest == DIGEST
    assert blob_content(driver, DIGEST) == CONTENT


def _write_over(driver: StorageDriver, upload_id: str) -> None:
    with driver.append(paths.upload_data(APP, upload_id)) as another:
        another.rewrite(0, b"another")


def test_bytes_that_were_changed_after_their_state_was_saved_are_hashed_again(
    driver: StorageDriver, writers: tuple[BlobWriter, BlobWriter]
) -> None:
    """[S7.5] Otherwise the commit reads all of it."""
    one, other = writers
    other.close()
    one.close()
    _write_over(driver, one.id)
    resumed = Repository(driver, BlobStore(driver), APP).uploads.resume(one.id)
    assert states(driver, one.id) == set()
    resumed.write(CONTENT[HALF:])
    with pytest.raises(ContentMismatch):
        resumed.commit()
    assert files_below(driver, paths.BLOBS) == set()


def test_bytes_that_nobody_has_changed_are_not_hashed_again(
    driver: StorageDriver, writers: tuple[BlobWriter, BlobWriter]
) -> None:
    """[S7.5] What was closed or synced is not read again, if nobody has written to the upload
    since.
    """
    for writer in writers:
        writer.close()
    troubled = TroubledDriver(driver)
    resumed = Repository(troubled, BlobStore(troubled), APP).uploads.resume(writers[0].id)
    resumed.write(CONTENT[HALF:])
    resumed.commit()
    assert not {"open", "read_at", "writer.read_at"} & set(troubled.methods("/data"))


def test_copy_of_bytes_that_change_meanwhile_is_no_blob(
    drivers: tuple[StorageDriver, StorageDriver],
    writers: tuple[BlobWriter, BlobWriter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """[S7.20] The bytes that are copied are the bytes that are hashed."""
    driver, others = drivers
    _, other = writers
    other.write(CONTENT[HALF:])

    def written_first(path: str) -> FileReader:
        _write_over(driver, other.id)
        return driver.open(path)

    monkeypatch.setattr(others, "open", written_first)
    with pytest.raises(Busy):
        other.commit()
    assert files_below(driver, paths.BLOBS) == set()

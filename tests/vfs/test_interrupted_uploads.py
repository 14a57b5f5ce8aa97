"""Uploads whose commit takes long, and is stopped by somebody else, without a mount."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from blobfs import paths
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.errors import Busy, Exists, Interrupted, NotEmpty, TooLarge
from blobfs.storage.registry import Registry
from blobfs.vfs.upload_handle import OpenersReport, OpenUpload
from blobfs.vfs.uploads import Uploads
from tests.support.layout import APP
from tests.support.mounts import eventually
from tests.support.uploads import SMALL, UPLOADS, files_below

HOURS = 2**42  # bytes: what takes most of an hour to be hashed


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[StorageDriver]:
    driver = BaseDriver(FilesystemDriver.below(tmp_path))
    yield driver
    driver.close()


@pytest.fixture
def uploads() -> Uploads:
    return Uploads()


@pytest.fixture
def opened(driver: StorageDriver, uploads: Uploads) -> OpenUpload:
    """An upload of zeros, open for writing."""
    found = uploads.at(f"/{APP}/_uploads", Registry(driver).repository(APP).uploads)
    opened = OpenUpload(found.begin("zeros"), truncate=False)
    opened.truncate(HOURS)
    return opened


@pytest.fixture
def closing(opened: OpenUpload) -> Iterator[Future[None]]:
    """The last close of *opened*, which hashes it."""
    begun = Event()

    def search() -> OpenersReport:
        begun.set()
        return OpenersReport(opener_killed=False, held_elsewhere=False)

    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(opened.flush, search)
        begun.wait()
        yield closing
        opened.upload.interrupt("the test is over")


def test_removal_stops_a_commit(
    driver: StorageDriver, opened: OpenUpload, closing: Future[None]
) -> None:
    """[S7.10] `rm` of an open upload removes all of it from the storage, also while it is written.
    [S7.15] `rm` of the upload and the end of the mount (SIGTERM, SIGINT) stop it likewise.
    """
    opened.upload.cancel()
    with pytest.raises(Interrupted, match="removed"):
        closing.result()
    opened.release()
    assert files_below(driver, UPLOADS) == set()
    assert files_below(driver, paths.BLOBS) == set()


def test_end_of_the_mount_stops_a_commit_and_keeps_the_upload(
    driver: StorageDriver, uploads: Uploads, opened: OpenUpload, closing: Future[None]
) -> None:
    """[S7.15] `rm` of the upload and the end of the mount (SIGTERM, SIGINT) stop it likewise."""
    uploads.suspend(within_s=5)
    with pytest.raises(Interrupted):
        closing.result()
    again = Uploads().at(f"/{APP}/_uploads", Registry(driver).repository(APP).uploads).get("zeros")
    assert again.info().size == HOURS
    assert "the mount ended" in again.state


def test_call_that_hangs_at_the_end_of_the_mount_delays_no_other_upload(
    driver: StorageDriver, uploads: Uploads
) -> None:
    found = uploads.at(f"/{APP}/_uploads", Registry(driver).repository(APP).uploads)
    hanging, other = found.begin("hanging"), found.begin("other")
    for upload in (hanging, other):
        OpenUpload(upload, truncate=False).write(0, SMALL)
    with ThreadPoolExecutor(1) as pool:
        with hanging.lock:
            suspending = pool.submit(uploads.suspend, within_s=60)
            eventually(lambda: not other.is_in_memory)
            assert not suspending.done()
        suspending.result(10)
    assert not hanging.is_in_memory


def test_upload_can_be_read_and_not_be_written_during_its_commit(
    opened: OpenUpload, closing: Future[None]
) -> None:
    """[S7.15] Meanwhile the upload can be read, another opening for writing is EBUSY."""
    assert opened.upload.read_at(HOURS - 2, 10) == bytes(2)
    with pytest.raises(Busy):
        OpenUpload(opened.upload, truncate=False)
    assert opened.upload.state == "open"
    assert not closing.done()


@pytest.mark.parametrize("declared", [None, HOURS])
def test_size_has_a_bound_unless_it_is_declared(
    driver: StorageDriver, uploads: Uploads, declared: int | None
) -> None:
    """[S7.24] An upload with neither digest nor size declared has at most `--max-upload` bytes (64
    GiB).
    """
    found = uploads.at(f"/{APP}/_uploads", Registry(driver).repository(APP).uploads)
    upload = found.begin("some")
    upload.declare(size=declared)
    opened = OpenUpload(upload, truncate=False, max_undeclared=10)
    opened.write(0, b"0123456789")
    if declared is not None:
        opened.write(10, b"x")
        return
    with pytest.raises(TooLarge):
        opened.write(10, b"x")
    with pytest.raises(TooLarge):
        opened.flush(lambda: OpenersReport(opener_killed=False, held_elsewhere=False))
    assert upload.info().size == 10


def test_directory_of_delayed_updates(driver: StorageDriver, uploads: Uploads) -> None:
    """[S7.26] `mkdir` of `.~tmp~` makes the directory in which `rsync --delay-updates` keeps files
    until all have arrived.
    """
    found = uploads.at(f"/{APP}/_uploads", Registry(driver).repository(APP).uploads)
    opened = OpenUpload(found.begin(".some.AbCdEf"), truncate=False)
    opened.write(0, SMALL)
    opened.flush(lambda: OpenersReport(opener_killed=False, held_elsewhere=False))
    opened.release()
    found.begin_delaying()
    with pytest.raises(Exists):
        found.begin_delaying()
    found.rename(".some.AbCdEf", ".~tmp~/some", replace=True)
    with pytest.raises(NotEmpty):
        found.end_delaying()
    found.rename(".~tmp~/some", "some", replace=True)
    found.end_delaying()
    assert found.names() == ["some"]
    assert not found.is_delaying

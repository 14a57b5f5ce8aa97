"""Uploads that one opening leaves, and another one finishes, without a mount."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.errors import ContentMismatch
from blobfs.storage.registry import Registry
from blobfs.vfs.upload_handle import OpenersReport, OpenUpload
from blobfs.vfs.upload_set import UploadSet
from blobfs.vfs.uploads import Uploads
from tests.support.layout import APP
from tests.support.uploads import LARGE, blob_content, states

DIGEST = Digest.of(LARGE)


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[StorageDriver]:
    """A directory, which has what was written when the daemon crashes."""
    driver = BaseDriver(FilesystemDriver.below(tmp_path))
    yield driver
    driver.close()


def _mount(driver: StorageDriver) -> UploadSet:
    """The uploads of a repository, as a new mount has them."""
    return Uploads().at(f"/{APP}/_uploads", Registry(driver).repository(APP).uploads)


def _last() -> OpenersReport:
    return OpenersReport(opener_killed=False, held_elsewhere=False)


def _killed() -> OpenersReport:
    return OpenersReport(opener_killed=True, held_elsewhere=False)


def _close(opened: OpenUpload) -> None:
    opened.flush(_last)
    opened.release()


def _sync(opened: OpenUpload) -> None:
    opened.sync()
    opened.release()


def _crash(opened: OpenUpload) -> None:
    """The daemon ends, and nothing is saved."""


def _be_killed(opened: OpenUpload) -> None:
    opened.flush(_killed)
    opened.release()


def _leave_unhashed(
    driver: StorageDriver, content: bytes, leave: Callable[[OpenUpload], None]
) -> str:
    """The name of an upload whose bytes were all written, the first last."""
    opened = OpenUpload(_mount(driver).begin(str(DIGEST)), truncate=False)
    opened.write(1000, content[1000:])
    opened.write(0, content[:1000])
    leave(opened)
    return opened.upload.name


@pytest.mark.parametrize("finish", [_close, _sync])
@pytest.mark.parametrize("leave", [_crash, _be_killed])
def test_whole_upload_that_was_not_hashed_is_committed_by_an_opening(
    driver: StorageDriver,
    leave: Callable[[OpenUpload], None],
    finish: Callable[[OpenUpload], None],
) -> None:
    """[S7.23] An upload that is complete under its declared digest is committed by the next close
    or `fsync` of an opening that writes nothing (`: >> U/D`).
    """
    name = _leave_unhashed(driver, LARGE, leave)
    upload = _mount(driver).get(name)
    finish(OpenUpload(upload, truncate=False))
    assert upload.state == "committed"
    assert blob_content(driver, DIGEST) == LARGE


def test_upload_that_is_not_whole_is_hashed_once(driver: StorageDriver) -> None:
    """[S7.23] An upload that is complete under its declared digest is committed by the next close
    or `fsync` of an opening that writes nothing (`: >> U/D`).
    """
    name = _leave_unhashed(driver, LARGE[:-1], _be_killed)
    upload = _mount(driver).get(name)
    opened = OpenUpload(upload, truncate=False)
    assert not opened.is_clean
    _close(opened)
    assert upload.state == "open"
    assert str(len(LARGE) - 1) in states(driver, upload.id)
    assert OpenUpload(upload, truncate=False).is_clean


def test_whole_upload_that_was_not_hashed_is_committed_once_it_is_called_right(
    driver: StorageDriver,
) -> None:
    """[S7.23] Also where a crash or a kill has left bytes that nobody has hashed."""
    uploads = _mount(driver)
    opened = OpenUpload(uploads.begin("layer.tar"), truncate=False)
    opened.write(1000, LARGE[1000:])
    opened.write(0, LARGE[:1000])
    _be_killed(opened)
    uploads = _mount(driver)
    uploads.rename("layer.tar", str(DIGEST), replace=False)
    assert uploads.get(str(DIGEST)).state == "committed"


def test_reason_is_kept_until_the_upload_is_gone_on_with(driver: StorageDriver) -> None:
    """[S7.13] The reason is stored with the upload, and a later mount shows it."""
    opened = OpenUpload(_mount(driver).begin(str(DIGEST)), truncate=False)
    opened.write(0, LARGE[:1000])
    with pytest.raises(ContentMismatch) as caught:
        opened.flush(_last)
    opened.release()
    again = _mount(driver).get(str(DIGEST))
    assert again.state == f"failed: {caught.value}"
    opened = OpenUpload(again, truncate=False)
    opened.write(1000, LARGE[1000:2000])
    opened.sync()
    assert _mount(driver).get(str(DIGEST)).state == "open"


def test_upload_that_has_failed_and_that_another_removes_is_gone(driver: StorageDriver) -> None:
    """[S7.12] What another writes meanwhile is not touched."""
    uploads = _mount(driver)
    opened = OpenUpload(uploads.begin(str(DIGEST)), truncate=False)
    opened.write(0, b"other bytes")
    with pytest.raises(ContentMismatch):
        opened.flush(_last)
    opened.release()
    _mount(driver).remove(str(DIGEST))
    assert uploads.names() == []

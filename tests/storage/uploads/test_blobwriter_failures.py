"""A storage that fails, or a process that ends, at any step of an upload: nothing is lost by it."""

import errno
import logging
import os
import resource
from collections.abc import Callable
from contextlib import suppress
from itertools import count

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.errors import (
    BlobfsError,
    BlobUnknown,
    StorageUnavailable,
    TooLarge,
    WriterClosed,
)
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.repository import Repository
from blobfs.storage.uploads.blobwriter import BlobWriter
from blobfs.storage.uploads.metadata import UploadRecord
from tests.support.failing_driver import Crash, TroubledDriver
from tests.support.layout import APP
from tests.support.uploads import (
    LARGE,
    SMALL,
    UPLOADS,
    begun,
    blob_content,
    broken_links,
    files_below,
)

MORE = b" and more"
WHOLE = SMALL + MORE

DECLARATIONS = {
    "undeclared": UploadRecord(),
    "declared": UploadRecord(digest=Digest.of(WHOLE)),
    "declared as sha512": UploadRecord(digest=Digest.of(WHOLE, "sha512")),
}
each_declaration = pytest.mark.parametrize("record", DECLARATIONS.values(), ids=DECLARATIONS)
each_time = pytest.mark.parametrize("done", [False, True], ids=["undone", "done"])


def _repository(driver: StorageDriver) -> Repository:
    return Repository(driver, BlobStore(driver), APP)


def _suspended(driver: StorageDriver, record: UploadRecord) -> str:
    """The id of an upload that has all of WHOLE, and waits to be committed."""
    with _repository(driver).uploads.create(digest=record.digest) as writer:
        writer.write(WHOLE)
    return writer.id


def _empty(driver: StorageDriver) -> None:
    with suppress(BlobfsError):
        driver.delete("/docker")


def _is_linked(driver: StorageDriver) -> bool:
    try:
        return _repository(driver).layers.get(Digest.of(WHOLE)) == WHOLE
    except BlobUnknown:
        return False


def _nothing_is_lost(driver: StorageDriver, upload_id: str) -> None:
    """The upload can be resumed with all its bytes, or it is a linked blob; no link is broken."""
    assert broken_links(driver) == []
    if upload_id in _repository(driver).uploads.enumerate():
        resumed = _repository(driver).uploads.resume(upload_id)
        assert resumed.read_at(0, 100) == WHOLE
        resumed.commit()
    assert _is_linked(driver)
    assert files_below(driver, UPLOADS) == set()


def _each_failure(
    driver: StorageDriver, record: UploadRecord, *, done: bool, crash: bool = False
) -> int:
    """Commit an upload again and again, with a failure at each call; how many calls there are."""
    for number in count(1):
        _empty(driver)
        upload_id = _suspended(driver, record)
        troubled = TroubledDriver(driver, fail_at=number, done=done, crash=crash)
        try:
            with suppress(BlobfsError):
                _repository(troubled).uploads.resume(upload_id).commit()
        except Crash:
            pass
        if not troubled.failed:
            return number - 1
        _nothing_is_lost(driver, upload_id)
    raise AssertionError


@each_declaration
@each_time
def test_failure_at_any_step_of_a_commit_loses_nothing(
    driver: StorageDriver, record: UploadRecord, done: bool
) -> None:
    assert _each_failure(driver, record, done=done) > 10


@each_declaration
@each_time
def test_crash_at_any_step_of_a_commit_loses_nothing(
    driver: StorageDriver, record: UploadRecord, done: bool
) -> None:
    assert _each_failure(driver, record, done=done, crash=True) > 10


def _retry(writer: BlobWriter) -> None:
    with suppress(WriterClosed):  # it was committed, and only the clean-up failed
        writer.commit()


def _close(writer: BlobWriter) -> None:
    with suppress(BlobfsError):
        writer.close()


@each_declaration
@each_time
@pytest.mark.parametrize("then", [_retry, _close], ids=["retried", "closed"])
def test_writer_whose_commit_failed_at_any_step_loses_nothing(
    driver: StorageDriver, record: UploadRecord, done: bool, then: Callable[[BlobWriter], None]
) -> None:
    for number in count(1):
        _empty(driver)
        upload_id = _suspended(driver, record)
        troubled = TroubledDriver(driver)
        writer = _repository(troubled).uploads.resume(upload_id)
        troubled.fail_at, troubled.done = len(troubled.calls) + number, done
        with suppress(BlobfsError):
            writer.commit()
        if not troubled.failed:
            break
        then(writer)
        _nothing_is_lost(driver, upload_id)


@each_time
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["in memory", "in storage"])
def test_commit_that_failed_at_any_step_can_be_tried_again(
    driver: StorageDriver, content: bytes, done: bool
) -> None:
    for number in count(1):
        _empty(driver)
        troubled = TroubledDriver(driver)
        writer = _repository(troubled).uploads.create()
        writer.write(content)
        troubled.fail_at, troubled.done = len(troubled.calls) + number, done
        try:
            writer.commit()
        except StorageUnavailable:
            assert broken_links(driver) == []
            writer.commit()
        assert blob_content(driver, Digest.of(content)) == content
        assert broken_links(driver) == []
        if not troubled.failed:
            break


@each_time
def test_crash_at_any_step_of_a_suspension_leaves_what_was_durable_before(
    driver: StorageDriver, done: bool
) -> None:
    for number in count(1):
        _empty(driver)
        upload_id = begun(_repository(driver), digest=Digest.of(WHOLE))
        troubled = TroubledDriver(driver, fail_at=number, done=done, crash=True)
        with suppress(Crash):
            writer = _repository(troubled).uploads.resume(upload_id)
            writer.write(MORE)
            writer.suspend()
        resumed = _repository(driver).uploads.resume(upload_id)
        assert resumed.size >= len(SMALL)
        resumed.write(WHOLE[resumed.size :])
        resumed.commit()
        assert _is_linked(driver)
        if not troubled.failed:
            break


@each_time
def test_crash_while_an_upload_is_rewritten_leaves_no_state_of_what_it_was(
    driver: StorageDriver, done: bool
) -> None:
    for number in count(1):
        _empty(driver)
        upload_id = begun(_repository(driver))
        troubled = TroubledDriver(driver, fail_at=number, done=done, crash=True)
        with suppress(Crash):
            writer = _repository(troubled).uploads.resume(upload_id)
            writer.write_at(2, b"!")
            writer.suspend()
        resumed = _repository(driver).uploads.resume(upload_id)
        content = resumed.read_at(0, 100)
        assert resumed.commit().digest == Digest.of(content)
        if not troubled.failed:
            break


def test_failure_to_store_what_was_in_memory_leaves_it_there(driver: StorageDriver) -> None:
    for number in count(1):
        _empty(driver)
        troubled = TroubledDriver(driver, fail_at=number)
        writer = _repository(troubled).uploads.create(name="layer.tar")
        writer.write(SMALL)
        with suppress(StorageUnavailable):
            writer.suspend()
        if not troubled.failed:
            break
        assert writer.size == len(SMALL)
        writer.write(MORE)
        writer.commit()
        assert _is_linked(driver)
        assert files_below(driver, UPLOADS) == set()


def test_failure_to_store_what_was_in_memory_leaves_nothing_in_the_storage(
    driver: StorageDriver,
) -> None:
    troubled = TroubledDriver(driver, fail_at=2)
    writer = _repository(troubled).uploads.create(name="layer.tar")
    writer.write(SMALL)
    with pytest.raises(StorageUnavailable):
        writer.suspend()
    writer.cancel()
    assert files_below(driver, paths.ROOT) == set()


@pytest.mark.parametrize("end", [BlobWriter.cancel, BlobWriter.commit])
@pytest.mark.parametrize("digest", [None, Digest.of(LARGE)], ids=["undeclared", "declared"])
@each_time
def test_suspension_that_failed_at_any_step_in_an_object_store_leaves_no_files_of_the_upload(
    digest: Digest | None, end: Callable[[BlobWriter], object], done: bool
) -> None:
    for number in count(1):
        troubled = TroubledDriver(InMemoryDriver(), done=done)
        troubled.is_object_store = True
        writer = _repository(troubled).uploads.create(name="layer.tar", digest=digest)
        writer.write(LARGE)
        troubled.fail_at = len(troubled.calls) + number
        with suppress(StorageUnavailable):
            writer.suspend()
        if not troubled.failed:
            break
        end(writer)
        assert files_below(troubled, UPLOADS) == set()


def test_commit_whose_clean_up_fails_is_a_commit(
    driver: StorageDriver, caplog: pytest.LogCaptureFixture
) -> None:
    troubled = TroubledDriver(driver)
    upload_id = _suspended(driver, UploadRecord())
    writer = _repository(troubled).uploads.resume(upload_id)
    troubled.fail_method = "delete"
    with caplog.at_level(logging.WARNING):
        assert writer.commit().digest == Digest.of(WHOLE)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert upload_id in caplog.text
    assert _is_linked(driver)


def test_upload_whose_link_failed_can_be_closed_and_linked_later(driver: StorageDriver) -> None:
    troubled = TroubledDriver(driver)
    writer = _repository(troubled).uploads.create(digest=Digest.of(LARGE))
    writer.write(LARGE)
    troubled.fail_method = "put_content"
    with pytest.raises(StorageUnavailable):
        writer.commit()
    assert blob_content(driver, Digest.of(LARGE)) == LARGE
    writer.close()
    resumed = _repository(driver).uploads.resume(writer.id)
    assert resumed.size == len(LARGE)
    resumed.commit()
    assert _repository(driver).layers.stat(Digest.of(LARGE)).size == len(LARGE)


def test_declaration_made_between_two_commits_is_found_after_a_crash(
    driver: StorageDriver,
) -> None:
    upload_id = begun(_repository(driver), digest=Digest.of(b"another"))
    troubled = TroubledDriver(driver)
    writer = _repository(troubled).uploads.resume(upload_id)
    writer.declare(UploadRecord())
    troubled.fail_method = "writer.move_to"
    with pytest.raises(StorageUnavailable):
        writer.commit()
    writer.write(MORE)
    writer.declare(UploadRecord(digest=Digest.of(WHOLE)))
    troubled.fail_method = "put_content"  # of the link, as the record is not to be changed
    troubled.failed = False
    with suppress(StorageUnavailable):
        writer.commit()
    writer.close()
    _nothing_is_lost(driver, upload_id)


@pytest.mark.parametrize("driver", ["filesystem"], indirect=True)
def test_disk_that_fails_to_sync_at_any_step_loses_nothing(
    driver: StorageDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in count(1):
        _empty(driver)
        writer = _repository(driver).uploads.create()
        writer.write(SMALL)
        writer.suspend()
        writer.write(MORE)
        syncs = _FailingSync(number)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", syncs)
            with suppress(StorageUnavailable):
                writer.commit()
        with suppress(WriterClosed):
            writer.commit()
        assert _is_linked(driver)
        assert broken_links(driver) == []
        if not syncs.failed:
            break


class _FailingSync:
    def __init__(self, at: int) -> None:
        self.left = at
        self.failed = False

    def __call__(self, _fd: int) -> None:
        self.left -= 1
        if self.left == 0:
            self.failed = True
            raise OSError(errno.EIO, "as a broken disk answers")


@pytest.mark.parametrize("driver", ["filesystem"], indirect=True)
def test_close_that_fails_to_sync_is_the_end(
    driver: StorageDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = _repository(driver).uploads.create()
    writer.write(LARGE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _FailingSync(1))
        with pytest.raises(StorageUnavailable):
            writer.close()
    writer.close()
    with pytest.raises(WriterClosed):
        writer.write(b"late")


@pytest.mark.parametrize("driver", ["filesystem"], indirect=True)
def test_upload_that_ran_out_of_room_goes_on_from_what_was_written(driver: StorageDriver) -> None:
    troubled = TroubledDriver(driver)
    writer = _repository(troubled).uploads.create(digest=Digest.of(LARGE * 3))
    writer.write(LARGE)
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**21, hard))
    try:
        with pytest.raises(TooLarge):
            writer.write(LARGE * 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
    assert writer.size == 2**21
    writer.write((LARGE * 3)[writer.size :])
    assert writer.matches()
    writer.commit()
    assert "writer.read_at" not in troubled.methods("/data")

"""Bytes of an upload that are written over, cut off, or filled in, and what it costs."""

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.errors import AppendOnly, StorageUnavailable
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.repository import Repository
from blobfs.storage.uploads.blobwriter import BlobWriter
from tests.storage.uploads.test_blobwriter_resume import state_of
from tests.support.failing_driver import Call, TroubledDriver
from tests.support.layout import APP, Layout
from tests.support.uploads import LARGE, SMALL, begun, states


@pytest.fixture(params=["in memory", "in storage"])
def writer(request: pytest.FixtureRequest, troubled_repository: Repository) -> BlobWriter:
    writer = troubled_repository.uploads.create()
    writer.write(b"0123456789")
    if request.param == "in storage":
        writer.suspend()
    return writer


@pytest.fixture
def append_only(driver: StorageDriver) -> Repository:
    driver = TroubledDriver(driver, append_only=True)
    return Repository(driver, BlobStore(driver), APP)


def test_gap_too_long_to_be_hashed_at_once_is_hashed_by_the_commit(writer: BlobWriter) -> None:
    size = 65 * 2**20
    writer.truncate(size)
    assert writer.commit().digest == Digest.of(b"0123456789".ljust(size, b"\0"))


def test_bytes_after_a_gap_still_match_what_was_declared(troubled_repository: Repository) -> None:
    expected = LARGE + bytes(5) + b"end"
    writer = troubled_repository.uploads.create(digest=Digest.of(expected))
    writer.write(LARGE)
    writer.write_at(len(LARGE) + 5, b"end")
    assert writer.matches()


def test_commit_after_a_rewrite_reads_from_the_latest_state_before_it(
    layout: Layout, troubled: TroubledDriver, troubled_repository: Repository
) -> None:
    content = LARGE * 3
    upload_id = begun(troubled_repository, content)
    layout.put(*state_of(upload_id, content[: 2 * 2**20]))
    writer = troubled_repository.uploads.resume(upload_id)
    writer.write_at(len(content) - 1, b"!")
    troubled.calls.clear()
    assert writer.commit().digest == Digest.of(content[:-1] + b"!")
    assert troubled.methods("/data").count("writer.read_at") == 2  # of 1 MiB; 4 would be all


@pytest.mark.parametrize("change", ["writer.rewrite", "writer.truncate"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_newer_states_leave_the_storage_before_the_bytes_change(
    troubled: TroubledDriver, troubled_repository: Repository, change: str, algorithm: str
) -> None:
    upload_id = begun(troubled_repository, digest=Digest.of(b"another", "sha512"))
    writer = troubled_repository.uploads.resume(upload_id)
    troubled.calls.clear()
    if change == "writer.rewrite":
        writer.write_at(3, b"!")
    else:
        writer.truncate(3)
    dropped = Call("delete", paths.upload_hashstate(APP, upload_id, algorithm, len(SMALL)))
    changed = Call(change, paths.upload_data(APP, upload_id))
    assert [call for call in troubled.calls if call in (dropped, changed)][-2:] == [
        dropped,
        changed,
    ]


def test_newer_states_of_an_algorithm_that_nobody_declares_any_more_leave_too(
    driver: StorageDriver, layout: Layout, troubled_repository: Repository
) -> None:
    upload_id = begun(troubled_repository)
    layout.put(*state_of(upload_id, SMALL, algorithm="sha512"))
    troubled_repository.uploads.resume(upload_id).write_at(3, b"!")
    assert states(driver, upload_id, "sha512") == set()


def test_states_of_what_does_not_change_stay(
    driver: StorageDriver, layout: Layout, troubled_repository: Repository
) -> None:
    upload_id = begun(troubled_repository)
    layout.put(*state_of(upload_id, SMALL[:3]))
    troubled_repository.uploads.resume(upload_id).write_at(3, b"!")
    assert states(driver, upload_id) == {"3"}


def test_append_only_storage_refuses_a_rewrite(append_only: Repository) -> None:
    writer = append_only.uploads.create()
    writer.write(LARGE)
    with pytest.raises(AppendOnly):
        writer.write_at(0, b"!")


@pytest.mark.parametrize("change", ["rewrite", "truncate"])
def test_refused_change_takes_nothing_from_the_upload(append_only: Repository, change: str) -> None:
    writer = append_only.uploads.create(digest=Digest.of(LARGE + b"end"))
    writer.write(LARGE)
    with pytest.raises(AppendOnly):
        writer.write_at(0, b"!") if change == "rewrite" else writer.truncate(5)
    writer.write(b"end")
    assert writer.matches()
    assert writer.commit().digest == Digest.of(LARGE + b"end")


def test_refused_change_leaves_the_saved_states(
    driver: StorageDriver, append_only: Repository
) -> None:
    writer = append_only.uploads.create()
    writer.write(LARGE)
    writer.suspend()
    with pytest.raises(AppendOnly):
        writer.write_at(0, b"!")
    assert states(driver, writer.id) == {str(len(LARGE))}


def test_append_only_storage_can_fill_a_gap(append_only: Repository) -> None:
    writer = append_only.uploads.create()
    writer.write(LARGE)
    writer.write_at(len(LARGE) + 2**20 + 5, b"end")
    assert writer.commit().digest == Digest.of(LARGE + bytes(2**20 + 5) + b"end")


def test_append_only_storage_can_start_again(append_only: Repository) -> None:
    writer = append_only.uploads.create()
    writer.write(LARGE)
    writer.truncate(0)
    writer.write(b"anew")
    assert writer.commit().digest == Digest.of(b"anew")


def test_gap_that_fails_half_way_can_be_gone_on_with(driver: StorageDriver) -> None:
    troubled = TroubledDriver(driver, append_only=True)
    writer = Repository(troubled, BlobStore(troubled), APP).uploads.create()
    writer.write(LARGE)
    troubled.fail_at = len(troubled.calls) + 2
    end = len(LARGE) + 2 * 2**20
    with pytest.raises(StorageUnavailable):
        writer.write_at(end, b"end")
    assert writer.size == len(LARGE) + 2**20
    writer.write_at(end, b"end")
    assert writer.commit().digest == Digest.of(LARGE + bytes(2 * 2**20) + b"end")

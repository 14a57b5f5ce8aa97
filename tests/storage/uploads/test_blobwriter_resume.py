"""An upload that is left and taken up again, by anybody, from what the storage has of it."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from blobfs import paths
from blobfs.digest import Digest, Digester
from blobfs.drivers.base import StorageDriver
from blobfs.errors import Busy, ContentMismatch, ReadOnly, Stale, UploadUnknown
from blobfs.reference import RepositoryName
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.repository import Repository
from blobfs.storage.uploads.blobwriter import BlobWriter
from blobfs.storage.uploads.metadata import UploadRecord
from tests.support.failing_driver import Call, TroubledDriver
from tests.support.files import content_of
from tests.support.layout import APP, Layout
from tests.support.uploads import (
    LARGE,
    SMALL,
    begun,
    blob_content,
    broken_links,
    files_below,
    states,
)

READS = {"open", "read_at", "writer.read_at"}
WHOLE = SMALL + b" and more"


def state_of(upload_id: str, content: bytes, *, algorithm: str = "sha256") -> tuple[str, bytes]:
    """The path of a hash state after *content*, and what it holds."""
    digester = Digester(algorithm)
    digester.update(content)
    path = paths.upload_hashstate(APP, upload_id, algorithm, len(content))
    return path, digester.state()


@pytest.fixture
def another(driver: StorageDriver) -> Repository:
    """The same repository, as another process sees it."""
    return Repository(driver, BlobStore(driver), APP)


def test_resumed_upload_is_as_it_was_declared(
    troubled_repository: Repository, another: Repository
) -> None:
    digest = Digest.of(WHOLE)
    with troubled_repository.uploads.create(
        name="layer.tar", digest=digest, size=len(WHOLE)
    ) as writer:
        writer.write(SMALL)
    resumed = another.uploads.resume(writer.id)
    declared = UploadRecord("layer.tar", digest, len(WHOLE))
    assert replace(resumed.record, fingerprint="") == declared
    assert (resumed.id, resumed.started_at) == (
        writer.id,
        writer.started_at.replace(microsecond=0),
    )


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_resumed_upload_is_committed_without_reading_it(
    troubled: TroubledDriver, troubled_repository: Repository, algorithm: str
) -> None:
    digest = Digest.of(WHOLE, algorithm)
    upload_id = begun(troubled_repository, digest=digest)
    troubled.calls.clear()
    writer = troubled_repository.uploads.resume(upload_id)
    writer.write(b" and more")
    assert writer.matches()
    writer.commit()
    assert not READS & set(troubled.methods("/data"))


def test_suspended_upload_goes_on_in_the_same_writer(
    troubled: TroubledDriver, troubled_repository: Repository
) -> None:
    writer = troubled_repository.uploads.create()
    writer.write(SMALL)
    writer.suspend()
    writer.write(b" and more")
    assert writer.commit().digest == Digest.of(WHOLE)
    assert not READS & set(troubled.methods("/data"))


def test_second_suspension_without_a_write_asks_nothing_of_the_storage(
    troubled: TroubledDriver, troubled_repository: Repository
) -> None:
    writer = troubled_repository.uploads.create()
    writer.write(SMALL)
    writer.suspend()
    troubled.calls.clear()
    writer.suspend()
    assert troubled.calls == []


READING = {"stat", "listdir", "read_at", "append", "writer.close"}


def test_looking_at_a_resumed_upload_writes_nothing(
    troubled: TroubledDriver, troubled_repository: Repository
) -> None:
    upload_id = begun(troubled_repository)
    troubled.calls.clear()
    troubled_repository.uploads.resume(upload_id).close()
    assert {call.method for call in troubled.calls} <= READING


def test_suspension_saves_a_state_that_digests_on(
    driver: StorageDriver, troubled_repository: Repository
) -> None:
    path, state = state_of(begun(troubled_repository), SMALL)
    assert content_of(driver, path) == state


def test_suspension_saves_the_state_after_the_bytes_are_durable(
    troubled: TroubledDriver, troubled_repository: Repository
) -> None:
    upload_id = begun(troubled_repository)
    saved = Call("put_content", state_of(upload_id, SMALL)[0])
    durable = Call("writer.flush", paths.upload_data(APP, upload_id))
    assert troubled.calls.index(durable) < troubled.calls.index(saved)


def test_only_the_latest_state_is_kept(
    driver: StorageDriver, troubled_repository: Repository
) -> None:
    writer = troubled_repository.uploads.create(digest=Digest.of(WHOLE, "sha512"))
    for size in (0, 5, 9):
        writer.write(bytes(size - writer.size))
        writer.suspend()
    assert states(driver, writer.id, "sha256") == {"9"}
    assert states(driver, writer.id, "sha512") == {"9"}


def _no_state(layout: Layout, path: str) -> None:
    layout.driver.delete(path)


def _empty_state(layout: Layout, path: str) -> None:
    layout.put(path, b"")


def _truncated_state(layout: Layout, path: str) -> None:
    layout.put(path, content_of(layout.driver, path)[:-1])


def _random_state(layout: Layout, path: str) -> None:
    layout.put(path, bytes(108))


def _state_of_another_algorithm(layout: Layout, path: str) -> None:
    layout.put(path, Digester("sha512").state())


def _state_of_another_offset(layout: Layout, path: str) -> None:
    layout.put(path, state_of("any", SMALL[:5])[1])


def _directory(layout: Layout, path: str) -> None:
    layout.driver.delete(path)
    layout.put(f"{path}/below", b"")


@pytest.mark.parametrize(
    "spoil",
    [
        _no_state,
        _empty_state,
        _truncated_state,
        _random_state,
        _state_of_another_algorithm,
        _state_of_another_offset,
        _directory,
    ],
)
def test_upload_whose_state_is_no_use_is_read_again(
    layout: Layout, troubled_repository: Repository, spoil: Callable[[Layout, str], None]
) -> None:
    upload_id = begun(troubled_repository, digest=Digest.of(WHOLE))
    spoil(layout, state_of(upload_id, SMALL)[0])
    writer = troubled_repository.uploads.resume(upload_id)
    writer.write(b" and more")
    assert not writer.matches()
    assert writer.commit().digest == Digest.of(WHOLE)


def test_only_what_came_after_the_latest_state_is_read_again(
    layout: Layout, troubled: TroubledDriver, troubled_repository: Repository
) -> None:
    content = LARGE * 3
    upload_id = begun(troubled_repository, content)
    layout.driver.delete(state_of(upload_id, content)[0])
    layout.put(*state_of(upload_id, content[: 2 * 2**20]))
    writer = troubled_repository.uploads.resume(upload_id)
    troubled.calls.clear()
    assert writer.commit().digest == Digest.of(content)
    assert troubled.methods("/data").count("writer.read_at") == 2  # of 1 MiB; 4 would be all


@pytest.mark.parametrize("name", ["x", "-1", "01", "1.5", "9" * 100, ".hidden"])
def test_stray_file_among_the_states_does_no_harm(
    layout: Layout, troubled_repository: Repository, name: str
) -> None:
    upload_id = begun(troubled_repository)
    layout.put(f"{paths.upload_hashstates(APP, upload_id, 'sha256')}/{name}", b"stray")
    assert troubled_repository.uploads.resume(upload_id).commit().digest == Digest.of(SMALL)


def test_state_of_bytes_that_a_crash_took_is_never_trusted(
    layout: Layout, troubled_repository: Repository
) -> None:
    upload_id = begun(troubled_repository)
    layout.put(*state_of(upload_id, SMALL + b"lost"))
    layout.driver.delete(state_of(upload_id, SMALL)[0])  # so that none is saved meanwhile
    with troubled_repository.uploads.resume(upload_id) as writer:
        writer.write(b" and more")
    resumed = troubled_repository.uploads.resume(upload_id)
    assert resumed.commit().digest == Digest.of(WHOLE)


def test_data_cut_short_by_a_crash_are_gone_on_with(
    layout: Layout, troubled_repository: Repository
) -> None:
    upload_id = begun(troubled_repository, digest=Digest.of(WHOLE))
    layout.put(paths.upload_data(APP, upload_id), SMALL[:5])
    writer = troubled_repository.uploads.resume(upload_id)
    assert writer.size == 5
    writer.write(WHOLE[5:])
    assert writer.commit().digest == Digest.of(WHOLE)


def test_upload_that_never_got_a_byte_can_be_resumed(
    layout: Layout, troubled_repository: Repository
) -> None:
    layout.put(paths.upload_startedat(APP, "begun"), b"2024-02-29T12:00:00Z")
    with troubled_repository.uploads.resume("begun") as writer:
        assert writer.size == 0
        writer.write(SMALL)
        assert writer.commit().digest == Digest.of(SMALL)


@pytest.mark.parametrize("upload_id", ["nowhere", "0b9eac3a-6a0e-4f4b-8b6d-000000000000"])
def test_unknown_upload_cannot_be_resumed(troubled_repository: Repository, upload_id: str) -> None:
    begun(troubled_repository)
    with pytest.raises(UploadUnknown, match=upload_id):
        troubled_repository.uploads.resume(upload_id)


def test_upload_of_another_repository_cannot_be_resumed(
    driver: StorageDriver, troubled_repository: Repository
) -> None:
    other = Repository(driver, BlobStore(driver), RepositoryName("other"))
    with pytest.raises(UploadUnknown):
        other.uploads.resume(begun(troubled_repository))


@pytest.fixture
def complete(layout: Layout, troubled_repository: Repository) -> BlobWriter:
    """An upload whose data a crash left in the blob store, without a link."""
    upload_id = begun(troubled_repository)
    layout.put(
        paths.upload_record(APP, upload_id), UploadRecord(moved_to=Digest.of(SMALL)).to_json()
    )
    layout.driver.move(paths.upload_data(APP, upload_id), paths.blob_data(Digest.of(SMALL)))
    return troubled_repository.uploads.resume(upload_id)


def test_complete_upload_only_has_to_be_linked(
    driver: StorageDriver, troubled_repository: Repository, complete: BlobWriter
) -> None:
    assert complete.size == len(SMALL)
    assert complete.commit().digest == Digest.of(SMALL)
    assert troubled_repository.layers.get(Digest.of(SMALL)) == SMALL
    assert files_below(driver, paths.uploads(APP)) == set()


def test_complete_upload_can_be_read(complete: BlobWriter) -> None:
    assert complete.read_at(0, 100) == SMALL


def test_complete_upload_takes_no_more(complete: BlobWriter) -> None:
    with pytest.raises(ReadOnly):
        complete.write(b"more")
    with pytest.raises(ReadOnly):
        complete.truncate(1)


def test_complete_upload_can_be_started_again(driver: StorageDriver, complete: BlobWriter) -> None:
    complete.truncate(0)
    complete.write(SMALL)
    complete.commit()
    assert blob_content(driver, Digest.of(SMALL)) == SMALL
    assert files_below(driver, paths.uploads(APP)) == set()


def test_complete_upload_can_be_cancelled_and_the_blob_stays(
    driver: StorageDriver, complete: BlobWriter
) -> None:
    complete.cancel()
    assert files_below(driver, paths.uploads(APP)) == set()
    assert blob_content(driver, Digest.of(SMALL)) == SMALL


def test_complete_upload_can_be_committed_under_an_alias(
    troubled_repository: Repository, complete: BlobWriter
) -> None:
    complete.commit(Digest.of(SMALL, "sha512"))
    assert troubled_repository.layers.get(Digest.of(SMALL, "sha512")) == SMALL


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("how", ["given", "declared"])
def test_complete_upload_is_not_linked_under_a_digest_it_does_not_have(
    driver: StorageDriver, complete: BlobWriter, algorithm: str, how: str
) -> None:
    other = Digest.of(b"other", algorithm)
    if how == "declared":
        complete.declare(UploadRecord(digest=other))
        assert not complete.matches()
    with pytest.raises(ContentMismatch):
        complete.commit(other if how == "given" else None)
    assert files_below(driver, paths.layers(APP)) == set()
    assert broken_links(driver) == []


def test_complete_upload_that_is_renamed_stays_complete(
    another: Repository, complete: BlobWriter
) -> None:
    complete.declare(UploadRecord("renamed"))
    complete.close()
    resumed = another.uploads.resume(complete.id)
    assert (resumed.record.name, resumed.size) == ("renamed", len(SMALL))


def test_complete_upload_whose_blob_was_torn_has_received_nothing(
    layout: Layout, troubled_repository: Repository, complete: BlobWriter
) -> None:
    layout.put(paths.blob_data(Digest.of(SMALL)), b"")
    writer = troubled_repository.uploads.resume(complete.id)
    assert writer.size == troubled_repository.uploads.stat(complete.id).size == 0
    writer.write(SMALL)
    writer.commit()
    assert troubled_repository.layers.get(Digest.of(SMALL)) == SMALL


def test_upload_whose_data_were_removed_is_not_begun_anew(
    driver: StorageDriver, layout: Layout, troubled_repository: Repository
) -> None:
    writer = troubled_repository.uploads.resume(begun(troubled_repository))
    layout.driver.delete(paths.upload_data(APP, writer.id))
    with pytest.raises(Stale):
        writer.write(b" and more")
    assert files_below(driver, paths.BLOBS) == set()


def test_upload_that_another_writer_went_on_with_is_not_written(
    layout: Layout, troubled_repository: Repository, another: Repository
) -> None:
    writer = troubled_repository.uploads.resume(begun(troubled_repository))
    layout.put(paths.upload_data(APP, writer.id), WHOLE)
    with pytest.raises((Busy, Stale)):
        writer.write(b" and other")
    assert another.uploads.resume(writer.id).commit().digest == Digest.of(WHOLE)


@pytest.mark.parametrize("driver", ["filesystem"], indirect=True)
def test_upload_that_another_writer_added_to_is_not_published(
    driver: StorageDriver, layout: Layout, troubled_repository: Repository
) -> None:
    writer = troubled_repository.uploads.resume(begun(troubled_repository))
    writer.write(b" and more")
    with layout.driver.append(paths.upload_data(APP, writer.id)) as other:
        other.rewrite(0, bytes(100))
    with pytest.raises((ContentMismatch, Busy)):
        writer.commit()
    assert files_below(driver, paths.BLOBS) == set()

"""Which uploads a repository has, and what can be told of each without writing to it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.errors import UploadUnknown
from blobfs.reference import RepositoryName
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.repository import Repository
from blobfs.storage.uploads.metadata import UploadRecord
from blobfs.storage.uploads.store import UploadStore
from tests.support.layout import APP, Layout
from tests.support.uploads import LARGE, SMALL, UPLOADS, begun


@pytest.fixture
def uploads(repository: Repository) -> UploadStore:
    return repository.uploads


def test_repository_has_no_uploads_at_first(uploads: UploadStore) -> None:
    assert list(uploads.enumerate()) == []


def test_every_stored_upload_is_enumerated(repository: Repository, uploads: UploadStore) -> None:
    ids = {begun(repository, content) for content in (b"", SMALL, LARGE)}
    found = list(uploads.enumerate())
    assert set(found) == ids
    assert len(found) == len(ids)


def test_upload_in_memory_is_not_enumerated(uploads: UploadStore) -> None:
    uploads.create().write(SMALL)
    assert list(uploads.enumerate()) == []


def test_uploads_of_another_repository_are_not_enumerated(
    driver: StorageDriver, repository: Repository
) -> None:
    begun(repository)
    other = Repository(driver, BlobStore(driver), RepositoryName("other"))
    assert list(other.uploads.enumerate()) == []


@pytest.mark.parametrize("end", ["commit", "cancel"])
def test_upload_that_is_over_is_not_enumerated(
    repository: Repository, uploads: UploadStore, end: str
) -> None:
    writer = uploads.resume(begun(repository))
    getattr(writer, end)()
    assert list(uploads.enumerate()) == []


def test_stray_file_is_no_upload(
    layout: Layout, repository: Repository, uploads: UploadStore
) -> None:
    upload_id = begun(repository)
    layout.put(f"{UPLOADS}/README")
    assert list(uploads.enumerate()) == [upload_id]


def test_emptied_directory_of_an_upload_turns_out_to_be_unknown(
    layout: Layout, uploads: UploadStore
) -> None:
    layout.put(f"{UPLOADS}/gone/data")
    layout.driver.delete(f"{UPLOADS}/gone/data")
    assert list(uploads.enumerate()) == ["gone"]
    with pytest.raises(UploadUnknown):
        uploads.stat("gone")


def test_two_uploads_have_two_names(uploads: UploadStore) -> None:
    assert len({uploads.create().id for _ in range(100)}) == 100


def test_stat_tells_what_was_received(
    driver: StorageDriver, repository: Repository, uploads: UploadStore
) -> None:
    upload_id = begun(repository)
    info = driver.stat(paths.upload_data(APP, upload_id))
    assert uploads.stat(upload_id).size == len(SMALL)
    assert uploads.stat(upload_id).mtime_ns == info.mtime_ns


def test_stat_of_an_upload_without_a_byte_tells_when_it_began(
    layout: Layout, uploads: UploadStore
) -> None:
    layout.put(paths.upload_startedat(APP, "begun"), b"2024-02-29T12:00:00Z")
    info = uploads.stat("begun")
    assert (info.size, info.mtime_ns) == (0, 1_709_208_000 * 10**9)


def test_stat_of_a_complete_upload_tells_the_size_of_its_blob(
    layout: Layout, uploads: UploadStore
) -> None:
    layout.put(paths.upload_startedat(APP, "begun"), b"2024-02-29T12:00:00Z")
    record = UploadRecord(moved_to=layout.blob(SMALL))
    layout.put(paths.upload_record(APP, "begun"), record.to_json())
    assert uploads.stat("begun").size == len(SMALL)


def test_unknown_upload_is_named(uploads: UploadStore) -> None:
    for act in (uploads.stat, uploads.started_at, uploads.resume, uploads.open):
        with pytest.raises(UploadUnknown, match="nowhere"):
            act("nowhere")


def test_upload_begins_when_it_was_created(repository: Repository, uploads: UploadStore) -> None:
    began = uploads.started_at(begun(repository))
    assert abs(datetime.now(UTC) - began) < timedelta(minutes=1)


def test_record_of_an_upload_is_what_was_declared(uploads: UploadStore) -> None:
    record = UploadRecord("layer.tar", Digest.of(SMALL), len(SMALL))
    with uploads.create(name="layer.tar", digest=record.digest, size=record.size) as writer:
        writer.write(SMALL)
    assert replace(uploads.record(writer.id), fingerprint="") == record


def test_record_of_a_registry_s_upload_is_empty(layout: Layout, uploads: UploadStore) -> None:
    layout.put(paths.upload_startedat(APP, "begun"), b"2024-02-29T12:00:00Z")
    assert uploads.record("begun") == UploadRecord()


def test_upload_can_be_read_without_being_resumed(
    repository: Repository, uploads: UploadStore
) -> None:
    with uploads.open(begun(repository)) as reader:
        assert reader.read_at(0, 100) == SMALL

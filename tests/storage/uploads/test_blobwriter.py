"""A blob on its way in: where it is kept, what it is held to, and what its commit leaves."""

import gc
import uuid
import weakref
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from blobfs import paths
from blobfs.digest import ALGORITHMS, Digest
from blobfs.drivers.base import StorageDriver
from blobfs.errors import BlobUnknown, ContentMismatch, WriterClosed
from blobfs.reference import RepositoryName
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.linkfiles import read_link
from blobfs.storage.repository import Repository
from blobfs.storage.uploads.blobwriter import BlobWriter
from blobfs.storage.uploads.buffer import IN_MEMORY
from blobfs.storage.uploads.metadata import UploadRecord
from tests.support.failing_driver import TroubledDriver
from tests.support.files import content_of
from tests.support.layout import APP, EMPTY
from tests.support.uploads import (
    LARGE,
    SMALL,
    UPLOADS,
    begun,
    blob_content,
    broken_links,
    files_below,
)

LAYERS = paths.layers(APP)

each_size = pytest.mark.parametrize("content", [SMALL, LARGE], ids=["in memory", "in storage"])


@pytest.fixture
def writer(troubled_repository: Repository) -> BlobWriter:
    return troubled_repository.uploads.create()


def test_small_blob_costs_the_storage_no_upload(
    troubled: TroubledDriver, writer: BlobWriter
) -> None:
    writer.write(SMALL)
    writer.commit()
    assert [call for call in troubled.calls if "_uploads" in call.path] == []


@each_size
def test_writer_goes_with_the_last_reference_to_it(
    troubled_repository: Repository, content: bytes
) -> None:
    """No garbage collection is needed: a mount runs no full one."""
    gc.disable()
    try:
        writer = troubled_repository.uploads.create()
        writer.write(content)
        writer.close()
        gone = weakref.ref(writer)
        del writer
        assert gone() is None
    finally:
        gc.enable()


def test_content_stays_in_memory_up_to_the_bound(driver: StorageDriver, writer: BlobWriter) -> None:
    writer.write(bytes(IN_MEMORY - 1))
    writer.write(b"1")
    assert not writer.is_stored
    assert files_below(driver, UPLOADS) == set()


def test_upload_shows_in_the_storage_beyond_the_bound(
    driver: StorageDriver, writer: BlobWriter
) -> None:
    writer.write(bytes(IN_MEMORY))
    writer.write(b"1")
    assert writer.is_stored
    assert files_below(driver, UPLOADS) == {f"{writer.id}/data", f"{writer.id}/startedat"}


def test_closed_small_upload_shows_in_the_storage(
    driver: StorageDriver, writer: BlobWriter
) -> None:
    writer.write(SMALL)
    writer.close()
    assert content_of(driver, paths.upload_data(APP, writer.id)) == SMALL


@each_size
def test_undeclared_blob_gets_the_digest_that_it_has(
    driver: StorageDriver, writer: BlobWriter, content: bytes
) -> None:
    writer.write(content)
    descriptor = writer.commit()
    assert (descriptor.digest, descriptor.size) == (Digest.of(content), len(content))
    assert blob_content(driver, descriptor.digest) == content


@each_size
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_declared_blob_is_linked_under_its_digest(
    troubled_repository: Repository, content: bytes, algorithm: str
) -> None:
    digest = Digest.of(content, algorithm)
    with troubled_repository.uploads.create(digest=digest, size=len(content)) as writer:
        writer.write(content)
        writer.commit()
    assert troubled_repository.layers.resolve(digest) == Digest.of(content)


@each_size
def test_blob_declared_as_sha512_has_two_links_that_hold_the_canonical_digest(
    driver: StorageDriver, troubled_repository: Repository, content: bytes
) -> None:
    alias, canonical = Digest.of(content, "sha512"), Digest.of(content)
    with troubled_repository.uploads.create(digest=alias) as writer:
        writer.write(content)
        assert writer.commit().digest == canonical
    links = {paths.link(LAYERS, digest) for digest in (alias, canonical)}
    assert {f"{LAYERS}/{path}" for path in files_below(driver, LAYERS)} == links
    assert {read_link(driver, link) for link in links} == {canonical}


def test_committed_blob_is_linked_in_its_repository_alone(
    driver: StorageDriver, writer: BlobWriter
) -> None:
    writer.write(SMALL)
    digest = writer.commit().digest
    other = Repository(driver, BlobStore(driver), RepositoryName("other"))
    with pytest.raises(BlobUnknown):
        other.layers.stat(digest)


def test_large_blob_is_moved_into_place_and_not_copied(
    troubled: TroubledDriver, writer: BlobWriter
) -> None:
    writer.write(LARGE)
    writer.commit()
    assert "writer.move_to" in troubled.methods("/data")
    assert not {"open", "read_at", "writer.read_at"} & set(troubled.methods("/data"))


def _declared_another_digest(repository: Repository) -> BlobWriter:
    return repository.uploads.create(digest=Digest.of(b"something else"))


def _declared_another_sha512(repository: Repository) -> BlobWriter:
    return repository.uploads.create(digest=Digest.of(b"something else", "sha512"))


def _declared_another_size(repository: Repository) -> BlobWriter:
    return repository.uploads.create(size=5)


each_wrong_declaration = pytest.mark.parametrize(
    "begin",
    [_declared_another_digest, _declared_another_sha512, _declared_another_size],
    ids=["digest", "sha512 digest", "size"],
)


@each_size
@each_wrong_declaration
def test_mismatch_publishes_nothing(
    driver: StorageDriver,
    troubled_repository: Repository,
    content: bytes,
    begin: Callable[[Repository], BlobWriter],
) -> None:
    with begin(troubled_repository) as writer:
        writer.write(content)
        with pytest.raises(ContentMismatch):
            writer.commit()
    assert files_below(driver, paths.BLOBS) == set()
    assert files_below(driver, LAYERS) == set()


@each_size
@each_wrong_declaration
def test_upload_with_a_mismatch_can_be_completed(
    driver: StorageDriver,
    troubled_repository: Repository,
    content: bytes,
    begin: Callable[[Repository], BlobWriter],
) -> None:
    whole = content + b"the end"
    with begin(troubled_repository) as writer:
        writer.write(content)
        with pytest.raises(ContentMismatch):
            writer.commit()
        writer.write(b"the end")
        writer.declare(UploadRecord(digest=Digest.of(whole), size=len(whole)))
        writer.commit()
    assert blob_content(driver, Digest.of(whole)) == whole


def test_mismatch_names_the_upload(troubled_repository: Repository) -> None:
    with troubled_repository.uploads.create(name="layer.tar", digest=EMPTY) as writer:
        writer.write(SMALL)
        with pytest.raises(ContentMismatch, match=f"{APP}.*layer.tar.*{EMPTY}"):
            writer.commit()


def test_empty_blob_can_be_committed(driver: StorageDriver, writer: BlobWriter) -> None:
    assert writer.commit().digest == EMPTY
    assert blob_content(driver, EMPTY) == b""


def test_empty_upload_that_was_left_can_be_committed(
    driver: StorageDriver, troubled_repository: Repository
) -> None:
    troubled_repository.uploads.resume(begun(troubled_repository, b"")).commit(EMPTY)
    assert blob_content(driver, EMPTY) == b""
    assert files_below(driver, UPLOADS) == set()


@each_size
def test_blob_that_is_there_is_kept(
    driver: StorageDriver, troubled: TroubledDriver, writer: BlobWriter, content: bytes
) -> None:
    digest = Digest.of(content)
    driver.put_content(paths.blob_data(digest), content)
    before = driver.stat(paths.blob_data(digest))
    writer.write(content)
    writer.commit()
    assert driver.stat(paths.blob_data(digest)) == before
    assert "move" not in troubled.methods("/data")
    assert files_below(driver, UPLOADS) == set()


@each_size
@pytest.mark.parametrize("torn", [b"", b"torn"], ids=["empty", "short"])
def test_blob_of_another_size_is_replaced(
    driver: StorageDriver, writer: BlobWriter, content: bytes, torn: bytes
) -> None:
    driver.put_content(paths.blob_data(Digest.of(content)), torn)
    writer.write(content)
    writer.commit()
    assert blob_content(driver, Digest.of(content)) == content


def test_damaged_link_is_written_anew(driver: StorageDriver, writer: BlobWriter) -> None:
    driver.put_content(paths.link(LAYERS, Digest.of(SMALL)), b"")
    writer.write(SMALL)
    writer.commit()
    assert broken_links(driver) == []


@each_size
@pytest.mark.parametrize("end", ["commit", "cancel", "close"])
def test_nothing_but_close_can_be_done_after_the_end(
    writer: BlobWriter, content: bytes, end: str
) -> None:
    writer.write(content)
    getattr(writer, end)()
    acts: list[Callable[[], object]] = [
        writer.commit,
        writer.cancel,
        writer.suspend,
        lambda: writer.write(b"late"),
        lambda: writer.truncate(0),
        lambda: writer.read_at(0, 1),
        lambda: writer.declare(UploadRecord("late")),
    ]
    for act in acts:
        with pytest.raises(WriterClosed):
            act()
    writer.close()


def test_upload_is_called_by_a_uuid(writer: BlobWriter) -> None:
    assert str(uuid.UUID(writer.id)) == writer.id


def test_upload_begins_now(writer: BlobWriter) -> None:
    assert abs(datetime.now(UTC) - writer.started_at) < timedelta(minutes=1)


def test_matches_as_soon_as_the_declared_bytes_are_there(troubled_repository: Repository) -> None:
    writer = troubled_repository.uploads.create(digest=Digest.of(b"whole"))
    assert not writer.matches()
    writer.write(b"who")
    assert not writer.matches()
    writer.write(b"le")
    assert writer.matches()
    writer.write(b"!")
    assert not writer.matches()


def test_what_was_not_declared_never_matches(writer: BlobWriter) -> None:
    writer.write(SMALL)
    assert not writer.matches()


def test_bytes_of_another_size_than_declared_do_not_match(troubled_repository: Repository) -> None:
    writer = troubled_repository.uploads.create(digest=Digest.of(SMALL), size=1)
    writer.write(SMALL)
    assert not writer.matches()


def test_declaration_is_kept_with_a_stored_upload(
    troubled_repository: Repository, writer: BlobWriter
) -> None:
    writer.write(SMALL)
    writer.suspend()
    record = UploadRecord("layer.tar", Digest.of(SMALL), len(SMALL))
    writer.declare(record)
    assert replace(troubled_repository.uploads.record(writer.id), fingerprint="") == record


def test_declaration_is_kept_until_the_upload_is_stored(
    troubled_repository: Repository, writer: BlobWriter
) -> None:
    record = UploadRecord("layer.tar", Digest.of(SMALL, "sha512"), len(SMALL))
    writer.declare(record)
    writer.write(SMALL)
    writer.close()
    assert replace(troubled_repository.uploads.record(writer.id), fingerprint="") == record


def test_digest_may_be_declared_after_the_bytes(writer: BlobWriter) -> None:
    writer.write(LARGE)
    writer.declare(UploadRecord(digest=Digest.of(LARGE, "sha512")))
    assert writer.commit().digest == Digest.of(LARGE)

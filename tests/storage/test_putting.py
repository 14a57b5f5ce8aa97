"""What is put into the blob store and into link sets, and what it leaves when it fails."""

from collections.abc import Callable
from contextlib import closing, suppress
from itertools import count
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.drivers.wrapper import DriverWrapper
from blobfs.errors import (
    BlobDamaged,
    BlobUnknown,
    DigestMismatch,
    LinkDangling,
    LinkInvalid,
    StorageUnavailable,
)
from blobfs.reference import RepositoryName
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.linkedblobstore import LinkedBlobStore
from blobfs.storage.linkfiles import read_link
from tests.support.failing_driver import TroubledDriver
from tests.support.files import content_of
from tests.support.layout import APP, EMPTY, Layout
from tests.support.uploads import broken_links, files_below

CONTENT = b"what the blob holds"
DIGEST = Digest.of(CONTENT)
ALIAS = Digest.of(CONTENT, "sha512")
DATA = paths.blob_data(DIGEST)
LAYERS = paths.layers(APP)
LINK = paths.link(LAYERS, DIGEST)


@pytest.fixture
def blobs(troubled: TroubledDriver) -> BlobStore:
    return BlobStore(troubled)


@pytest.fixture
def links(troubled: TroubledDriver, blobs: BlobStore) -> LinkedBlobStore:
    return LinkedBlobStore(troubled, blobs, LAYERS)


@pytest.fixture
def source(driver: StorageDriver) -> LinkedBlobStore:
    return LinkedBlobStore(driver, BlobStore(driver), paths.layers(RepositoryName("other")))


@pytest.mark.parametrize("content", [b"", CONTENT], ids=["empty", "some"])
def test_put_blob_is_stored_under_its_digest(blobs: BlobStore, content: bytes) -> None:
    descriptor = blobs.put(content)
    assert (descriptor.digest, descriptor.size) == (Digest.of(content), len(content))
    assert blobs.get(Digest.of(content)) == content


def test_blob_that_is_there_is_not_written_again(
    layout: Layout, troubled: TroubledDriver, blobs: BlobStore
) -> None:
    layout.blob(CONTENT)
    blobs.put(CONTENT)
    assert "put_content" not in troubled.methods(DATA)


@pytest.mark.parametrize("torn", [b"", CONTENT[:-1], CONTENT * 2], ids=["empty", "short", "long"])
def test_blob_of_another_size_is_written_anew(
    layout: Layout, blobs: BlobStore, torn: bytes
) -> None:
    layout.put(DATA, torn)
    blobs.put(CONTENT)
    assert blobs.get(DIGEST) == CONTENT


def test_blob_put_under_a_known_digest_is_not_hashed(blobs: BlobStore) -> None:
    blobs.put_as(ALIAS, CONTENT)
    assert blobs.get(ALIAS) == CONTENT


@pytest.mark.parametrize(
    ("stored", "whole"),
    [(CONTENT, True), (CONTENT[:-1], False), (b"", False), (None, False)],
    ids=["of that size", "shorter", "empty", "missing"],
)
def test_blob_is_whole_if_it_has_its_size(
    layout: Layout, blobs: BlobStore, stored: bytes | None, whole: bool
) -> None:
    if stored is not None:
        layout.put(DATA, stored)
    assert blobs.ensure_durable(DIGEST, len(CONTENT)) == whole


class CollectedDriver(DriverWrapper):
    """Removes a file before it is synced, as a collection may."""

    def sync(self, path: str) -> None:
        self.delete(path)
        super().sync(path)


def test_blob_that_is_collected_before_it_is_durable_is_stored_again(tmp_path: Path) -> None:
    with closing(CollectedDriver(FilesystemDriver.below(tmp_path))) as driver:
        blobs = BlobStore(driver)
        blobs.put(CONTENT)
        assert not blobs.ensure_durable(DIGEST, len(CONTENT))


def test_empty_blob_is_whole(layout: Layout, blobs: BlobStore) -> None:
    assert not blobs.ensure_durable(EMPTY, 0)
    layout.blob(b"")
    assert blobs.ensure_durable(EMPTY, 0)


def test_directory_in_place_of_the_bytes_is_not_whole(layout: Layout, blobs: BlobStore) -> None:
    layout.put(f"{paths.blob_data(EMPTY)}/below")
    assert not blobs.ensure_durable(EMPTY, 0)


def test_copy_replaces_a_torn_blob(layout: Layout, blobs: BlobStore) -> None:
    layout.put(DATA, b"torn")
    blobs.copy(DIGEST, [CONTENT[:3], CONTENT[3:]])
    assert blobs.get(DIGEST) == CONTENT


def test_copy_of_other_bytes_leaves_nothing(driver: StorageDriver, blobs: BlobStore) -> None:
    with pytest.raises(DigestMismatch):
        blobs.copy(DIGEST, [CONTENT, b"!"])
    assert driver.stat_many([DATA]) == [None]


def test_link_is_exactly_the_digest(driver: StorageDriver, links: LinkedBlobStore) -> None:
    links.link(DIGEST, DIGEST)
    assert content_of(driver, LINK) == str(DIGEST).encode()


def test_link_under_an_alias_holds_the_canonical_digest(
    driver: StorageDriver, layout: Layout, links: LinkedBlobStore
) -> None:
    layout.blob(CONTENT)
    links.link(ALIAS, DIGEST)
    assert content_of(driver, paths.link(LAYERS, ALIAS)) == str(DIGEST).encode()
    assert links.get(ALIAS) == CONTENT


def test_good_link_is_not_written_again(
    layout: Layout, troubled: TroubledDriver, links: LinkedBlobStore
) -> None:
    layout.layer(CONTENT)
    links.link(DIGEST, DIGEST)
    assert "put_content" not in troubled.methods("/link")


@pytest.mark.parametrize(
    "content",
    [b"", bytes(71), str(DIGEST).encode()[:-1], str(DIGEST).encode() + b"\n", str(EMPTY).encode()],
    ids=["empty", "zeros", "cut off", "newline-terminated", "another digest"],
)
def test_bad_link_is_written_anew(layout: Layout, links: LinkedBlobStore, content: bytes) -> None:
    layout.link(LAYERS, layout.blob(CONTENT), content)
    links.link(DIGEST, DIGEST)
    assert links.get(DIGEST) == CONTENT


def test_put_links_what_it_stores(links: LinkedBlobStore) -> None:
    assert links.put(CONTENT).digest == DIGEST
    assert links.get(DIGEST) == CONTENT


def test_failure_at_any_step_of_a_put_leaves_no_broken_link(driver: StorageDriver) -> None:
    for number in count(1):
        driver.put_content(f"{paths.ROOT}/any", b"")
        driver.delete(paths.ROOT)
        troubled = TroubledDriver(driver, fail_at=number, done=number % 2 == 0)
        links = LinkedBlobStore(troubled, BlobStore(troubled), LAYERS)
        with suppress(StorageUnavailable):
            links.put(CONTENT)
        assert broken_links(driver) == []
        if not troubled.failed:
            break
        links.put(CONTENT)
        assert links.get(DIGEST) == CONTENT


def test_mounted_blob_is_linked_and_not_copied(
    layout: Layout, troubled: TroubledDriver, links: LinkedBlobStore, source: LinkedBlobStore
) -> None:
    layout.layer(CONTENT, RepositoryName("other"))
    descriptor = links.mount(DIGEST, source)
    assert (descriptor.digest, descriptor.size) == (DIGEST, len(CONTENT))
    assert links.get(DIGEST) == CONTENT
    assert not {"put_content", "create", "move"} & set(troubled.methods(DATA))


def test_blob_mounted_by_an_alias_is_linked_by_both_digests(
    driver: StorageDriver, layout: Layout, links: LinkedBlobStore, source: LinkedBlobStore
) -> None:
    layout.layer(CONTENT, RepositoryName("other"))
    layout.link(source.link_set, ALIAS, str(DIGEST).encode())
    assert links.mount(ALIAS, source).digest == DIGEST
    for digest in (DIGEST, ALIAS):
        assert read_link(driver, paths.link(LAYERS, digest)) == DIGEST


def test_blob_is_mounted_from_the_global_store(
    layout: Layout, blobs: BlobStore, links: LinkedBlobStore
) -> None:
    links.mount(layout.blob(CONTENT), blobs)
    assert links.get(DIGEST) == CONTENT


def test_blob_that_the_source_may_not_read_is_not_mounted(
    driver: StorageDriver, layout: Layout, links: LinkedBlobStore, source: LinkedBlobStore
) -> None:
    layout.blob(CONTENT)
    with pytest.raises(BlobUnknown):
        links.mount(DIGEST, source)
    assert files_below(driver, LAYERS) == set()


def _damage_the_link(layout: Layout, link_set: str) -> None:
    layout.link(link_set, layout.blob(CONTENT), b"")


def _lose_the_blob(layout: Layout, link_set: str) -> None:
    layout.link(link_set, DIGEST)


def _empty_the_blob(layout: Layout, link_set: str) -> None:
    layout.link(link_set, DIGEST)
    layout.put(DATA)


@pytest.mark.parametrize(
    ("harm", "error"),
    [
        (_damage_the_link, LinkInvalid),
        (_lose_the_blob, LinkDangling),
        (_empty_the_blob, BlobDamaged),
    ],
)
def test_broken_blob_is_not_mounted(
    layout: Layout,
    links: LinkedBlobStore,
    source: LinkedBlobStore,
    harm: Callable[[Layout, str], None],
    error: type[Exception],
) -> None:
    harm(layout, source.link_set)
    with pytest.raises(error):
        links.mount(DIGEST, source)
    assert files_below(layout.driver, LAYERS) == set()


def test_mount_from_itself_changes_nothing(
    layout: Layout, troubled: TroubledDriver, links: LinkedBlobStore
) -> None:
    layout.layer(CONTENT)
    links.mount(DIGEST, links)
    assert "put_content" not in {call.method for call in troubled.calls}


def test_deleted_link_gives_no_access(layout: Layout, links: LinkedBlobStore) -> None:
    links.delete(layout.layer(CONTENT))
    with pytest.raises(BlobUnknown):
        links.stat(DIGEST)
    assert list(links.enumerate("sha256")) == []


def test_blob_outlives_its_link(
    layout: Layout, blobs: BlobStore, links: LinkedBlobStore, source: LinkedBlobStore
) -> None:
    layout.layer(CONTENT, RepositoryName("other"))
    links.delete(layout.layer(CONTENT))
    assert blobs.get(DIGEST) == CONTENT
    assert source.get(DIGEST) == CONTENT


def test_deleted_link_can_be_made_again(layout: Layout, links: LinkedBlobStore) -> None:
    links.delete(layout.layer(CONTENT))
    links.put(CONTENT)
    assert links.get(DIGEST) == CONTENT


def test_alias_can_be_deleted_alone(layout: Layout, links: LinkedBlobStore) -> None:
    layout.layer(CONTENT)
    links.link(ALIAS, DIGEST)
    links.delete(ALIAS)
    assert links.get(DIGEST) == CONTENT


def test_broken_link_can_be_deleted(layout: Layout, links: LinkedBlobStore) -> None:
    layout.link(LAYERS, DIGEST, b"")
    links.delete(DIGEST)
    with pytest.raises(BlobUnknown):
        links.resolve(DIGEST)


def test_missing_link_is_not_deleted(layout: Layout, links: LinkedBlobStore) -> None:
    layout.blob(CONTENT)
    with pytest.raises(BlobUnknown, match=DIGEST.encoded):
        links.delete(DIGEST)

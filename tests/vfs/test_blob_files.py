"""A blob as a file: the same one whichever way it is reached, and open only as it was found."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.cache.base import DescriptorCache
from blobfs.cache.memory import MemoryCache, NoCache
from blobfs.digest import OCTET_STREAM, Digest
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.errors import BlobDamaged, DigestMismatch, Stale
from blobfs.reference import RepositoryName
from blobfs.storage.manifest import OCI_MANIFEST
from blobfs.vfs.blobs import BlobFile
from blobfs.vfs.nodes import Attr, Directory, Kind, Lifetime
from blobfs.vfs.verification import Verify
from tests.support.layout import APP, Layout, image
from tests.support.walking import blob_file, content, tree_of

CONTENT = b"what the blob holds"
DIGEST = Digest.of(CONTENT)
DATA = paths.blob_data(DIGEST)
NAMES = [RepositoryName(name) for name in ("b", "a/b", "a")]
EVERYWHERE = [
    *(f"/{name}/_layers/sha256/{DIGEST.encoded}" for name in NAMES),
    *(f"/{name}/_manifests/revisions/sha256/{DIGEST.encoded}" for name in NAMES),
    f"/_blobs/sha256/{DIGEST.encoded[:2]}/{DIGEST.encoded}",
]


@pytest.fixture
def root(driver: StorageDriver) -> Directory:
    """One blob, which every repository has as a layer and as a manifest."""
    layout = Layout(driver)
    for name in NAMES:
        layout.layer(CONTENT, name)
        layout.revision(CONTENT, name)
    return tree_of(driver, expose_blobs=True).root()


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A directory that storage is in."""
    return tmp_path


@pytest.fixture
def local(stored: Path) -> Iterator[StorageDriver]:
    driver = BaseDriver(FilesystemDriver.below(stored))
    yield driver
    driver.close()


@pytest.mark.parametrize("path", EVERYWHERE)
def test_attributes_are_those_of_the_blob(
    root: Directory, driver: StorageDriver, path: str
) -> None:
    assert blob_file(root, path).attr() == Attr(
        Kind.FILE,
        size=len(CONTENT),
        mtime_ns=driver.stat(DATA).mtime_ns,
        nlink=2,
        lifetime=Lifetime.CONTENT,
    )


@pytest.mark.parametrize("path", EVERYWHERE)
def test_key_is_the_digest(root: Directory, path: str) -> None:
    assert blob_file(root, path).key == str(DIGEST)


@pytest.mark.parametrize("path", EVERYWHERE)
def test_bytes_are_those_of_the_blob(root: Directory, path: str) -> None:
    assert content(blob_file(root, path).open()) == CONTENT


@pytest.mark.parametrize("algorithm", ["sha384", "sha512"])
def test_alias_is_the_same_file(layout: Layout, root: Directory, algorithm: str) -> None:
    alias = Digest.of(CONTENT, algorithm)
    layout.link(paths.layers(APP), alias, str(DIGEST).encode())
    found = blob_file(root, f"/{APP}/_layers/{algorithm}/{alias.encoded}")
    assert found.key == str(DIGEST)
    assert found.attr() == blob_file(root, EVERYWHERE[0]).attr()
    assert content(found.open()) == CONTENT


def test_blob_stored_by_another_algorithm_is_another_file(layout: Layout, root: Directory) -> None:
    digest = layout.link(paths.layers(APP), layout.blob(CONTENT, "sha512"))
    assert blob_file(root, f"/{APP}/_layers/sha512/{digest.encoded}").key == str(digest)


def test_time_is_of_the_blob_and_not_of_the_link(local: StorageDriver, stored: Path) -> None:
    layout = Layout(local)
    layout.layer(CONTENT)
    os.utime(stored / DATA[1:], ns=(1, 1_234_567_890_123_456_789))
    found = blob_file(tree_of(local).root(), f"/{APP}/_layers/sha256/{DIGEST.encoded}")
    assert found.attr().mtime_ns == 1_234_567_890_123_456_789


def test_attributes_stay_without_the_storage(root: Directory, driver: StorageDriver) -> None:
    found = blob_file(root, EVERYWHERE[0])
    before = found.attr()
    driver.delete(paths.ROOT)
    assert found.attr() == before


def test_empty_blob_is_an_empty_file(layout: Layout, root: Directory) -> None:
    digest = layout.layer(b"")
    found = blob_file(root, f"/{APP}/_layers/sha256/{digest.encoded}")
    assert found.attr().size == 0
    assert content(found.open()) == b""


def xattr(file: BlobFile, name: str) -> str | None:
    compute = file.xattrs().get(f"user.blobfs.{name}")
    return None if compute is None else compute()


@pytest.mark.parametrize("path", EVERYWHERE)
def test_digest_is_an_attribute(root: Directory, path: str) -> None:
    assert xattr(blob_file(root, path), "digest") == str(DIGEST)


def test_repository_is_an_attribute_of_what_was_reached_through_one(root: Directory) -> None:
    assert xattr(blob_file(root, "/a/b/_layers/sha256/" + DIGEST.encoded), "repository") == "a/b"
    assert "user.blobfs.repository" not in blob_file(root, EVERYWHERE[-1]).xattrs()


def test_repositories_are_the_sorted_union_of_all_it_was_reached_through(root: Directory) -> None:
    found = blob_file(root, EVERYWHERE[0])
    for path in (*EVERYWHERE, *reversed(EVERYWHERE)):
        found = found.merged_with(blob_file(root, path))
    assert xattr(found, "repository") == "a,a/b,b"


def test_joining_takes_the_newer_attributes(root: Directory, driver: StorageDriver) -> None:
    older = blob_file(root, EVERYWHERE[0])
    driver.put_content(DATA, CONTENT)
    newer = blob_file(root, EVERYWHERE[1])
    assert older.attr() != newer.attr()
    assert older.merged_with(newer).attr() == newer.attr()


def test_joining_the_same_adds_nothing(root: Directory) -> None:
    found = blob_file(root, EVERYWHERE[0])
    assert found.merged_with(blob_file(root, EVERYWHERE[0])) == found


def test_media_type_is_what_the_repository_s_manifests_say(layout: Layout, root: Directory) -> None:
    manifest = layout.revision(image(DIGEST), NAMES[0])
    path = f"/{NAMES[0]}/_manifests/revisions/sha256/{manifest.encoded}"
    assert xattr(blob_file(root, EVERYWHERE[0]), "media_type") == "application/x-part"
    assert xattr(blob_file(root, path), "media_type") == OCI_MANIFEST


def test_media_type_is_octet_stream_where_no_manifest_says_more(root: Directory) -> None:
    for path in EVERYWHERE:
        assert xattr(blob_file(root, path), "media_type") == OCTET_STREAM


def test_media_type_is_what_any_repository_says_that_the_blob_was_reached_through(
    layout: Layout, root: Directory
) -> None:
    layout.revision(image(DIGEST), NAMES[-1])
    silent, telling = blob_file(root, EVERYWHERE[0]), blob_file(root, EVERYWHERE[2])
    assert xattr(silent, "media_type") == OCTET_STREAM
    assert xattr(silent.merged_with(telling), "media_type") == "application/x-part"
    assert xattr(telling.merged_with(silent), "media_type") == "application/x-part"


def test_vanished_blob_is_stale(root: Directory, driver: StorageDriver) -> None:
    found = blob_file(root, EVERYWHERE[0])
    driver.delete(DATA)
    with pytest.raises(Stale, match=DIGEST.encoded):
        found.open()


@pytest.mark.parametrize("size", [0, len(CONTENT) - 1, len(CONTENT) + 1])
def test_resized_blob_is_stale(root: Directory, driver: StorageDriver, size: int) -> None:
    found = blob_file(root, EVERYWHERE[0])
    driver.put_content(DATA, CONTENT.ljust(size, b"!")[:size])
    with pytest.raises(Stale, match=DIGEST.encoded):
        found.open()


def test_stale_blob_is_found_anew(root: Directory, driver: StorageDriver) -> None:
    damaged = CONTENT[:-1]
    driver.put_content(DATA, damaged)
    found = blob_file(root, EVERYWHERE[0])
    driver.put_content(DATA, CONTENT)
    with pytest.raises(Stale):
        found.open()
    assert content(blob_file(root, EVERYWHERE[0]).open()) == CONTENT


def test_open_needs_no_link(root: Directory, driver: StorageDriver) -> None:
    found = blob_file(root, EVERYWHERE[0])
    driver.delete(paths.repository(NAMES[0]))
    assert content(found.open()) == CONTENT


@pytest.mark.parametrize("verify", Verify)
def test_blob_that_is_cut_short_while_it_is_open_is_damaged(
    local: StorageDriver, stored: Path, verify: Verify
) -> None:
    Layout(local).layer(CONTENT)
    root = tree_of(local, verify=verify).root()
    with blob_file(root, f"/{APP}/_layers/sha256/{DIGEST.encoded}").open() as reader:
        os.truncate(stored / DATA[1:], 10)
        assert reader.read_at(0, 10) == CONTENT[:10]
        for offset, size in [(0, 100), (0, 11), (5, 6), (10, 1), (len(CONTENT) - 1, 1)]:
            with pytest.raises(BlobDamaged, match=DIGEST.encoded):
                reader.read_at(offset, size)
        assert reader.read_at(len(CONTENT), 100) == b""


@pytest.mark.parametrize("verify", Verify)
def test_blob_that_grows_while_it_is_open_keeps_its_size(
    local: StorageDriver, stored: Path, verify: Verify
) -> None:
    Layout(local).layer(CONTENT)
    root = tree_of(local, verify=verify).root()
    with blob_file(root, f"/{APP}/_layers/sha256/{DIGEST.encoded}").open() as reader:
        with (stored / DATA[1:]).open("ab") as file:
            file.write(b"more")
        assert reader.size == len(CONTENT)
        assert reader.read_at(0, 100) == CONTENT
        assert reader.read_at(len(CONTENT), 100) == b""


def test_blob_that_is_replaced_while_it_is_open_stays_as_it_was(local: StorageDriver) -> None:
    Layout(local).layer(CONTENT)
    root = tree_of(local).root()
    with blob_file(root, f"/{APP}/_layers/sha256/{DIGEST.encoded}").open() as reader:
        local.put_content(DATA, b"x")
        local.delete(paths.ROOT)
        assert reader.read_at(0, 100) == CONTENT


@pytest.mark.parametrize("verify", [Verify.FIRST, Verify.ALWAYS])
def test_wrong_bytes_are_told_through_every_repository(
    driver: StorageDriver, verify: Verify
) -> None:
    layout = Layout(driver)
    for name in NAMES:
        layout.layer(CONTENT, name)
    layout.put(DATA, CONTENT.upper())
    root = tree_of(driver, verify=verify).root()
    with pytest.raises(DigestMismatch):
        content(blob_file(root, EVERYWHERE[0]).open())
    for path in EVERYWHERE[:3]:
        with pytest.raises(DigestMismatch):
            blob_file(root, path).open()


@pytest.mark.parametrize("cache", [NoCache(), MemoryCache()])
def test_wrong_blob_that_was_stored_anew_is_read_at_the_next_look(
    local: StorageDriver, stored: Path, cache: DescriptorCache
) -> None:
    Layout(local).layer(CONTENT)
    data = stored / DATA[1:]
    data.write_bytes(CONTENT.upper())
    root = tree_of(local, verify=Verify.FIRST, cache=cache).root()
    path = f"/{APP}/_layers/sha256/{DIGEST.encoded}"
    with pytest.raises(DigestMismatch):
        content(blob_file(root, path).open())
    data.write_bytes(CONTENT)
    os.utime(data, ns=(1, 1))
    try:
        found = blob_file(root, path).open()
    except Stale:  # at which the kernel looks again
        found = blob_file(root, path).open()
    assert content(found) == CONTENT

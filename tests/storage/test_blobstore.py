"""The global store: what it tells of blobs, and which it finds among what else lies there."""

import pytest

from blobfs import paths
from blobfs.digest import ALGORITHMS, Digest
from blobfs.drivers.base import StorageDriver
from blobfs.errors import BlobDamaged, BlobUnknown, DigestMismatch
from blobfs.storage.blobstore import MAX_CONTENT, BlobStore
from tests.support.layout import Layout, all_blobs

CONTENT = b"what the blob holds"
ABSENT = Digest.of(b"never stored")

each_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


@pytest.fixture
def blobs(driver: StorageDriver) -> BlobStore:
    return BlobStore(driver)


@each_algorithm
def test_stat_tells_digest_and_size(layout: Layout, blobs: BlobStore, algorithm: str) -> None:
    digest = layout.blob(CONTENT, algorithm)
    descriptor = blobs.stat(digest)
    assert (descriptor.digest, descriptor.size) == (digest, len(CONTENT))


def test_stat_tells_when_the_bytes_were_stored(layout: Layout, blobs: BlobStore) -> None:
    digest = layout.blob(CONTENT)
    assert blobs.stat(digest).mtime_ns == layout.driver.stat(paths.blob_data(digest)).mtime_ns


def test_stat_of_a_missing_blob_is_unknown(layout: Layout, blobs: BlobStore) -> None:
    layout.blob(CONTENT)
    with pytest.raises(BlobUnknown, match=ABSENT.encoded):
        blobs.stat(ABSENT)


def test_everything_is_unknown_in_an_empty_storage(blobs: BlobStore) -> None:
    with pytest.raises(BlobUnknown):
        blobs.stat(ABSENT)
    assert all_blobs(blobs) == []


@each_algorithm
def test_empty_blob_is_good_under_the_digest_of_nothing(
    layout: Layout, blobs: BlobStore, algorithm: str
) -> None:
    digest = layout.blob(b"", algorithm)
    assert blobs.stat(digest).size == 0
    assert blobs.get(digest) == b""


@each_algorithm
def test_empty_blob_is_damaged_under_any_other_digest(
    layout: Layout, blobs: BlobStore, algorithm: str
) -> None:
    digest = Digest.of(CONTENT, algorithm)
    layout.put(paths.blob_data(digest))
    with pytest.raises(BlobDamaged, match=digest.encoded):
        blobs.stat(digest)


def test_directory_in_place_of_the_bytes_is_no_blob(layout: Layout, blobs: BlobStore) -> None:
    digest = Digest.of(CONTENT)
    layout.put(f"{paths.blob_data(digest)}/below")
    with pytest.raises(BlobDamaged, match="is a directory"):
        blobs.stat(digest)
    for act in (blobs.open, blobs.get):
        with pytest.raises(BlobUnknown):
            act(digest)


def test_file_in_place_of_a_blob_s_directory_is_no_blob(layout: Layout, blobs: BlobStore) -> None:
    digest = Digest.of(CONTENT)
    layout.put(paths.blob_data(digest).removesuffix("/data"))
    for act in (blobs.stat, blobs.open, blobs.get):
        with pytest.raises(BlobUnknown):
            act(digest)


def test_open_reads_the_stored_bytes(layout: Layout, blobs: BlobStore) -> None:
    with blobs.open(layout.blob(CONTENT)) as reader:
        assert reader.size == len(CONTENT)
        assert reader.read_at(5, 3) == CONTENT[5:8]


def test_open_of_a_missing_blob_is_unknown(blobs: BlobStore) -> None:
    with pytest.raises(BlobUnknown):
        blobs.open(ABSENT)


@each_algorithm
def test_get_gives_content_that_matches(layout: Layout, blobs: BlobStore, algorithm: str) -> None:
    assert blobs.get(layout.blob(CONTENT, algorithm)) == CONTENT


@each_algorithm
@pytest.mark.parametrize(
    "stored",
    [b"", CONTENT[:-1], CONTENT + b"!", CONTENT.upper()],
    ids=["emptied", "cut short", "longer", "of the same size"],
)
def test_get_refuses_content_that_does_not_match(
    layout: Layout, blobs: BlobStore, algorithm: str, stored: bytes
) -> None:
    digest = Digest.of(CONTENT, algorithm)
    layout.put(paths.blob_data(digest), stored)
    with pytest.raises(DigestMismatch, match=digest.encoded):
        blobs.get(digest)


def test_get_gives_the_largest_manifest_that_a_registry_takes(
    layout: Layout, blobs: BlobStore
) -> None:
    content = bytes(MAX_CONTENT)
    assert blobs.get(layout.blob(content)) == content


def test_get_refuses_what_is_too_large_to_hold(layout: Layout, blobs: BlobStore) -> None:
    digest = layout.blob(bytes(MAX_CONTENT + 1))
    with pytest.raises(BlobDamaged, match=str(MAX_CONTENT + 1)):
        blobs.get(digest)


def test_enumerate_finds_every_blob_of_every_algorithm(layout: Layout, blobs: BlobStore) -> None:
    stored = {layout.blob(bytes([i]), algorithm) for i in range(40) for algorithm in ALGORITHMS}
    found = all_blobs(blobs)
    assert set(found) == stored
    assert len(found) == len(stored)


def test_enumerate_finds_damaged_blobs_too(layout: Layout, blobs: BlobStore) -> None:
    damaged = Digest.of(CONTENT)
    layout.put(paths.blob_data(damaged))
    assert all_blobs(blobs) == [damaged]


@pytest.mark.parametrize(
    "stray",
    [
        "data",
        "README",
        "sha256/README",
        "sha256/data",
        f"sha256/{ABSENT.encoded[:2]}/data",
        f"sha256/{ABSENT.encoded[:2]}/README",
        f"sha256/{ABSENT.encoded[:2]}/lost-found/data",
        f"sha256/{ABSENT.encoded[:2]}/{ABSENT.encoded}",
        f"sha256/{ABSENT.encoded[:2]}/{ABSENT.encoded}/other",
        f"sha256/{ABSENT.encoded[:2]}/{ABSENT.encoded}/data/below",
        f"sha256/{ABSENT.encoded[:2]}/{ABSENT.encoded[:-1]}/data",
        f"sha256/{ABSENT.encoded[:2]}/{ABSENT.encoded}0/data",
        f"sha256/{ABSENT.encoded[:2]}/{ABSENT.encoded.upper()}/data",
        f"sha256/zz/{ABSENT.encoded}/data",
        f"sha256/{ABSENT.encoded}/data",
        f"sha256/{ABSENT.encoded[:3]}/{ABSENT.encoded}/data",
        f"sha512/{ABSENT.encoded[:2]}/{ABSENT.encoded}/data",
        f"md5/{ABSENT.encoded[:2]}/{ABSENT.encoded[:32]}/data",
        f"tarsum/v1/sha256/{ABSENT.encoded}/data",
    ],
)
def test_enumerate_passes_over_what_is_no_blob(
    layout: Layout, blobs: BlobStore, stray: str
) -> None:
    digest = layout.blob(CONTENT)
    layout.put(f"{paths.BLOBS}/{stray}")
    assert all_blobs(blobs) == [digest]


def test_enumerate_tells_once_of_a_blob_that_is_in_a_wrong_shard_too(
    layout: Layout, blobs: BlobStore
) -> None:
    digest = layout.blob(CONTENT)
    layout.put(f"{paths.BLOBS}/sha256/zz/{digest.encoded}/data", CONTENT)
    assert all_blobs(blobs) == [digest]


def test_enumerate_passes_over_emptied_directories(layout: Layout, blobs: BlobStore) -> None:
    collected, kept = layout.blob(b"collected"), layout.blob(b"kept")
    layout.driver.delete(paths.blob_data(collected))
    assert all_blobs(blobs) == [kept]


def test_each_shard_has_the_blobs_that_begin_with_it(layout: Layout, blobs: BlobStore) -> None:
    stored = {layout.blob(bytes([i])) for i in range(40)}
    shards = list(blobs.shards("sha256"))
    assert sorted(shards) == sorted({digest.encoded[:2] for digest in stored})
    for shard in shards:
        found = set(blobs.list_unchecked("sha256", shard))
        assert found == {digest for digest in stored if digest.encoded.startswith(shard)}


def test_missing_shard_has_no_blobs(blobs: BlobStore) -> None:
    assert list(blobs.list_unchecked("sha256", "00")) == []


def test_candidates_may_have_been_deleted(layout: Layout, blobs: BlobStore) -> None:
    digest = layout.blob(CONTENT)
    layout.driver.delete(paths.blob_data(digest))
    assert list(blobs.list_unchecked("sha256", digest.encoded[:2])) == [digest]
    assert blobs.existing([digest]) == []


def test_present_are_those_with_bytes_right_or_wrong(layout: Layout, blobs: BlobStore) -> None:
    good, damaged, directory = layout.blob(CONTENT), Digest.of(b"damaged"), Digest.of(b"directory")
    layout.put(paths.blob_data(damaged))
    layout.put(f"{paths.blob_data(directory)}/below")
    assert blobs.existing([ABSENT, good, directory, damaged]) == [good, damaged]

"""What a repository may see: well-formed links, and every way a link can be wrong."""

import logging

import pytest

from blobfs import paths
from blobfs.digest import ALGORITHMS, Digest
from blobfs.drivers.base import StorageDriver
from blobfs.errors import (
    BlobDamaged,
    BlobUnknown,
    DigestMismatch,
    LinkDangling,
    LinkInvalid,
)
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.linkedblobstore import LinkedBlobStore
from blobfs.storage.linkfiles import read_link
from tests.support.layout import APP, Layout

CONTENT = b"what the blob holds"
DIGEST = Digest.of(CONTENT)
TEXT = str(DIGEST).encode()
LINK_SET = paths.layers(APP)
LINK = paths.link(LINK_SET, DIGEST)

MALFORMED = {
    "empty": b"",
    "only a newline": b"\n",
    "newline-terminated": TEXT + b"\n",
    "ended as on Windows": TEXT + b"\r\n",
    "indented": b" " + TEXT,
    "NUL-terminated": TEXT + b"\0",
    "truncated": TEXT[:-1],
    "algorithm only": b"sha256:",
    "no algorithm": DIGEST.encoded.encode(),
    "uppercase hex": b"sha256:" + DIGEST.encoded.upper().encode(),
    "uppercase algorithm": b"SHA256:" + DIGEST.encoded.encode(),
    "unknown algorithm": b"md5:" + DIGEST.encoded[:32].encode(),
    "not ASCII": b"sha256:" + "٣".encode() * 64,
    "not UTF-8": b"sha256:" + b"\xff" * 64,
    "UTF-16": TEXT.decode().encode("utf-16"),
    "zeros, as after a crash": bytes(71),
    "two digests": TEXT + TEXT,
    "a mebibyte that begins well": TEXT + b"\n" * 2**20,
    "a mebibyte": b"a" * 2**20,
}
each_malformed = pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED)


@pytest.fixture
def links(driver: StorageDriver) -> LinkedBlobStore:
    return LinkedBlobStore(driver, BlobStore(driver), LINK_SET)


def test_link_resolves_to_its_own_digest(layout: Layout, links: LinkedBlobStore) -> None:
    assert links.resolve(layout.layer(CONTENT)) == DIGEST


def test_link_gives_access_to_the_blob(layout: Layout, links: LinkedBlobStore) -> None:
    layout.layer(CONTENT)
    assert (links.stat(DIGEST).digest, links.stat(DIGEST).size) == (DIGEST, len(CONTENT))
    assert links.get(DIGEST) == CONTENT
    with links.open(DIGEST) as reader:
        assert reader.read_at(0, 100) == CONTENT


def test_blob_without_a_link_is_unknown(layout: Layout, links: LinkedBlobStore) -> None:
    layout.blob(CONTENT)
    for act in (links.resolve, links.stat, links.open, links.get):
        with pytest.raises(BlobUnknown, match=DIGEST.encoded):
            act(DIGEST)


def test_link_of_another_repository_gives_no_access(
    layout: Layout, links: LinkedBlobStore, driver: StorageDriver
) -> None:
    other = LinkedBlobStore(driver, BlobStore(driver), paths.revisions(APP))
    layout.layer(CONTENT)
    with pytest.raises(BlobUnknown):
        other.stat(DIGEST)


@each_malformed
def test_malformed_link_is_invalid_and_named(
    layout: Layout, links: LinkedBlobStore, content: bytes
) -> None:
    layout.blob(CONTENT)
    layout.link(LINK_SET, DIGEST, content)
    for act in (links.resolve, links.stat, links.open, links.get):
        with pytest.raises(LinkInvalid, match=LINK):
            act(DIGEST)


@each_malformed
def test_message_about_a_malformed_link_is_one_short_line(
    layout: Layout, links: LinkedBlobStore, content: bytes
) -> None:
    layout.link(LINK_SET, DIGEST, content)
    with pytest.raises(LinkInvalid) as caught:
        links.resolve(DIGEST)
    message = str(caught.value)
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < len(LINK) + 700


@each_malformed
def test_malformed_link_is_enumerated(
    layout: Layout, links: LinkedBlobStore, content: bytes
) -> None:
    layout.link(LINK_SET, DIGEST, content)
    assert list(links.enumerate("sha256")) == [DIGEST]


def test_directory_in_place_of_a_link_is_invalid_and_enumerated(
    layout: Layout, links: LinkedBlobStore
) -> None:
    layout.put(f"{LINK}/below")
    with pytest.raises(LinkInvalid, match=LINK):
        links.resolve(DIGEST)
    assert list(links.enumerate("sha256")) == [DIGEST]


def test_link_to_another_digest_is_invalid(layout: Layout, links: LinkedBlobStore) -> None:
    other = layout.blob(b"other bytes")
    layout.link(LINK_SET, DIGEST, str(other).encode())
    with pytest.raises(LinkInvalid, match=other.encoded):
        links.resolve(DIGEST)


def test_alias_leads_to_the_digest_the_blob_is_stored_by(
    layout: Layout, links: LinkedBlobStore
) -> None:
    alias = Digest.of(CONTENT, "sha512")
    layout.link(LINK_SET, alias, str(layout.blob(CONTENT)).encode())
    assert links.resolve(alias) == DIGEST
    assert links.stat(alias).digest == DIGEST
    assert links.get(alias) == CONTENT
    with links.open(alias) as reader:
        assert reader.read_at(0, 100) == CONTENT


def test_alias_is_logged(
    layout: Layout, links: LinkedBlobStore, caplog: pytest.LogCaptureFixture
) -> None:
    alias = Digest.of(CONTENT, "sha512")
    layout.link(LINK_SET, alias, TEXT)
    with caplog.at_level(logging.INFO):
        links.resolve(alias)
    assert [record.getMessage() for record in caplog.records] == [
        f"link {paths.link(LINK_SET, alias)} leads to {DIGEST}"
    ]


def test_ordinary_link_is_not_logged(
    layout: Layout, links: LinkedBlobStore, caplog: pytest.LogCaptureFixture
) -> None:
    layout.layer(CONTENT)
    with caplog.at_level(logging.DEBUG):
        links.resolve(DIGEST)
    assert not caplog.records


def test_link_to_a_missing_blob_is_dangling_and_named(
    layout: Layout, links: LinkedBlobStore
) -> None:
    layout.link(LINK_SET, DIGEST)
    assert links.resolve(DIGEST) == DIGEST
    with pytest.raises(LinkDangling, match=LINK):
        links.stat(DIGEST)


def test_alias_of_a_missing_blob_is_dangling_and_named(
    layout: Layout, links: LinkedBlobStore
) -> None:
    alias = Digest.of(CONTENT, "sha384")
    layout.link(LINK_SET, alias, TEXT)
    with pytest.raises(LinkDangling, match=paths.link(LINK_SET, alias)):
        links.stat(alias)


def test_link_to_an_emptied_blob_is_damaged_and_named(
    layout: Layout, links: LinkedBlobStore
) -> None:
    layout.link(LINK_SET, DIGEST)
    layout.put(paths.blob_data(DIGEST))
    with pytest.raises(BlobDamaged, match=LINK):
        links.stat(DIGEST)


def test_get_is_verified(layout: Layout, links: LinkedBlobStore) -> None:
    layout.layer(CONTENT)
    layout.put(paths.blob_data(DIGEST), CONTENT.upper())
    with pytest.raises(DigestMismatch):
        links.get(DIGEST)


def test_deleted_link_is_unknown_and_not_enumerated(layout: Layout, links: LinkedBlobStore) -> None:
    layout.layer(CONTENT)
    kept = layout.layer(b"kept")
    layout.driver.delete(LINK)
    with pytest.raises(BlobUnknown):
        links.resolve(DIGEST)
    assert list(links.enumerate("sha256")) == [kept]


def test_enumerate_finds_every_link_of_one_algorithm(
    layout: Layout, links: LinkedBlobStore
) -> None:
    stored = {
        layout.link(LINK_SET, Digest.of(bytes([i]), algorithm), TEXT)
        for i in range(20)
        for algorithm in ALGORITHMS
    }
    for algorithm in ALGORITHMS:
        found = list(links.enumerate(algorithm))
        assert set(found) == {digest for digest in stored if digest.algorithm == algorithm}
        assert len(found) == 20


def test_enumerate_finds_links_to_missing_blobs(layout: Layout, links: LinkedBlobStore) -> None:
    layout.link(LINK_SET, DIGEST)
    assert list(links.enumerate("sha256")) == [DIGEST]


@pytest.mark.parametrize(
    "stray",
    [
        "README",
        "link",
        "sha256/README",
        "sha256/link",
        "sha256/lost-found/link",
        f"sha256/{DIGEST.encoded}",
        f"sha256/{DIGEST.encoded}/other",
        f"sha256/{DIGEST.encoded}/link.tmp",
        f"sha256/{DIGEST.encoded}/signatures/sha256/{DIGEST.encoded}/link",
        f"sha256/{DIGEST.encoded.upper()}/link",
        f"sha256/{DIGEST.encoded[:-1]}/link",
        f"sha256/{DIGEST.encoded}0/link",
        f"sha512/{DIGEST.encoded}/link",
        f"md5/{DIGEST.encoded[:32]}/link",
        f"tarsum/v1/sha256/{DIGEST.encoded}/link",
    ],
)
def test_enumerate_passes_over_what_is_no_link(
    layout: Layout, links: LinkedBlobStore, stray: str
) -> None:
    linked = layout.layer(b"linked")
    layout.put(f"{LINK_SET}/{stray}", TEXT)
    assert list(links.enumerate_all()) == [linked]


def test_candidates_may_have_been_deleted(layout: Layout, links: LinkedBlobStore) -> None:
    layout.layer(CONTENT)
    layout.driver.delete(LINK)
    assert list(links.list_unchecked("sha256")) == [DIGEST]
    assert links.existing([DIGEST]) == []


def test_present_are_those_with_a_link_right_or_wrong(
    layout: Layout, links: LinkedBlobStore
) -> None:
    good = layout.layer(b"good")
    malformed = layout.link(LINK_SET, Digest.of(b"malformed"), b"")
    dangling = layout.link(LINK_SET, Digest.of(b"dangling"))
    assert links.existing([dangling, DIGEST, good, malformed]) == [dangling, good, malformed]


def test_empty_link_set_has_nothing(links: LinkedBlobStore) -> None:
    assert links.algorithms() == []
    assert list(links.enumerate("sha256")) == []


def test_algorithms_are_the_directories_of_known_ones(
    layout: Layout, links: LinkedBlobStore
) -> None:
    layout.layer(CONTENT)
    layout.link(LINK_SET, Digest.of(CONTENT, "sha512"), TEXT)
    layout.put(f"{LINK_SET}/sha384")
    layout.put(f"{LINK_SET}/md5/link")
    assert links.algorithms() == ["sha256", "sha512"]


def test_link_file_is_read_without_a_link_set(layout: Layout) -> None:
    layout.put("/anywhere", TEXT)
    assert read_link(layout.driver, "/anywhere") == DIGEST

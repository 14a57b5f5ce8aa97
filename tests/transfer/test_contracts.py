"""The contracts of sources and targets, for each kind of place."""

import json
from collections.abc import Iterator

import pytest

from blobfs.digest import Descriptor, Digest
from blobfs.errors import (
    BlobUnknown,
    Corrupt,
    DigestMismatch,
    ManifestRejected,
    ManifestUnknown,
    RepositoryUnknown,
    StorageUnavailable,
    TagUnknown,
    Unsupported,
)
from blobfs.reference import Tag
from blobfs.storage.manifest import OCI_MANIFEST
from blobfs.transfer.base import Source
from tests.support.layout import as_bytes, descriptor, image, index
from tests.support.places import Place, described, places, put_image

APP, OTHER = "team/app", "other"
LATEST, OLD = Tag("latest"), Tag("v1.0-old_x")
WITH_ALIASES = places("layout", "archive", "registry")  # the others have one digest for each blob
LARGE = bytes(range(256)) * 12_000  # 3 MB, so more than a place reads or keeps at once


def content_of(source: Source, repository: str, blob: Descriptor) -> bytes:
    with source.open(repository, blob) as reader:
        return b"".join(reader.chunks())


@pytest.mark.parametrize("content", [b"", b"small", LARGE], ids=["empty", "small", "large"])
def test_a_blob_is_served_and_read_back(place: Place, content: bytes) -> None:
    blob = described(content)
    with place.writing() as target:
        assert target.missing(APP, [blob]) == [blob]
        target.put_blob(APP, blob, [content[:2], content[2:]])
        target.flush()
        assert target.missing(APP, [blob]) == []
    with place.source() as source:
        if place.has_lone_blobs:
            assert list(source.blobs(APP)) == [blob.digest]
        assert source.size(APP, blob.digest) == len(content)
        assert content_of(source, APP, blob) == content


def test_missing_are_unknown_blobs_those_of_another_size_and_those_without_a_link(
    place: Place,
) -> None:
    held, unknown = described(b"held"), described(b"unknown")
    with place.writing() as target:
        target.put_blob(APP, held, [b"held"])
        target.flush()
        longer = Descriptor(held.digest, held.size + 1)
        assert target.missing(APP, [unknown, held, longer]) == [unknown, longer]
        assert target.missing(OTHER, [held]) == [held]


def test_a_blob_of_another_repository_is_linked_without_its_bytes(place: Place) -> None:
    held, unknown = described(LARGE), described(b"unknown")
    with place.writing() as target:
        target.put_blob(APP, held, [LARGE])
        target.flush()
        assert target.link(OTHER, held, APP)
        assert not target.link(OTHER, unknown, None)
        assert not target.link(OTHER, Descriptor(held.digest, 3), None)
        target.flush()
        assert target.missing(OTHER, [held]) == []
    with place.source() as source:
        assert content_of(source, OTHER, held) == LARGE


def test_wrong_bytes_are_refused_and_nothing_is_stored(place: Place) -> None:
    for content in (b"right", LARGE):
        blob = described(content)
        with place.writing() as target:
            with pytest.raises(DigestMismatch):
                target.put_blob(APP, blob, [content[:-1], b"!"])
            target.flush()
            assert target.missing(APP, [blob]) == [blob]


def test_the_errors_of_the_chunks_are_passed_on_and_nothing_is_stored(place: Place) -> None:
    def broken(content: bytes) -> Iterator[bytes]:
        yield content
        raise StorageUnavailable("the network is cut")

    for content in (b"small", LARGE):
        blob = described(content + b"more")
        with place.writing() as target:
            with pytest.raises(StorageUnavailable, match="cut"):
                target.put_blob(APP, blob, broken(content))
            target.flush()
            assert target.missing(APP, [blob]) == [blob]


@pytest.mark.parametrize("place", WITH_ALIASES, indirect=True)
@pytest.mark.parametrize("content", [b"small", LARGE], ids=["small", "large"])
def test_a_blob_keeps_its_second_name(place: Place, content: bytes) -> None:
    alias, canonical = described(content, "sha512"), described(content)
    with place.writing() as target:
        target.put_blob(APP, alias, [content])
        with pytest.raises(DigestMismatch):
            target.put_blob(APP, described(b"other", "sha512"), [b"wrong"])
        target.flush()
        assert target.link(OTHER, alias, APP)
        target.flush()
        assert target.missing(OTHER, [alias, canonical]) == []
    with place.source() as source:
        assert set(source.blobs(OTHER)) == {alias.digest, canonical.digest}
        for blob in (alias, canonical):
            assert source.size(OTHER, blob.digest) == len(content)
            assert content_of(source, OTHER, blob) == content


@pytest.mark.parametrize("place", WITH_ALIASES, indirect=True)
def test_a_manifest_keeps_its_second_name(place: Place) -> None:
    payload = image(Digest.of(b"c"))
    alias = described(payload, "sha512")
    with place.writing() as target:
        target.put_blob(APP, described(b"c"), [b"c"])
        target.flush()
        target.put_manifest(APP, alias.digest, payload)
        target.flush()
        target.tag(APP, LATEST, alias.digest, ())
        assert target.has_manifest(APP, alias)
    with place.source() as source:
        assert source.tagged(APP, LATEST) == alias.digest
        assert source.manifest(APP, alias.digest) == payload
        assert source.outline(APP, alias.digest).manifest == Descriptor(
            alias.digest, len(payload), OCI_MANIFEST
        )


def test_a_manifest_is_stored_after_its_parts(place: Place) -> None:
    payload = image(Digest.of(b"c"), Digest.of(b"l"))
    with place.writing() as target:
        target.put_blob(APP, described(b"c"), [b"c"])
        target.flush()
        with pytest.raises(ManifestRejected):
            target.put_manifest(APP, Digest.of(payload), payload)
        with pytest.raises(ManifestRejected):
            target.put_manifest(APP, Digest.of(b"{}"), b"{}")
        assert not target.has_manifest(APP, described(payload))
        digest = put_image(target, APP, b"c", b"l", tag="latest")
        assert digest == Digest.of(payload)
        assert target.has_manifest(APP, described(payload))
        assert not target.has_manifest(APP, Descriptor(digest, 3))
        assert not target.has_manifest(OTHER, described(payload))
        assert target.tagged(APP, LATEST) == digest
    with place.source() as source:
        assert source.manifest(APP, digest) == payload
        assert {blob.digest for blob in source.outline(APP, digest).blobs} == {
            Digest.of(b"c"),
            Digest.of(b"l"),
        }


def test_children_and_referrers_are_found(place: Place) -> None:
    with place.writing() as target:
        child = put_image(target, APP, b"c", b"l")
        payload = index(child)
        target.put_manifest(APP, Digest.of(payload), payload)
        target.flush()
        document = json.loads(image(Digest.of(b"c")))
        document["subject"] = descriptor(Digest.of(payload), media_type=OCI_MANIFEST)
        signature = as_bytes(document)
        target.put_manifest(APP, Digest.of(signature), signature)
        target.flush()
        target.tag(APP, LATEST, Digest.of(payload), ())
    with place.source() as source:
        assert source.outline(APP, Digest.of(payload)).children == (child,)
        assert list(source.referrers(APP, Digest.of(payload))) == [Digest.of(signature)]
        assert list(source.referrers(APP, child)) == []
        if place.has_lone_manifests:
            assert set(source.revisions(APP)) >= {child, Digest.of(payload), Digest.of(signature)}


def test_tags_are_set_moved_and_removed(place: Place) -> None:
    with place.writing() as target:
        first, second = (put_image(target, APP, b"c", layer) for layer in (b"1", b"2"))
        target.tag(APP, OLD, first, ())
        target.tag(APP, LATEST, first, ())
        target.flush()
        target.tag(APP, LATEST, second, [first])
        target.flush()
        assert set(target.tags(APP)) == {LATEST, OLD}
        if not place.removes_tags:
            with pytest.raises(Unsupported):
                target.untag(APP, OLD)
            return
        target.untag(APP, OLD)
        target.untag(APP, Tag("missing"))
        assert set(target.tags(APP)) == {LATEST}
        assert target.tagged(APP, LATEST) == second
        with pytest.raises(TagUnknown):
            target.tagged(APP, OLD)
        assert target.has_manifest(APP, described(image(Digest.of(b"c"), Digest.of(b"1"))))
    with place.source() as source:
        assert list(source.tags(APP)) == [LATEST]
        assert source.tagged(APP, LATEST) == second
        if place.has_history:
            assert set(source.history(APP, LATEST)) == {first, second}


def test_repositories_are_listed_in_order(place: Place) -> None:
    names = ["a", "a-b/c", "a/b", "team/app"]
    with place.writing() as target:
        for name in reversed(names):
            put_image(target, name, b"c", b"l", tag="latest")
        assert list(target.repositories()) == names
        assert list(target.tags("missing")) == []
    with place.source() as source:
        assert list(source.repositories()) == names


def test_an_empty_place_has_no_repositories(place: Place) -> None:
    with place.writing() as target:
        assert list(target.repositories()) == []
    with place.source() as source:
        assert list(source.repositories()) == []


def test_names_that_are_unknown_have_their_errors(place: Place) -> None:
    unknown = described(b"unknown")
    with place.writing() as target:
        put_image(target, APP, b"c", b"l", tag="latest")
    with place.source() as source:
        with pytest.raises(RepositoryUnknown):
            list(source.tags("missing"))
        with pytest.raises(TagUnknown):
            source.tagged(APP, OLD)
        with pytest.raises(ManifestUnknown):
            source.manifest(APP, unknown.digest)
        with pytest.raises(ManifestUnknown):
            source.outline(APP, unknown.digest)
        with pytest.raises(BlobUnknown):
            source.size(APP, unknown.digest)
        with pytest.raises(BlobUnknown), source.open(APP, unknown) as reader:
            list(reader.chunks())


@pytest.mark.parametrize("place", places("archive", "registry"), indirect=True)
@pytest.mark.parametrize("damaged", [None, b"", LARGE[:-9], b"!" + LARGE[1:]])
def test_a_damaged_blob_is_replaced(place: Place, damaged: bytes | None) -> None:
    blob = described(LARGE)
    with place.writing() as target:
        target.put_blob(APP, blob, [LARGE])
    place.damage(blob.digest, damaged)
    with place.source() as source:
        try:
            found = content_of(source, APP, blob)
        except (BlobUnknown, Corrupt):
            assert damaged != b"!" + LARGE[1:]
        else:
            assert Digest.of(found) != blob.digest
    with place.writing() as target:
        if damaged is None or len(damaged) != len(LARGE):
            assert target.missing(APP, [blob]) == [blob]
            assert not target.link(OTHER, blob, APP)
        target.put_blob(APP, blob, [LARGE])
    with place.source() as source:
        assert content_of(source, APP, blob) == LARGE

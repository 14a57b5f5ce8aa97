"""What is read out of a manifest, and that a hostile one only ever is ManifestInvalid."""

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blobfs.digest import OCTET_STREAM, Digest
from blobfs.errors import ManifestInvalid
from blobfs.storage.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEXES,
    MEDIA_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    SIGNED_SCHEMA_1,
    Manifest,
)
from tests.support.layout import Json, as_bytes, descriptor, manifest

CONFIG, LAYER, OTHER = (Digest.of(content) for content in (b"config", b"layer", b"other layer"))
IMAGES = sorted(MEDIA_TYPES - INDEXES)

SCHEMA_1: Json = {
    "schemaVersion": 1,
    "name": "library/old",
    "tag": "latest",
    "architecture": "amd64",
    "fsLayers": [{"blobSum": str(LAYER)}],
    "history": [{"v1Compatibility": "{}"}],
    "signatures": [],
}


def without_media_type(payload: bytes) -> bytes:
    document = json.loads(payload)
    del document["mediaType"]
    return as_bytes(document)


def altered(media_type: str, **changes: Json) -> bytes:
    """A good manifest but for the top-level members that are given."""
    return as_bytes({**json.loads(manifest(media_type, CONFIG, LAYER)), **changes})


def of_layer(**changes: Json) -> bytes:
    """A good manifest but for what it says of its layer."""
    return altered(OCI_MANIFEST, layers=[{**descriptor(LAYER), **changes}])


@pytest.mark.parametrize("media_type", sorted(MEDIA_TYPES))
def test_each_media_type_is_told(media_type: str) -> None:
    assert Manifest.parse(manifest(media_type, CONFIG, LAYER)).media_type == media_type


@pytest.mark.parametrize("media_type", sorted(MEDIA_TYPES))
def test_references_are_in_the_order_of_the_manifest(media_type: str) -> None:
    parsed = Manifest.parse(manifest(media_type, CONFIG, LAYER, OTHER, LAYER))
    assert [reference.digest for reference in parsed.references] == [CONFIG, LAYER, OTHER, LAYER]


@pytest.mark.parametrize("media_type", sorted(MEDIA_TYPES))
def test_reference_has_the_size_and_the_media_type_that_the_manifest_gives(media_type: str) -> None:
    parsed = Manifest.parse(manifest(media_type, CONFIG, size=4711))
    [reference] = parsed.references
    assert (reference.size, reference.media_type) == (4711, "application/x-part")


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, OCI_INDEX])
def test_media_type_is_optional_for_oci(media_type: str) -> None:
    payload = without_media_type(manifest(media_type, CONFIG, LAYER))
    assert Manifest.parse(payload) == Manifest.parse(manifest(media_type, CONFIG, LAYER))


@pytest.mark.parametrize("media_type", ["", None], ids=["empty", "null"])
def test_media_type_that_says_nothing_is_none(media_type: str | None) -> None:
    payload = altered(OCI_INDEX, mediaType=media_type)
    assert Manifest.parse(payload).media_type == OCI_INDEX


@pytest.mark.parametrize("media_type", sorted(INDEXES))
def test_index_may_be_empty(media_type: str) -> None:
    assert Manifest.parse(manifest(media_type)).references == ()


@pytest.mark.parametrize("media_type", IMAGES)
def test_image_may_be_without_layers(media_type: str) -> None:
    [config] = Manifest.parse(manifest(media_type, CONFIG)).references
    assert config.digest == CONFIG


@pytest.mark.parametrize(
    "foreign",
    [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ],
)
def test_foreign_layer_is_a_reference_like_any_other(foreign: str) -> None:
    payload = of_layer(mediaType=foreign, urls=["https://example.com/layer"])
    layer = Manifest.parse(payload).references[1]
    assert (layer.digest, layer.media_type) == (LAYER, foreign)


@pytest.mark.parametrize("algorithm", ["sha384", "sha512"])
def test_reference_may_be_of_any_algorithm(algorithm: str) -> None:
    digest = Digest.of(b"layer", algorithm)
    assert Manifest.parse(of_layer(digest=str(digest))).references[1].digest == digest


def test_reference_may_be_to_an_empty_blob() -> None:
    assert Manifest.parse(of_layer(size=0)).references[1].size == 0


def test_what_is_not_known_is_passed_over() -> None:
    payload = altered(OCI_MANIFEST, subject=None, annotations={"a": "b"}, artifactType=[1.5])
    assert Manifest.parse(payload) == Manifest.parse(manifest(OCI_MANIFEST, CONFIG, LAYER))


def test_of_a_member_that_is_there_twice_the_last_counts() -> None:
    # As in distribution, which leaves it to Go's encoding/json.
    payload = manifest(OCI_MANIFEST, CONFIG).replace(b"{", b'{"schemaVersion": 1, ', 1)
    assert Manifest.parse(payload).media_type == OCI_MANIFEST


@pytest.mark.parametrize(
    "media_type",
    [
        None,
        "",
        "application/x-part\n",
        "application/x\ud800",
        "application/é",
        "application/" + "x" * 2**20,
    ],
    ids=lambda media_type: ascii(media_type)[:24],
)
def test_reference_s_media_type_that_is_none_is_said_to_be_unknown(media_type: Json) -> None:
    assert Manifest.parse(of_layer(mediaType=media_type)).references[1].media_type == OCTET_STREAM


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b" ",
        b"\0",
        b"\xff\xfe",
        b"{",
        b"{}}",
        b"{'schemaVersion': 2}",
        b"\x1f\x8b\x08\0gzip",
        manifest(OCI_MANIFEST, CONFIG)[:-1],
        manifest(OCI_MANIFEST, CONFIG) + b"{}",
        manifest(OCI_MANIFEST, CONFIG).decode().encode("utf-16"),
        b"\xef\xbb\xbf" + manifest(OCI_MANIFEST, CONFIG),
        manifest(OCI_MANIFEST, CONFIG).replace(b"{", b'{"a": NaN, ', 1),
        manifest(OCI_MANIFEST, CONFIG).replace(b"{", b'{"a": -Infinity, ', 1),
    ],
    ids=lambda payload: ascii(payload[:16]),
)
def test_what_is_not_json_is_no_manifest(payload: bytes) -> None:
    with pytest.raises(ManifestInvalid, match="not JSON"):
        Manifest.parse(payload)


@pytest.mark.parametrize("payload", [b"true", b"2", b'"text"', b"[]", b"[{}]"])
def test_what_is_not_an_object_is_no_manifest(payload: bytes) -> None:
    with pytest.raises(ManifestInvalid, match="not a JSON object"):
        Manifest.parse(payload)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"schemaVersion":'])
@pytest.mark.parametrize("depth", [100, 900, 990, 1_000, 1_010, 10_000, 100_000])
def test_deep_nesting_is_no_manifest(opening: bytes, depth: int) -> None:
    closing = b"]" if opening == b"[" else b"}"
    with pytest.raises(ManifestInvalid):
        Manifest.parse(opening * depth + b"0" + closing * depth)


@pytest.mark.parametrize("member", ["schemaVersion", "mediaType", "config", "layers"])
def test_member_that_is_nested_just_short_of_too_deep_is_no_manifest(member: str) -> None:
    for depth in range(900, 1_010):
        payload = altered(OCI_MANIFEST, **{member: "nested"})
        with pytest.raises(ManifestInvalid):
            Manifest.parse(payload.replace(b'"nested"', b"[" * depth + b"]" * depth))


@pytest.mark.parametrize("digits", [1_000, 4_300, 4_301, 1_000_000])
@pytest.mark.parametrize("member", ["schemaVersion", "size"])
def test_huge_number_is_no_manifest(member: str, digits: int) -> None:
    payload = of_layer(size=4711) if member == "size" else altered(OCI_MANIFEST, schemaVersion=4711)
    with pytest.raises(ManifestInvalid) as caught:
        Manifest.parse(payload.replace(b"4711", b"7" * digits))
    assert len(str(caught.value)) < 300


def test_largest_size_is_that_of_a_go_int64() -> None:
    assert Manifest.parse(of_layer(size=2**63 - 1)).references[1].size == 2**63 - 1
    with pytest.raises(ManifestInvalid):
        Manifest.parse(of_layer(size=2**63))


@pytest.mark.parametrize(
    "version", [None, 0, 3, "2", [2], {"2": 2}, 2.5, "v" * 2**20], ids=lambda v: ascii(v)[:8]
)
def test_other_schema_versions_are_refused_in_a_short_line(version: Json) -> None:
    with pytest.raises(ManifestInvalid, match="schemaVersion") as caught:
        Manifest.parse(altered(OCI_MANIFEST, schemaVersion=version))
    assert len(str(caught.value)) < 300


def test_schema_1_is_read_and_not_to_be_stored() -> None:
    """[S8.15] One of docker's schema 1 is read, but not put."""
    payload = as_bytes(SCHEMA_1)
    parsed = Manifest.parse(payload)
    assert parsed.media_type == SIGNED_SCHEMA_1
    assert [reference.digest for reference in parsed.references] == [LAYER]
    with pytest.raises(ManifestInvalid, match="schemaVersion is 1"):
        Manifest.to_be_stored(payload)


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/octet-stream",
        OCI_MANIFEST.upper(),
        OCI_MANIFEST + ";charset=utf-8",
        "x" * 2**20,
        0,
        False,
        17,
        [],
        [OCI_MANIFEST],
        {},
    ],
    ids=lambda media_type: ascii(media_type)[-24:],
)
def test_other_media_types_are_refused_in_a_short_line(media_type: Json) -> None:
    with pytest.raises(ManifestInvalid, match=r"media type|mediaType is not a string") as caught:
        Manifest.parse(altered(OCI_MANIFEST, mediaType=media_type))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("media_type", sorted(MEDIA_TYPES))
def test_what_is_both_an_index_and_an_image_is_refused(media_type: str) -> None:
    for member in ("layers", "config"):
        value: Json = [] if member == "layers" else descriptor(CONFIG)
        both = altered(media_type, **{"manifests": [], member: value})
        for payload in (both, without_media_type(both)):
            with pytest.raises(ManifestInvalid, match="both"):
                Manifest.to_be_stored(payload)


@pytest.mark.parametrize(
    ("said", "media_type"),
    [
        (OCI_INDEX, OCI_MANIFEST),
        (OCI_MANIFEST, OCI_INDEX),
        (DOCKER_LIST, DOCKER_MANIFEST),
        (DOCKER_MANIFEST, DOCKER_LIST),
    ],
)
def test_what_is_not_what_it_says_is_refused(said: str, media_type: str) -> None:
    with pytest.raises(ManifestInvalid, match=r"does not look like|not a digest"):
        Manifest.to_be_stored(altered(media_type, mediaType=said))


@pytest.mark.parametrize("value", [0, "text", True, [0], [[]]], ids=ascii)
@pytest.mark.parametrize(
    ("media_type", "member"),
    [(OCI_INDEX, "manifests"), (OCI_MANIFEST, "layers"), (OCI_MANIFEST, "config")],
)
def test_references_of_a_wrong_type_are_refused(media_type: str, member: str, value: Json) -> None:
    with pytest.raises(ManifestInvalid):
        Manifest.parse(altered(media_type, **{member: value}))


@pytest.mark.parametrize("size", ["1", 1.0, True, [], {}], ids=ascii)
def test_size_that_is_no_integer_is_refused(size: Json) -> None:
    with pytest.raises(ManifestInvalid, match=r"layers\[0\].size is not an integer"):
        Manifest.parse(of_layer(size=size))


@pytest.mark.parametrize("size", [-1, 0, 2**63 - 1, None])
def test_size_may_be_any_integer(size: int | None) -> None:
    """[S8.15] Without layers or sizes, in Latin-1, with its keys in capitals. Registries do not
    look at it.
    """
    assert Manifest.to_be_stored(of_layer(size=size)).references[1].size == (size or 0)


@pytest.mark.parametrize(
    "digest",
    [
        None,
        "",
        LAYER.encoded,
        str(LAYER).upper(),
        f"{LAYER}\n",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "sha256:" + "\ud800" * 64,
        "sha256:" + "f" * 2**20,
    ],
    ids=lambda digest: ascii(digest)[:40],
)
def test_reference_without_a_digest_is_left_out_and_refused_in_a_short_line(digest: Json) -> None:
    payload = of_layer(digest=digest)
    assert len(Manifest.parse(payload).references) == 1
    with pytest.raises(ManifestInvalid) as caught:
        Manifest.to_be_stored(payload)
    assert len(str(caught.value)) < 1_200
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("digest", [1, [str(LAYER)]], ids=ascii)
def test_digest_that_is_no_string_is_refused(digest: Json) -> None:
    with pytest.raises(ManifestInvalid, match=r"layers\[0\].digest is not a string"):
        Manifest.parse(of_layer(digest=digest))


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(str(LAYER))
members = st.text() | st.sampled_from(
    ["schemaVersion", "mediaType", "config", "layers", "manifests", "digest", "size"]
)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(members, inner), max_leaves=20
)
wrong = st.fixed_dictionaries(
    {"schemaVersion": st.just(2)},
    optional={
        "mediaType": st.sampled_from(sorted(MEDIA_TYPES)) | documents,
        "config": documents,
        "layers": st.lists(documents) | documents,
        "manifests": st.lists(documents) | documents,
    },
)

unhurried = settings(deadline=None)  # a slow machine is no failure


@unhurried
@given(documents | wrong)
def test_arbitrary_json_is_a_manifest_or_invalid(document: object) -> None:
    with suppress(ManifestInvalid):
        assert Manifest.parse(json.dumps(document).encode()).media_type in MEDIA_TYPES


@unhurried
@given(st.binary())
def test_arbitrary_bytes_are_no_manifest(payload: bytes) -> None:
    with pytest.raises(ManifestInvalid):
        Manifest.parse(payload)


@unhurried
@given(st.data())
def test_damaged_manifest_is_a_manifest_or_invalid(data: st.DataObject) -> None:
    payload = bytearray(manifest(data.draw(st.sampled_from(sorted(MEDIA_TYPES))), CONFIG, LAYER))
    for _ in range(data.draw(st.integers(1, 8))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ManifestInvalid):
        assert Manifest.parse(bytes(payload)).media_type in MEDIA_TYPES

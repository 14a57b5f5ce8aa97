"""Where the registry keeps things, and back from a path to its parts."""

import string
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobfs import paths
from blobfs.digest import ALGORITHMS, Digest
from blobfs.errors import PathInvalid
from blobfs.paths import Kind, Place
from blobfs.reference import RepositoryName, Tag
from tests.support.layout import EMPTY

T = TypeVar("T")

HEX = EMPTY.encoded
BLOB = f"/docker/registry/v2/blobs/sha256/e3/{HEX}"
NAME = RepositoryName("library/a")
REPOSITORY = f"{paths.REPOSITORIES}/library/a"
UPLOAD = "b1a0a8a6-4f6a-4a0e-8a52-7f7d2f4c2f10"

_words = st.text("abz019", min_size=1, max_size=5)
_components = st.builds(str.__add__, _words, st.sampled_from(["", ".0", "_a", "__a", "-a", "---a"]))
names = st.lists(_components, min_size=1, max_size=5).map(lambda c: RepositoryName("/".join(c)))
_letters = string.ascii_letters + string.digits + "_"
tags = st.builds(
    lambda first, rest: Tag(first + rest), st.sampled_from(_letters), st.text(f"{_letters}.-")
)
digests = st.builds(Digest.of, st.binary(max_size=8), st.sampled_from(ALGORITHMS))
upload_ids = st.one_of(
    st.uuids().map(str),
    st.text(f"{_letters}.-", min_size=1, max_size=40).filter(lambda text: text.strip(".")),
)
offsets = st.integers(0, 2**63 - 1)

PLACES: dict[Kind, st.SearchStrategy[tuple[str, Place]]] = {
    Kind.BLOB_DATA: digests.map(lambda d: (paths.blob_data(d), Place(Kind.BLOB_DATA, digest=d))),
    Kind.LAYER_LINK: st.builds(
        lambda n, d: (paths.link(paths.layers(n), d), Place(Kind.LAYER_LINK, n, d)), names, digests
    ),
    Kind.REVISION_LINK: st.builds(
        lambda n, d: (paths.link(paths.revisions(n), d), Place(Kind.REVISION_LINK, n, d)),
        names,
        digests,
    ),
    Kind.TAG_CURRENT_LINK: st.builds(
        lambda n, t: (paths.tag_current_link(n, t), Place(Kind.TAG_CURRENT_LINK, n, tag=t)),
        names,
        tags,
    ),
    Kind.TAG_INDEX_LINK: st.builds(
        lambda n, t, d: (paths.link(paths.tag_index(n, t), d), Place(Kind.TAG_INDEX_LINK, n, d, t)),
        names,
        tags,
        digests,
    ),
    Kind.UPLOAD_DATA: st.builds(
        lambda n, u: (paths.upload_data(n, u), Place(Kind.UPLOAD_DATA, n, upload_id=u)),
        names,
        upload_ids,
    ),
    Kind.UPLOAD_STARTEDAT: st.builds(
        lambda n, u: (paths.upload_startedat(n, u), Place(Kind.UPLOAD_STARTEDAT, n, upload_id=u)),
        names,
        upload_ids,
    ),
    Kind.UPLOAD_RECORD: st.builds(
        lambda n, u: (paths.upload_record(n, u), Place(Kind.UPLOAD_RECORD, n, upload_id=u)),
        names,
        upload_ids,
    ),
    Kind.UPLOAD_HASHSTATE: st.builds(
        lambda n, u, a, o: (
            paths.upload_hashstate(n, u, a, o),
            Place(Kind.UPLOAD_HASHSTATE, n, upload_id=u, algorithm=a, offset=o),
        ),
        names,
        upload_ids,
        st.sampled_from(ALGORITHMS),
        offsets,
    ),
}


def test_every_kind_is_tried() -> None:
    assert set(PLACES) == set(Kind)


@pytest.mark.parametrize("kind", Kind)
@given(data=st.data())
def test_path_parses_back_to_its_parts(kind: Kind, data: st.DataObject) -> None:
    path, place = data.draw(PLACES[kind])
    assert paths.parse(path) == place


LAYOUT = {
    paths.blob_data(EMPTY): f"/docker/registry/v2/blobs/sha256/e3/{HEX}/data",
    paths.repository("library/a"): "/docker/registry/v2/repositories/library/a",
    paths.repository(""): "/docker/registry/v2/repositories",
    paths.layers(NAME): f"{REPOSITORY}/_layers",
    paths.link(paths.layers(NAME), EMPTY): f"{REPOSITORY}/_layers/sha256/{HEX}/link",
    paths.revisions(NAME): f"{REPOSITORY}/_manifests/revisions",
    paths.tags(NAME): f"{REPOSITORY}/_manifests/tags",
    paths.tag(NAME, Tag("1")): f"{REPOSITORY}/_manifests/tags/1",
    paths.tag_current_link(NAME, Tag("1")): f"{REPOSITORY}/_manifests/tags/1/current/link",
    paths.tag_index(NAME, Tag("1")): f"{REPOSITORY}/_manifests/tags/1/index",
    paths.uploads(NAME): f"{REPOSITORY}/_uploads",
    paths.upload(NAME, UPLOAD): f"{REPOSITORY}/_uploads/{UPLOAD}",
    paths.upload_data(NAME, UPLOAD): f"{REPOSITORY}/_uploads/{UPLOAD}/data",
    paths.upload_startedat(NAME, UPLOAD): f"{REPOSITORY}/_uploads/{UPLOAD}/startedat",
    paths.upload_hashstates(NAME, UPLOAD, "sha256"): (
        f"{REPOSITORY}/_uploads/{UPLOAD}/hashstates/sha256"
    ),
    paths.upload_hashstate(NAME, UPLOAD, "sha512", 1048576): (
        f"{REPOSITORY}/_uploads/{UPLOAD}/hashstates/sha512/1048576"
    ),
    paths.upload_record(NAME, UPLOAD): f"{REPOSITORY}/_uploads/{UPLOAD}/blobfs.json",
}


@pytest.mark.parametrize(("path", "expected"), LAYOUT.items(), ids=LAYOUT.values())
def test_path_is_the_one_of_distribution(path: str, expected: str) -> None:
    assert path == expected


def test_repositories_may_lie_within_each_other() -> None:
    place = paths.parse(f"{paths.REPOSITORIES}/a/b/c/_layers/sha256/{HEX}/link")
    assert place.repository == "a/b/c"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        paths.ROOT,
        paths.BLOBS,
        BLOB,
        f"{BLOB}/",
        f"{BLOB}/link",
        f"{paths.blob_data(EMPTY)}/",
        f"{paths.blob_data(EMPTY)}\n",
        f"{paths.blob_data(EMPTY)}.{UPLOAD}.tmp",
        f"/elsewhere{paths.blob_data(EMPTY)}",
        f"{paths.BLOBS}/sha256/00/{HEX}/data",
        f"{paths.BLOBS}/sha256/e3/{HEX[:-1]}/data",
        f"{paths.BLOBS}/sha256/e3/{HEX}0/data",
        f"{paths.BLOBS}/sha256/E3/{HEX.upper()}/data",
        f"{paths.BLOBS}/sha256/{HEX}/data",
        f"{paths.BLOBS}/sha512/e3/{HEX}/data",
        f"{paths.BLOBS}/md5/d4/d41d8cd98f00b204e9800998ecf8427e/data",
        f"{paths.BLOBS}/../blobs/sha256/e3/{HEX}/data",
        f"{paths.REPOSITORIES}/_layers/sha256/{HEX}/link",
        f"{paths.REPOSITORIES}//_layers/sha256/{HEX}/link",
        f"{paths.REPOSITORIES}/../_layers/sha256/{HEX}/link",
        f"{paths.REPOSITORIES}/a/../b/_layers/sha256/{HEX}/link",
        f"{paths.REPOSITORIES}/A/_layers/sha256/{HEX}/link",
        f"{paths.REPOSITORIES}/a\n/_layers/sha256/{HEX}/link",
        f"{paths.REPOSITORIES}/{'a/' * 127}bc/_layers/sha256/{HEX}/link",
        f"{REPOSITORY}/_layers",
        f"{REPOSITORY}/_layers/link",
        f"{REPOSITORY}/_layers/sha256/{HEX}",
        f"{REPOSITORY}/_layers/sha256/e3/{HEX}/link",
        f"{REPOSITORY}/_layers/sha256/{HEX}/data",
        f"{REPOSITORY}/_layers/sha256/{HEX}/link.{UPLOAD}.tmp",
        f"{REPOSITORY}/_layers/_layers/sha256/{HEX}/link",
        f"{REPOSITORY}/_manifests/sha256/{HEX}/link",
        f"{REPOSITORY}/_manifests/revisions/sha256/{HEX}/signatures/sha256/{HEX}/link",
        f"{REPOSITORY}/_manifests/tags/current/link",
        f"{REPOSITORY}/_manifests/tags//current/link",
        f"{REPOSITORY}/_manifests/tags/../current/link",
        f"{REPOSITORY}/_manifests/tags/-/current/link",
        f"{REPOSITORY}/_manifests/tags/{'t' * 129}/current/link",
        f"{REPOSITORY}/_manifests/tags/1/index/link",
        f"{REPOSITORY}/_manifests/tags/1/index/current/{HEX}/link",
        f"{REPOSITORY}/_uploads/data",
        f"{REPOSITORY}/_uploads//data",
        f"{REPOSITORY}/_uploads/./data",
        f"{REPOSITORY}/_uploads/../data",
        f"{REPOSITORY}/_uploads/../startedat",
        f"{REPOSITORY}/_uploads/blobfs.json",
        f"{REPOSITORY}/_uploads/../blobfs.json",
        f"{REPOSITORY}/_uploads/{UPLOAD}/blobfsXjson",
        f"{REPOSITORY}/_uploads/{UPLOAD}/blobfs.json/below",
        f"{REPOSITORY}/_uploads/a b/data",
        f"{REPOSITORY}/_uploads/a\n/data",
        f"{REPOSITORY}/_uploads/\0/data",
        f"{REPOSITORY}/_uploads/é/data",
        f"{REPOSITORY}/_uploads/{UPLOAD}",
        f"{REPOSITORY}/_uploads/{UPLOAD}/data/",
        f"{REPOSITORY}/_uploads/{UPLOAD}/hashstates",
        f"{REPOSITORY}/_uploads/{UPLOAD}/hashstates/sha256",
        f"{REPOSITORY}/_uploads/{UPLOAD}/hashstates/sha256/",
        f"{REPOSITORY}/_uploads/{UPLOAD}/hashstates/sha256/-1",
        f"{REPOSITORY}/_uploads/{UPLOAD}/hashstates/sha256/+1",
        f"{REPOSITORY}/_uploads/{UPLOAD}/hashstates/sha256/1_0",
        f"{REPOSITORY}/_uploads/{UPLOAD}/hashstates/sha256/01",
        f"{REPOSITORY}/_uploads/{UPLOAD}/hashstates/sha256/0x10",
        f"{REPOSITORY}/_uploads/{UPLOAD}/hashstates/sha256/٣",
        f"{REPOSITORY}/_uploads/{UPLOAD}/hashstates/sha256/{10**19}",
        f"{REPOSITORY}/_uploads/{UPLOAD}/hashstates/sha256/{'9' * 5000}",
        f"{REPOSITORY}/_uploads/../hashstates/sha256/0",
    ],
    ids=lambda path: ascii(path.removeprefix(paths.ROOT)[:80]),
)
def test_path_of_no_file_of_the_layout_is_refused(path: str) -> None:
    with pytest.raises(PathInvalid):
        paths.parse(path)


PATHS = st.one_of(*PLACES.values()).map(lambda drawn: drawn[0])


@given(PATHS, st.data())
def test_path_with_a_component_too_many_or_too_few_is_another_or_refused(
    path: str, data: st.DataObject
) -> None:
    parts = path.split("/")
    position = data.draw(st.integers(1, len(parts) - 1))
    for changed in (
        [*parts[:position], *parts[position + 1 :]],
        [*parts[:position], "..", *parts[position:]],
        [*parts[:position], "", *parts[position:]],
        [*parts[:position], "_layers", *parts[position:]],
    ):
        _parses_to_itself_or_is_refused("/".join(changed))


@given(PATHS, st.data(), st.characters())
def test_path_with_a_character_changed_is_another_or_refused(
    path: str, data: st.DataObject, character: str
) -> None:
    position = data.draw(st.integers(0, len(path) - 1))
    _parses_to_itself_or_is_refused(path[:position] + character + path[position + 1 :])


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    _parses_to_itself_or_is_refused(text)


FORWARD: dict[Kind, Callable[[Place], str]] = {
    Kind.BLOB_DATA: lambda p: paths.blob_data(_some(p.digest)),
    Kind.LAYER_LINK: lambda p: paths.link(paths.layers(_some(p.repository)), _some(p.digest)),
    Kind.REVISION_LINK: lambda p: paths.link(paths.revisions(_some(p.repository)), _some(p.digest)),
    Kind.TAG_CURRENT_LINK: lambda p: paths.tag_current_link(_some(p.repository), _some(p.tag)),
    Kind.TAG_INDEX_LINK: lambda p: paths.link(
        paths.tag_index(_some(p.repository), _some(p.tag)), _some(p.digest)
    ),
    Kind.UPLOAD_DATA: lambda p: paths.upload_data(_some(p.repository), _some(p.upload_id)),
    Kind.UPLOAD_STARTEDAT: lambda p: paths.upload_startedat(
        _some(p.repository), _some(p.upload_id)
    ),
    Kind.UPLOAD_RECORD: lambda p: paths.upload_record(_some(p.repository), _some(p.upload_id)),
    Kind.UPLOAD_HASHSTATE: lambda p: paths.upload_hashstate(
        _some(p.repository), _some(p.upload_id), _some(p.algorithm), _some(p.offset)
    ),
}


def _parses_to_itself_or_is_refused(path: str) -> None:
    try:
        place = paths.parse(path)
    except PathInvalid:
        return
    assert FORWARD[place.kind](place) == path


def _some(part: T | None) -> T:
    assert part is not None
    return part

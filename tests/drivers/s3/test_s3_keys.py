"""Keys that no path can have, and more keys than an answer holds."""

from collections.abc import Iterator

import pytest

from blobfs.drivers.base import DirEntry
from blobfs.drivers.base_driver import BaseObjectStore
from blobfs.drivers.s3.driver import S3Driver
from blobfs.drivers.s3.options import S3Options
from tests.support.files import walk
from tests.support.s3_prefixes import S3Place

pytestmark = pytest.mark.s3

PRINTABLE = [
    " ", "a b", "a+b", "a%2fb", "a%00", "é", "añ字𝄞", "a:b", "a\\b", "<&>\"'", ".", "..", "/",
    "//x", "a b/c", "é/c", "placeholder/", "tail.0123456789abcdef.tmp",
]  # fmt: skip
ODD = [*PRINTABLE, "\u2028", "\x7f", "\x01", "a\tb", "\ufffe", "\x01/c"]
"""Below ``d/``. No server takes them all; these two do."""


def _put(place: S3Place, key: str) -> None:
    place.client.put_object(Bucket=place.bucket, Key=key, Body=b"hidden")


def _begin(place: S3Place, key: str) -> None:
    try:
        place.client.create_multipart_upload(Bucket=place.bucket, Key=key)
    except place.client.exceptions.ClientError:  # it is done, but the answer is no XML
        assert not key.isprintable()


@pytest.fixture
def odd(place: S3Place, options: S3Options, store: S3Driver) -> Iterator[BaseObjectStore]:
    store.put_content("/d/shown", b"shown")
    store.put_content("/d/e/shown", b"shown")
    for name in ODD:
        _put(place, options.key(f"/d/{name}"))
    yield BaseObjectStore(store)
    store.delete("/d")
    assert place.keys(options) == []


def test_odd_keys_are_not_listed(odd: BaseObjectStore) -> None:
    entries = set(odd.listdir("/d"))
    assert {DirEntry("shown", False), DirEntry("e", True)} <= entries
    assert {entry.name for entry in entries} <= {"shown", "e", "placeholder"}
    files = {file.path for page in odd.pages("/") for file in page.files}
    assert files == {"/d/shown", "/d/e/shown"}


def test_odd_keys_do_not_break_a_listing(odd: BaseObjectStore, store: S3Driver) -> None:
    assert set(odd.listdir("/d")) <= set(store.listdir("/d"))
    files = {file.path for page in store.pages("/d") for file in page.files}
    walked = {info.path for info in walk(odd, "/d")}
    assert all(any(f"{file}/".startswith(f"{path}/") for file in files) for path in walked)


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_odd_keys_do_not_break_a_page(
    place: S3Place, options: S3Options, store: S3Driver, limit: int
) -> None:
    """Without control characters: Ceph's word for where a page ends is no XML with them."""
    store.put_content("/d/shown", b"shown")
    for name in PRINTABLE:
        _put(place, options.key(f"/d/{name}"))
    found = [file.path for page in store.pages("/d", limit=limit) for file in page.files]
    assert len(found) == len(set(found))
    assert {"/d/shown", "/d/a b", "/d/a%2fb", "/d/añ字𝄞", "/d///x"} <= set(found)


def test_what_was_begun_at_odd_keys_does_not_break_its_listing(
    ceph_place: S3Place,
) -> None:
    """Not on moto, whose answer is no XML then, whatever the encoding."""
    names = {"\x01", "a b", "a+b", "a%2fb", "é"}
    options = ceph_place.options()
    store = ceph_place.driver(options)
    for name in names:
        _begin(ceph_place, options.key(f"/d/{name}"))
    store.create("/d/a").close()
    found = {unfinished.path for unfinished in store.unfinished("/d/")}
    assert found == {f"/d/{name}" for name in {*names, "a"}}
    store.delete("/d")
    ceph_place.take_down(store, options)


def test_placeholder_of_a_directory_is_no_file(
    place: S3Place, options: S3Options, store: S3Driver
) -> None:
    _put(place, options.key("/d/"))
    store.put_content("/d/a", b"")
    assert list(store.listdir("/d")) == [DirEntry("a", False)]
    assert [info.path for info in walk(store, "/")] == ["/d", "/d/a"]
    assert store.stat("/d").is_dir


@pytest.fixture
def pages_of_ten(store: S3Driver, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Listings end, and deletions of many are cut, after 10 keys instead of 1000."""

    def ask_for_ten(params: dict[str, int], **_: object) -> None:
        params["MaxKeys"] = 10

    events = store._bucket.client.meta.events
    events.register("provide-client-params.s3.ListObjectsV2", ask_for_ten)
    monkeypatch.setattr("blobfs.drivers.s3.driver._DELETED_AT_ONCE", 10)
    yield
    events.unregister("provide-client-params.s3.ListObjectsV2", ask_for_ten)


@pytest.mark.usefixtures("pages_of_ten")
def test_listings_go_on_where_an_answer_ends(
    place: S3Place, options: S3Options, store: S3Driver
) -> None:
    paths = [f"/d/e/{number}" for number in range(11)] + [f"/d/f/{n}" for n in range(9)]
    for path in paths:
        store.put_content(path, b"")
    names = sorted(entry.name for entry in store.listdir("/d/e"))
    assert names == sorted(str(number) for number in range(11))
    assert sorted(entry.name for entry in store.listdir("/d")) == ["e", "f"]
    assert sorted(file.path for page in store.pages("/d") for file in page.files) == sorted(paths)
    assert [len(page.files) for page in store.pages("/")] == [10, 10]
    assert [page.is_last for page in store.pages("/d/e")] == [False, True]
    store.delete("/d/e")
    assert len(place.keys(options)) == 9

"""What a store of objects does where one with directories does something else."""

import random
from concurrent.futures import ThreadPoolExecutor
from hashlib import md5
from operator import methodcaller

import pytest

from blobfs.drivers.base import DirEntry, FileInfo, FileWriter
from blobfs.drivers.objectstore import ListedFile
from blobfs.drivers.resumable import Unfinished
from blobfs.drivers.s3.driver import S3Driver
from blobfs.drivers.s3.options import S3Options
from blobfs.errors import (
    AppendOnly,
    FileChanged,
    NotAFile,
    PathNotFound,
    Stale,
    Unsupported,
)
from tests.support.files import content_of, walk
from tests.support.s3_prefixes import S3Place

pytestmark = pytest.mark.s3

NAMES = ["/d/a", "/d/a-b", "/d/a.b", "/d/a/below", "/d/ab", "/d-e/a", "/d.e/a", "/de/a"]


def _written(store: S3Driver, content: bytes = b"new", path: str = "/d/a") -> FileWriter:
    writer = store.create(path)
    writer.write(content)
    return writer


def _listed(store: S3Driver, path: str, limit: int = 1000) -> list[list[str]]:
    return [[file.path for file in page.files] for page in store.pages(path, limit=limit)]


# Files that are being written


def test_file_is_what_it_was_until_it_is_committed(store: S3Driver) -> None:
    store.put_content("/d/a", b"old")
    with _written(store) as writer:
        writer.flush()
        assert content_of(store, "/d/a") == b"old"
        writer.commit()
    assert content_of(store, "/d/a") == b"new"


def test_nobody_sees_what_is_not_committed(store: S3Driver) -> None:
    store.put_content("/d/other", b"")
    _written(store).close()
    assert [entry.name for entry in store.listdir("/d")] == ["other"]
    assert [info.path for info in walk(store, "/")] == ["/d", "/d/other"]
    assert _listed(store, "/") == [["/d/other"]]
    assert store.stat_many(["/d/a"]) == [None]


def test_cancelled_file_is_what_it_was(store: S3Driver) -> None:
    store.put_content("/d/a", b"old")
    writer = _written(store)
    writer.flush()
    writer.cancel()
    assert content_of(store, "/d/a") == b"old"


@pytest.mark.parametrize("end", ["commit", "cancel"])
@pytest.mark.parametrize("size", [0, 3, 6 * 2**20], ids=["empty", "small", "large"])
def test_end_leaves_nothing_but_the_file(
    place: S3Place,
    options: S3Options,
    store: S3Driver,
    end: str,
    size: int,
) -> None:
    writer = _written(store, bytes(size))
    writer.flush()
    methodcaller(end)(writer)
    assert place.keys(options) == (["d/a"] if end == "commit" else [])
    assert place.uploads(options) == []


def test_what_was_written_can_neither_be_changed_nor_shown(store: S3Driver) -> None:
    with _written(store) as writer:
        with pytest.raises(AppendOnly):
            writer.rewrite(0, b"a")
        with pytest.raises(AppendOnly):
            writer.truncate(1)
        with pytest.raises(Unsupported):
            writer.read_at(0, 1)
        assert writer.size == 3
        writer.cancel()


def test_object_with_the_key_of_a_directory_hides_nothing(
    place: S3Place, options: S3Options, store: S3Driver
) -> None:
    """[S13.17] An object whose key is that of a directory, as some programs make them, hides
    nothing that is below it.
    """
    store.put_content("/d/a", b"below")
    for key in ("/d", "/d/", "/d-e"):  # "/d-e" is listed between "/d" and what is below
        place.client.put_object(Bucket=place.bucket, Key=options.key(key), Body=b"beside")
    assert store.stat("/d") == FileInfo("/d", 0, True, 0)
    assert sorted(store.listdir("/")) == [DirEntry("d", True), DirEntry("d-e", False)]
    assert list(store.listdir("/d")) == [DirEntry("a", False)]
    assert [info.path for info in walk(store, "/")] == ["/d", "/d/a", "/d-e"]
    assert (content_of(store, "/d"), content_of(store, "/d/a")) == (b"beside", b"below")


def test_directory_is_one_where_a_page_ends_before_what_is_below(
    store: S3Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("/d", "/d-e", "/d/a", "/e", "/e/a", "/f"):
        store.put_content(path, b"")
    of_pages = store._list
    monkeypatch.setattr(
        store, "_list", lambda path, **wanted: of_pages(path, **{"MaxKeys": 1, **wanted})
    )
    found = sorted(store.listdir("/"))
    assert [(name, is_dir) for name, is_dir in found] == [
        ("d", True),
        ("d-e", False),
        ("e", True),
        ("f", False),
    ]


def test_token_tells_writers_of_one_path_apart(store: S3Driver) -> None:
    writers = [_written(store, content) for content in (b"first", b"second", b"third")]
    for writer in writers:
        writer.close()
    with store.append("/d/a", writers[1].token) as resumed:
        resumed.write(b" and on")
        resumed.commit()
    assert content_of(store, "/d/a") == b"second and on"
    assert [store.stat_unfinished("/d/a", writers[at].token).size for at in (0, 2)] == [5, 5]


@pytest.mark.parametrize("end", ["commit", "cancel"])
def test_token_of_what_has_ended_finds_nothing(store: S3Driver, end: str) -> None:
    writer = _written(store)
    writer.flush()
    token = writer.token
    methodcaller(end)(writer)
    with pytest.raises(PathNotFound):
        store.append("/d/a", token)
    with pytest.raises(PathNotFound):
        store.stat_unfinished("/d/a", token)


def test_what_somebody_else_ended_is_stale(ceph_store: S3Driver) -> None:
    """Not on moto, which fails with an error of its own."""
    writer = _written(ceph_store)
    writer.flush()
    ceph_store.delete("/d")
    with pytest.raises(Stale):
        writer.commit()
    writer.cancel()
    assert ceph_store.stat_many(["/d/a"]) == [None]


def test_writers_of_one_path_side_by_side_leave_the_content_of_one(store: S3Driver) -> None:
    contents = [random.Random(seed).randbytes(6 * 2**20) for seed in range(4)]

    def write(content: bytes) -> None:
        with store.create("/d/a") as writer:
            for offset in range(0, len(content), 2**20):
                writer.write(content[offset : offset + 2**20])
            writer.commit()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, contents))
    assert content_of(store, "/d/a") in contents


# Reading by a size that is known


def test_reading_tells_when_the_size_is_another(store: S3Driver) -> None:
    store.put_content("/a", b"0123456789")
    for size in (9, 11, 100):
        with store.open("/a", size) as reader, pytest.raises(FileChanged):
            reader.read_at(0, 5)


def test_reading_behind_what_was_cut_tells_it(store: S3Driver) -> None:
    store.put_content("/a", b"0123")
    with store.open("/a", 10) as reader, pytest.raises(FileChanged):
        reader.read_at(8, 2)


@pytest.mark.parametrize("content", [b"9876543210", b"", b"01234567890"])
def test_reading_on_tells_when_the_file_was_replaced(store: S3Driver, content: bytes) -> None:
    store.put_content("/a", b"0123456789")
    for reader in (store.open("/a", 10), store.open("/a")):
        assert reader.read_at(0, 2) == b"01"
    store.put_content("/a", content)
    with store.open("/a", 10) as other:
        readers = [reader, other] if len(content) != 10 else [reader]
        for changed in readers:
            with pytest.raises(FileChanged):
                changed.read_at(2, 2)


def test_reading_on_tells_when_the_file_went(store: S3Driver) -> None:
    store.put_content("/a", b"0123456789")
    with store.open("/a") as reader:
        store.delete("/a")
        with pytest.raises(PathNotFound):
            reader.read_at(0, 2)


# Listings


def test_pages_tell_of_every_file_below_in_the_order_of_keys(store: S3Driver) -> None:
    for name in NAMES:
        store.put_content(name, b"content")
    assert _listed(store, "/") == [sorted(NAMES)]
    assert _listed(store, "/d") == [["/d/a", "/d/a-b", "/d/a.b", "/d/a/below", "/d/ab"]]
    assert _listed(store, "/d/a") == [["/d/a/below"]]


def test_listed_file_has_what_stat_tells_and_its_md5(store: S3Driver) -> None:
    store.put_content("/d/a", b"content")
    mtime_ns = store.stat("/d/a").mtime_ns
    expected = ListedFile("/d/a", 7, mtime_ns, md5(b"content", usedforsecurity=False).hexdigest())
    assert [page.files for page in store.pages("/d")] == [[expected]]


@pytest.mark.parametrize("path", ["/d", "/nowhere"])
def test_page_of_nothing_is_empty_and_the_last(store: S3Driver, path: str) -> None:
    store.put_content("/d-e", b"")
    assert [(page.files, page.is_last) for page in store.pages(path)] == [([], True)]


def test_pages_hold_no_more_than_they_may(store: S3Driver) -> None:
    for name in NAMES:
        store.put_content(name, b"")
    pages = list(store.pages("/", limit=3))
    assert [len(page.files) for page in pages] == [3, 3, 2]
    assert [page.is_last for page in pages] == [False, False, True]
    assert [file.path for page in pages for file in page.files] == sorted(NAMES)


def test_names_that_share_a_beginning_are_kept_apart(store: S3Driver) -> None:
    for name in NAMES:
        store.put_content(name, name.encode())
    assert {entry.name for entry in store.listdir("/")} == {"d", "d-e", "d.e", "de"}
    assert {entry.name for entry in store.listdir("/d/a")} == {"below"}
    store.delete("/d/a")
    left = [name for name in NAMES if name not in ("/d/a", "/d/a/below")]
    assert {info.path for info in walk(store, "/") if not info.is_dir} == set(left)
    assert all(content_of(store, name) == name.encode() for name in left)
    store.delete("/d")
    assert {entry.name for entry in store.listdir("/")} == {"d-e", "d.e", "de"}


def test_directory_is_no_file(store: S3Driver) -> None:
    store.put_content("/d/e/a", b"")
    for path in ("/d", "/d/e"):
        with pytest.raises(NotAFile):
            store.open(path)


# What was begun


def test_what_was_begun_is_listed_with_its_token(store: S3Driver) -> None:
    writers = [_written(store, path=path) for path in ("/d/a", "/d/a", "/d/b", "/e/a")]
    for writer in writers:
        writer.close()
    expected = {("/d/a", writers[0].token), ("/d/a", writers[1].token), ("/d/b", writers[2].token)}
    assert {(found.path, found.token) for found in store.unfinished("/d")} == expected
    assert len({found.token for found in store.unfinished("/")}) == 4
    assert list(store.unfinished("/nowhere")) == []


def test_what_was_finished_is_not_listed(store: S3Driver) -> None:
    for end in ("commit", "cancel"):
        writer = _written(store)
        writer.flush()
        methodcaller(end)(writer)
    assert list(store.unfinished("/")) == []


def test_abandoned_file_is_gone_with_all_that_was_kept_of_it(
    place: S3Place, options: S3Options, store: S3Driver
) -> None:
    _written(store).close()
    (found,) = store.unfinished("/")
    store.abandon(found)
    assert (place.keys(options), place.uploads(options)) == ([], [])
    store.abandon(found)


def test_abandoning_what_never_was_is_no_error(store: S3Driver) -> None:
    store.abandon(Unfinished("/d/a", "2~nobody-has-this", 0))


@pytest.mark.parametrize("path", ["/d/a", "/d"], ids=["file", "directory"])
def test_delete_takes_what_was_begun_along(
    place: S3Place, options: S3Options, store: S3Driver, path: str
) -> None:
    store.put_content("/d/ab", b"")
    for begun in ("/d/a", "/d/ab"):
        _written(store, path=begun).close()
    store.delete(path)
    if path == "/d":
        assert (place.keys(options), place.uploads(options)) == ([], [])
    else:
        assert place.uploads(options) == ["d/ab"]
        assert len(place.keys(options)) == 2  # the file, and what is kept of its next content

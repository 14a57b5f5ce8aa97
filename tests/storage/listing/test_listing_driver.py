"""A driver that answers from listings: what it may remember, and what it must not."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from blobfs import paths
from blobfs.cache.memory import MemoryCache
from blobfs.concurrency import call_began
from blobfs.digest import Digest
from blobfs.drivers.base import FileInfo
from blobfs.drivers.objectstore import Page
from blobfs.drivers.s3.driver import S3Driver
from blobfs.drivers.s3.options import S3Options
from blobfs.errors import Exists, FileChanged, PathNotFound
from blobfs.reference import RepositoryName, Tag
from blobfs.storage.listing.driver import ListedDriver
from blobfs.storage.listing.presence import PresenceObjectStore
from blobfs.storage.registry import Registry
from tests.support.layout import Layout
from tests.support.mounts import eventually
from tests.support.s3_faults import Delay, Kind, always, no_faults
from tests.support.s3_proxy import S3Proxy
from tests.support.s3_servers import S3Server

pytestmark = pytest.mark.s3

APP = RepositoryName("team/app")
DIGEST = Digest.of(b"content")
LINK = paths.link(paths.layers(APP), DIGEST)


@pytest.fixture
def store(ceph: S3Server, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Driver]:
    for name, value in ceph.environment().items():
        monkeypatch.setenv(name, value)
    with ceph.bucket() as bucket:
        url = ceph.storage_url(bucket).replace(ceph.endpoint, proxy.url)
        store = S3Driver(S3Options.parse(url))
        yield store
        store.close()


@pytest.fixture
def driver(store: S3Driver) -> ListedDriver:
    return ListedDriver(store, store, name_ttl_s=600, content_ttl_s=600)


@pytest.fixture
def forgetful(store: S3Driver) -> ListedDriver:
    """A driver whose listings are valid for no time, as with ``--tag-timeout 0``."""
    return ListedDriver(store, store, name_ttl_s=0, content_ttl_s=0)


class _SmallPages(PresenceObjectStore):
    """A store whose listings have at most three files a page, as if it held thousands."""

    def pages(self, path: str, *, limit: int = 1000, after: str = "") -> Iterator[Page]:
        return super().pages(path, limit=min(limit, 3), after=after)


@contextmanager
def calling() -> Iterator[None]:
    """One call of a reader, as the threads of a mount make it."""
    outer = call_began.set(time.monotonic())
    try:
        yield
    finally:
        call_began.reset(outer)


@contextmanager
def slow_listings(proxy: S3Proxy) -> Iterator[None]:
    proxy.faults = always(Delay(1), only=[Kind.LIST])
    try:
        yield
    finally:
        proxy.faults = no_faults


def test_one_request_tells_of_a_whole_repository(
    proxy: S3Proxy, store: S3Driver, driver: ListedDriver
) -> None:
    tag = paths.tag_current_link(APP, Tag("v1"))
    for path in (LINK, tag):
        store.put_content(path, str(DIGEST).encode())
    with proxy.counting() as counted:
        assert driver.stat(LINK).size == 71
        assert driver.stat(tag).size == 71
        assert [entry.name for entry in driver.listdir(paths.tags(APP))] == ["v1"]
        with pytest.raises(PathNotFound):
            driver.stat(paths.uploads(APP))
        assert driver.is_known_to_hold(LINK, str(DIGEST).encode())
        assert not driver.is_known_to_hold(LINK, str(Digest.of(b"other")).encode())
    assert counted == {Kind.LIST: 1}


def test_what_was_changed_through_it_is_seen_at_once(driver: ListedDriver) -> None:
    with pytest.raises(PathNotFound):
        driver.stat(LINK)
    driver.put_content(LINK, b"1234")
    assert driver.stat(LINK).size == 4
    with driver.create(LINK) as writer:
        writer.write(b"12")
        writer.commit()
    assert driver.stat(LINK).size == 2
    driver.move(LINK, f"{LINK}2")
    assert [entry.name for entry in driver.listdir(LINK.removesuffix("/link"))] == ["link2"]
    driver.delete(paths.repository(APP))
    with pytest.raises(PathNotFound):
        driver.stat(paths.repository(APP))


def test_listing_under_way_answers_all_who_ask_for_it(
    proxy: S3Proxy, store: S3Driver, forgetful: ListedDriver
) -> None:
    store.put_content(LINK, b"1234")
    with proxy.counting() as counted, slow_listings(proxy), ThreadPoolExecutor(16) as readers:
        assert {info.size for info in readers.map(forgetful.stat, [LINK] * 16)} == {4}
    assert counted == {Kind.LIST: 1}


def test_listing_under_way_answers_nobody_after_a_change(
    proxy: S3Proxy, store: S3Driver, forgetful: ListedDriver
) -> None:
    """[S13.1] What this mount changes it sees at once, and everybody else who asks the bucket, such
    as a registry. Though it was remembered to be missing.
    """
    store.put_content(LINK, b"1234")
    with proxy.counting() as counted, slow_listings(proxy), ThreadPoolExecutor(1) as reader:
        before = reader.submit(forgetful.stat, LINK)
        eventually(lambda: counted[Kind.LIST] == 1)
        forgetful.put_content(LINK, b"12")
        assert not before.done()
        assert forgetful.stat(LINK).size == 2
        assert counted[Kind.LIST] == 2


def test_call_uses_one_listing_for_all_that_it_looks_up(
    proxy: S3Proxy, store: S3Driver, forgetful: ListedDriver
) -> None:
    store.put_content(LINK, str(DIGEST).encode())
    for _ in range(2):  # each asks anew
        with proxy.counting() as counted, calling():
            found = forgetful.stat_many([paths.layers(APP), paths.uploads(APP), LINK])
            assert [info is None for info in found] == [False, True, False]
            assert forgetful.is_known_to_hold(LINK, str(DIGEST).encode())
        assert counted == {Kind.LIST: 1}
    with calling():
        forgetful.stat(LINK)
        forgetful.put_content(LINK, b"1234")
        assert forgetful.stat(LINK).size == 4


def test_directory_is_found_by_one_of_its_files(
    proxy: S3Proxy, store: S3Driver, forgetful: ListedDriver
) -> None:
    for number in range(100):
        store.put_content(f"{LINK}{number}", b"x")
    proxy.forget()
    for path in paths.REPOSITORIES, paths.repository(APP):
        assert forgetful.stat(path).is_dir
    with pytest.raises(PathNotFound):
        forgetful.stat(paths.repository("missing"))
    assert len(proxy.requests) == 3
    assert sum(request.bytes for request in proxy.requests) < 3 * 2000


def test_what_others_change_is_seen_by_who_asks_the_storage(
    store: S3Driver, driver: ListedDriver
) -> None:
    path = paths.blob_data(DIGEST)
    store.put_content(path, b"content")
    assert driver.stat(path).size == 7
    store.put_content(path, b"torn")
    assert driver.stat(path).size == 7
    assert driver.stat_now(path).size == 4


def test_blob_that_is_missing_is_not_remembered(store: S3Driver, driver: ListedDriver) -> None:
    path = paths.blob_data(DIGEST)
    with pytest.raises(PathNotFound):
        driver.stat(path)
    store.put_content(path, b"content")
    assert driver.stat(path).size == 7


class _ChangedMeanwhile(PresenceObjectStore):
    """A store in which *change* is made when a request has been answered."""

    change: Callable[[], object] = bool

    def pages(self, path: str, *, limit: int = 1000, after: str = "") -> Iterator[Page]:
        for page in super().pages(path, limit=limit, after=after):
            self.change()
            yield page

    def stat_now(self, path: str) -> FileInfo:
        try:
            return super().stat_now(path)
        finally:
            self.change()

    def stat_files(self, paths: Sequence[str]) -> list[FileInfo | None]:
        infos = super().stat_files(paths)
        self.change()
        return infos


@pytest.mark.parametrize("others", [0, 1, 20], ids=["alone", "with one", "with many"])
@pytest.mark.parametrize("existed", [False, True])
def test_request_for_a_blob_answers_nobody_after_a_change(
    store: S3Driver, others: int, existed: bool
) -> None:
    """[S13.1] What this mount changes it sees at once, and everybody else who asks the bucket, such
    as a registry. One HEAD, several, and a page of a listing.
    """
    path = paths.blob_data(DIGEST)
    more = [paths.blob_data(Digest.of(b"%d" % number)) for number in range(others)]
    for each in [*more, path] if existed else more:
        store.put_content(each, b"1234")
    changing = _ChangedMeanwhile(store)
    driver = ListedDriver(changing, changing, name_ttl_s=600, content_ttl_s=600)

    def change() -> None:
        changing.change = bool
        driver.put_content(path, b"12")

    changing.change = change
    with suppress(PathNotFound):
        driver.stat_many([path, *more]) if others else driver.stat(path)
    assert driver.stat(path).size == 2


def test_many_blobs_are_told_of_by_pages(
    proxy: S3Proxy, store: S3Driver, driver: ListedDriver
) -> None:
    blobs = [paths.blob_data(Digest.of(b"%d" % number)) for number in range(40)]
    for path in blobs:
        store.put_content(path, b"x")
    missing = paths.blob_data(DIGEST)
    with proxy.counting() as counted:
        found = driver.stat_many([*blobs, missing])
    assert [info and info.size for info in found] == [1] * 40 + [None]
    assert counted[Kind.LIST] <= 3
    assert counted[Kind.HEAD] <= 2


def test_repository_of_many_files_is_listed_in_parts(
    proxy: S3Proxy, store: S3Driver, driver: ListedDriver
) -> None:
    links = [paths.link(paths.layers(APP), Digest.of(b"%d" % n)) for n in range(1_001)]
    for link in links:
        store.put_content(link, b"x")
    driver.stat(links[0])
    with proxy.counting() as counted:
        assert all(info is not None for info in driver.stat_many(links))
        assert driver.stat(paths.layers(APP)).is_dir
        with pytest.raises(PathNotFound):
            driver.stat(paths.link(paths.layers(APP), DIGEST))
    assert sum(counted.values()) <= 2


@pytest.mark.parametrize("content", [None, b"another size"], ids=["gone", "of another size"])
def test_blob_that_is_not_what_was_remembered_is_forgotten_when_it_is_read(
    store: S3Driver, driver: ListedDriver, content: bytes | None
) -> None:
    """[S14.3] One whose blob is gone or has another size is forgotten when the blob is opened or
    read. Opening it asks for nothing, so that only a read can tell.
    """
    blob, cache = paths.blob_data(DIGEST), MemoryCache()
    store.put_content(blob, b"content")
    store.put_content(LINK, str(DIGEST).encode())
    registry = Registry(driver, cache)
    known = registry.repository(APP).layers.stat(DIGEST)
    store.delete(blob)
    if content is not None:
        store.put_content(blob, content)
    with (
        registry.blobs.open_known(known) as reader,
        pytest.raises((PathNotFound, FileChanged)),
    ):
        reader.read_at(0, known.size)
    assert cache.stat(DIGEST, APP) is None


@pytest.mark.parametrize("removed", ["to the trash", "by a rename"])
def test_tag_that_others_have_moved_is_not_removed_as_it_was_listed(
    store: S3Driver, removed: str
) -> None:
    """[S19.43] A tag that has changed since is not removed."""
    tag, new = Tag("v1"), Digest.of(b"new")
    small = _SmallPages(store)
    repository = Registry(ListedDriver(small, small, name_ttl_s=600, content_ttl_s=600)).repository(
        APP
    )
    Layout(store).tag(DIGEST, tag, APP)
    Layout(store).tag(DIGEST, Tag("v2"), APP)
    assert repository.tags.get(tag) == DIGEST
    Layout(store).tag(new, tag, APP)
    stored = Registry(store).repository(APP).tags
    if removed == "to the trash":
        with pytest.raises(Exists):
            repository.trash.put(tag, DIGEST)
        assert stored.get(tag) == new
        assert list(repository.trash.enumerate()) == []
    else:
        repository.tags.rename(tag, Tag("v3"))
        assert stored.get(Tag("v3")) == new

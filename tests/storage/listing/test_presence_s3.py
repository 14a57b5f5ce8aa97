"""A registry whose keys are gone from a bucket, and what an object store is asked to tell."""

from collections.abc import Callable, Iterator

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.s3.driver import S3Driver
from blobfs.drivers.s3.options import S3Options
from blobfs.errors import BlobUnknown, LinkDangling, PathNotFound, StorageUnavailable
from blobfs.reference import RepositoryName
from blobfs.storage.listing.driver import ListedDriver
from blobfs.storage.listing.presence import PresenceObjectStore
from blobfs.storage.registry import Registry
from tests.support.layout import APP, Layout, all_blobs, image
from tests.support.s3_proxy import S3Proxy
from tests.support.s3_servers import S3Server

pytestmark = pytest.mark.s3

DIGEST = Digest.of(b"layer")
GONE = [Digest.of(b"gone %d" % number) for number in range(40)]
Question = Callable[[Registry], object]

QUESTIONS: dict[str, Question] = {
    "list the root": lambda registry: list(registry.children("")),
    "list a repository": lambda registry: list(registry.children(APP)),
    "look for a repository": lambda registry: registry.is_repository(APP),
    "list layers": lambda registry: list(registry.repository(APP).layers.list_unchecked("sha256")),
    "list tags": lambda registry: list(registry.repository(APP).tags.list_unchecked()),
    "look for a layer": lambda registry: registry.repository(APP).layers.stat(DIGEST),
    "list blobs": lambda registry: all_blobs(registry.blobs),
    "open a blob": lambda registry: registry.blobs.open(DIGEST),
    "check the health": lambda registry: registry.reach(),
}


@pytest.fixture
def store(ceph: S3Server, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Driver]:
    """A driver over a bucket of its own, which somebody else may change through it."""
    for name, value in ceph.environment().items():
        monkeypatch.setenv(name, value)
    with ceph.bucket() as bucket:
        store = S3Driver(
            S3Options.parse(ceph.storage_url(bucket).replace(ceph.endpoint, proxy.url))
        )
        yield store
        store.close()


@pytest.fixture
def registry(store: S3Driver) -> Registry:
    """A registry that remembers names for no time, and is empty."""
    presence = PresenceObjectStore(store)
    return Registry(ListedDriver(presence, presence, name_ttl_s=0, content_ttl_s=0))


def _stocked(store: S3Driver, registry: Registry) -> Layout:
    layout = Layout(store)
    layout.layer(b"layer")
    assert list(registry.enumerate()) == [APP]
    return layout


@pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS)
def test_bucket_that_was_emptied_is_an_error(
    store: S3Driver, registry: Registry, ask: Question
) -> None:
    """[S13.13] A bucket that was deleted, or that has lost every key of the registry after there
    were some, is EIO until there is one again.
    """
    _stocked(store, registry)
    store.delete("/docker")
    with pytest.raises(StorageUnavailable, match="is gone from the storage"):
        ask(registry)


@pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS)
def test_bucket_that_was_deleted_is_an_error(
    store: S3Driver, registry: Registry, ceph: S3Server, ask: Question
) -> None:
    """[S13.13] A bucket that was deleted, or that has lost every key of the registry after there
    were some, is EIO until there is one again.
    """
    _stocked(store, registry)
    name = store._bucket.name
    ceph.remove_bucket(name)
    try:
        with pytest.raises(StorageUnavailable):
            ask(registry)
    finally:
        ceph.client().create_bucket(Bucket=name)


def test_bucket_that_is_back_is_shown(store: S3Driver, registry: Registry) -> None:
    """[S13.13] A bucket that was deleted, or that has lost every key of the registry after there
    were some, is EIO until there is one again.
    """
    layout = _stocked(store, registry)
    store.delete("/docker")
    with pytest.raises(StorageUnavailable):
        list(registry.children(""))
    layout.layer(b"layer")
    assert list(registry.enumerate()) == [APP]


def test_empty_registry_is_empty(registry: Registry) -> None:
    """[S13.13] A bucket that was deleted, or that has lost every key of the registry after there
    were some, is EIO until there is one again.
    """
    registry.reach()
    with pytest.raises(PathNotFound):
        registry.children("")


def test_last_repository_that_somebody_removed_is_removed(
    store: S3Driver, registry: Registry
) -> None:
    """[S13.4] A directory is there as long as something is stored below it: a repository goes with
    what was last in it. Blobs are there still, so the registry is.
    """
    _stocked(store, registry)
    store.delete(paths.REPOSITORIES)
    with pytest.raises(PathNotFound):
        registry.children("")


def test_last_upload_that_was_removed_here_leaves_an_empty_registry(registry: Registry) -> None:
    """[S13.13] The last repository may go while blobs are there: 13.4."""
    uploads = registry.repository(APP).uploads
    with uploads.create() as writer:
        writer.write(b"some")
        writer.suspend()
    [upload] = uploads.enumerate()
    assert list(registry.enumerate()) == [APP]
    uploads.discard(upload)
    assert list(registry.enumerate()) == []


def _remembering(store: S3Driver) -> Registry:
    presence = PresenceObjectStore(store)
    return Registry(ListedDriver(presence, presence, name_ttl_s=600, content_ttl_s=600))


def test_registry_that_is_whole_takes_no_request_more(store: S3Driver, proxy: S3Proxy) -> None:
    """[S13.13] A registry that is whole takes no request more."""
    layout = Layout(store)
    digests = [layout.layer(b"%d" % number) for number in range(4)]
    counts = []
    for driver in (store, PresenceObjectStore(store)):
        registry = Registry(ListedDriver(driver, driver, name_ttl_s=600, content_ttl_s=600))
        app = registry.repository(APP)
        with proxy.counting() as counted:
            assert list(registry.enumerate()) == [APP]
            assert registry.is_repository(APP)
            assert app.layers.algorithms() == ["sha256"]
            assert len(list(app.layers.enumerate("sha256"))) == len(digests)
            app.layers.prefetch(digests)
            for digest in digests:
                app.layers.stat(digest)
        counts.append(dict(counted))
    assert counts[0] == counts[1]


def test_left_over_links_of_an_object_store_take_few_requests(
    store: S3Driver, proxy: S3Proxy
) -> None:
    """[S4.5] The manifests are read only then, each once. What a look at each takes, HEAD and LIST,
    and a few more for all of them.
    """
    layout = Layout(store)
    layout.revision(image(layout.layer(b"{}"), layout.layer(b"kept")))
    for digest in GONE:
        layout.link(paths.layers(APP), digest)
    layers = _remembering(store).repository(APP).layers
    with proxy.counting() as counted:
        layers.prefetch(GONE)
        for digest in GONE:
            with pytest.raises(BlobUnknown):
                layers.stat(digest)
    assert sum(counted.values()) <= 2 * len(GONE) + 8, counted


def test_dangling_link_in_an_object_store_that_a_manifest_names_is_damage(
    store: S3Driver,
) -> None:
    """[S4.5] It is damage (S4.1) if a manifest names it."""
    layout = Layout(store)
    layout.revision(image(layout.layer(b"{}"), GONE[0]))
    layout.link(paths.layers(APP), GONE[0])
    with pytest.raises(LinkDangling):
        _remembering(store).repository(APP).layers.stat(GONE[0])


def test_links_of_an_object_store_without_any_blob_are_damage(store: S3Driver) -> None:
    """[S4.5] The whole blob store is empty or missing."""
    Layout(store).link(paths.layers(RepositoryName("another")), GONE[0])
    with pytest.raises(LinkDangling):
        _remembering(store).repository("another").layers.stat(GONE[0])


def test_blob_that_is_stored_again_here_is_found_at_once(store: S3Driver) -> None:
    """[S13.1] What this mount changes it sees at once, and everybody else who asks the bucket, such
    as a registry. Though it was remembered to be missing.
    """
    layout = Layout(store)
    layout.layer(b"kept")
    layout.link(paths.layers(APP), GONE[0])
    registry = _remembering(store)
    layers = registry.repository(APP).layers
    layers.prefetch(GONE[:1])
    with pytest.raises(BlobUnknown):
        layers.stat(GONE[0])
    registry.blobs.put(b"gone 0")
    assert layers.stat(GONE[0]).size == len(b"gone 0")

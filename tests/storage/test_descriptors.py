"""Looking through a descriptor cache: what it saves the storage, and what it must never say."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest

from blobfs import paths
from blobfs.cache.base import DescriptorCache
from blobfs.cache.memory import MemoryCache, NoCache
from blobfs.cache.redis.cache import RedisCache
from blobfs.cache.redis.options import RedisOptions
from blobfs.digest import Descriptor, Digest
from blobfs.drivers.base import StorageDriver
from blobfs.errors import BlobUnknown, LinkDangling, LinkInvalid, ManifestRejected, Stale
from blobfs.reference import RepositoryName
from blobfs.storage.descriptors import BlobDescriptorService, CachedBlobStatter
from blobfs.storage.linkedblobstore import LinkedBlobStore
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository
from tests.support.counting_driver import AskedDriver, nothing
from tests.support.files import content_of
from tests.support.layout import APP, Layout, image
from tests.support.redis_server import RedisServer

CONTENT = b"a layer"
DIGEST = Digest.of(CONTENT)
ALIAS = Digest.of(CONTENT, "sha512")
BLOB = paths.blob_data(DIGEST)
LINK = paths.link(paths.layers(APP), DIGEST)
OTHER = RepositoryName("team/other")


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def cache(request: pytest.FixtureRequest) -> Iterator[DescriptorCache]:
    if request.param == "memory":
        yield MemoryCache()
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    with closing(server.client()) as client:
        client.flushall()
    with closing(RedisCache(RedisOptions.parse(server.url), 10)) as cache:
        yield cache


@pytest.fixture
def asked(driver: StorageDriver) -> AskedDriver:
    return AskedDriver(driver)


@pytest.fixture
def registry(asked: AskedDriver, cache: DescriptorCache) -> Registry:
    return Registry(asked, cache)


@pytest.fixture
def app(registry: Registry) -> Repository:
    return registry.repository(APP)


@pytest.fixture
def other_app(driver: StorageDriver, cache: DescriptorCache) -> Repository:
    """The repository in another process that has the same storage and cache."""
    return Registry(driver, cache).repository(APP)


def _push_alias(layout: Layout) -> None:
    """What a push as ``sha512`` leaves: a link of each name."""
    layout.link(paths.layers(APP), ALIAS, str(layout.layer(CONTENT)).encode())


def _forgetting_times(cache: DescriptorCache, digest: Digest = DIGEST) -> None:
    """What a registry beside us leaves, which keeps no times."""
    found = cache.stat(digest, APP)
    assert found is not None
    cache.set(digest, replace(found, mtime_ns=None), APP)


def test_what_was_looked_up_is_not_asked_again(
    layout: Layout, app: Repository, other_app: Repository, asked: AskedDriver
) -> None:
    """[S14.1] Who looks up a layer that is remembered asks the storage for nothing, neither its
    link nor its blob.
    """
    layout.layer(CONTENT)
    expected = other_app.layers.stat(DIGEST)
    for _ in range(2):
        found = app.layers.stat(DIGEST)
        assert (found, found.mtime_ns) == (expected, expected.mtime_ns)
    assert asked.asked == []


def test_alias_is_remembered_under_both_its_names(
    layout: Layout, app: Repository, asked: AskedDriver
) -> None:
    _push_alias(layout)
    for name in (ALIAS, DIGEST):
        assert app.layers.stat(name).digest == DIGEST
    asked.asked.clear()
    assert app.layers.stat(ALIAS) == app.layers.stat(DIGEST)
    assert asked.asked == []


def test_name_that_was_deleted_does_not_come_back_with_the_other(
    layout: Layout, app: Repository, cache: DescriptorCache
) -> None:
    """[S14.2] A layer that was pushed as `sha512` has two names, and loses one without the other.
    It does in distribution.
    """
    _push_alias(layout)
    app.layers.stat(DIGEST)
    app.layers.delete(DIGEST)
    assert app.layers.stat(ALIAS).digest == DIGEST
    assert cache.stat(DIGEST, APP) is None
    with pytest.raises(BlobUnknown):
        app.layers.stat(DIGEST)


def test_commit_is_remembered_under_both_its_names(app: Repository, asked: AskedDriver) -> None:
    with app.uploads.create() as writer:
        writer.write(CONTENT)
        writer.commit(ALIAS)
    asked.asked.clear()
    assert app.layers.stat(ALIAS) == app.layers.stat(DIGEST)
    assert set(asked.asked) == {BLOB}, "for its time"


def test_what_is_missing_is_not_remembered(layout: Layout, app: Repository) -> None:
    with pytest.raises(BlobUnknown):
        app.layers.stat(DIGEST)
    layout.layer(CONTENT)
    assert app.layers.stat(DIGEST).size == len(CONTENT)


def test_what_is_broken_is_not_remembered(layout: Layout, app: Repository) -> None:
    layout.link(paths.layers(APP), DIGEST, b"")
    app.layers.prefetch([DIGEST])
    with pytest.raises(LinkInvalid):
        app.layers.stat(DIGEST)
    layout.link(paths.layers(APP), DIGEST)
    with pytest.raises(LinkDangling):
        app.layers.stat(DIGEST)
    layout.blob(CONTENT)
    assert app.layers.stat(DIGEST).size == len(CONTENT)


def test_one_repository_is_not_told_what_another_has(layout: Layout, registry: Registry) -> None:
    layout.layer(CONTENT, OTHER)
    registry.repository(OTHER).layers.stat(DIGEST)
    with pytest.raises(BlobUnknown):
        registry.repository(APP).layers.stat(DIGEST)


def test_revision_is_no_layer_and_a_layer_no_revision(layout: Layout, app: Repository) -> None:
    """[S14.5] A revision is not taken for a layer, nor a layer for a revision."""
    revision, layer = layout.revision(b"{}"), layout.layer(CONTENT)
    revisions = app.manifests.links
    for links, digest in ((revisions, revision), (app.layers, layer)):
        links.prefetch([digest])
        links.stat(digest)
    for links, digest in ((revisions, layer), (app.layers, revision)):
        links.prefetch([digest])
        with pytest.raises(BlobUnknown):
            links.stat(digest)


def test_only_the_link_of_a_revision_is_looked_at(
    layout: Layout, app: Repository, asked: AskedDriver
) -> None:
    revision = layout.revision(b"{}")
    app.manifests.links.stat(revision)
    asked.asked.clear()
    app.manifests.links.stat(revision)
    assert set(asked.asked) == {paths.link(paths.revisions(APP), revision)}


def test_of_what_a_registry_looked_up_only_the_time_is_asked(
    layout: Layout, app: Repository, cache: DescriptorCache, asked: AskedDriver
) -> None:
    """[S14.1] Only a registry keeps no time: for that the blob is asked once."""
    layout.layer(CONTENT)
    expected = app.layers.stat(DIGEST).mtime_ns
    _forgetting_times(cache)
    asked.asked.clear()
    assert app.layers.stat(DIGEST).mtime_ns == expected
    assert set(asked.asked) == {BLOB}
    asked.asked.clear()
    assert app.layers.stat(DIGEST).mtime_ns == expected
    assert asked.asked == []


@pytest.mark.parametrize("name", [DIGEST, ALIAS], ids=["its own name", "another"])
def test_blob_that_is_gone_when_its_time_is_asked_is_forgotten(
    layout: Layout, app: Repository, cache: DescriptorCache, name: Digest
) -> None:
    _push_alias(layout)
    app.layers.stat(name)
    _forgetting_times(cache, name)
    layout.driver.delete(BLOB)
    with pytest.raises(BlobUnknown):
        app.layers.stat(name)
    assert cache.stat(DIGEST) is None


@pytest.mark.parametrize("content", [None, b"another size"], ids=["gone", "of another size"])
def test_blob_that_is_not_what_was_remembered_is_forgotten(
    layout: Layout, app: Repository, registry: Registry, content: bytes | None
) -> None:
    """[S14.3] One whose blob is gone or has another size is forgotten when the blob is opened or
    read.
    """
    layout.layer(CONTENT)
    known = app.layers.stat(DIGEST)
    layout.driver.delete(BLOB)
    if content is not None:
        layout.put(BLOB, content)
    assert app.layers.stat(DIGEST) == known, "as long as nobody opens it"
    with pytest.raises(Stale):
        registry.blobs.open_known(known)
    if content is None:
        with pytest.raises(BlobUnknown):
            app.layers.stat(DIGEST)
    else:
        assert app.layers.stat(DIGEST).size == len(content)


@pytest.mark.parametrize("is_listed", [False, True])
def test_blob_that_was_found_gone_is_gone_under_its_other_name_too(
    layout: Layout, app: Repository, registry: Registry, *, is_listed: bool
) -> None:
    """[S14.3] One whose blob is gone or has another size is forgotten when the blob is opened or
    read.
    """
    _push_alias(layout)
    known = app.layers.stat(ALIAS)
    layout.driver.delete(BLOB)
    with pytest.raises(Stale):
        registry.blobs.open_known(known)
    if is_listed:
        app.layers.prefetch([ALIAS])
    with pytest.raises(BlobUnknown):
        app.layers.stat(ALIAS)


def test_blob_that_was_stored_again_is_told_of_by_its_other_name_too(
    layout: Layout, app: Repository, registry: Registry
) -> None:
    _push_alias(layout)
    known = app.layers.stat(ALIAS)
    layout.put(BLOB, b"another size")
    with pytest.raises(Stale):
        registry.blobs.open_known(known)
    found = app.layers.stat(DIGEST)
    assert app.layers.stat(ALIAS) == found != known


def test_blob_whose_bytes_are_wrong_is_forgotten(
    layout: Layout, app: Repository, registry: Registry, cache: DescriptorCache
) -> None:
    layout.layer(CONTENT)
    app.layers.stat(DIGEST)
    registry.blobs.invalidate(DIGEST)
    assert cache.stat(DIGEST, APP) is None


def test_writers_are_told_what_the_storage_has(
    layout: Layout, app: Repository, registry: Registry
) -> None:
    """[S14.4] Whoever writes asks the storage: uploads, links, manifests, tags."""
    layout.layer(CONTENT)
    known = app.layers.stat(DIGEST)
    layout.driver.delete(LINK)
    layout.driver.delete(BLOB)
    other = registry.repository(OTHER)
    assert app.layers.stat(DIGEST) == known
    assert not registry.blobs.ensure_durable(DIGEST, len(CONTENT))
    with pytest.raises(BlobUnknown):
        app.layers.stat_now(DIGEST)
    with pytest.raises(BlobUnknown):
        other.layers.mount(DIGEST, app.layers)
    with pytest.raises(ManifestRejected):
        app.manifests.put(image(DIGEST))


def test_blob_that_is_only_remembered_is_stored_again(
    layout: Layout, app: Repository, registry: Registry
) -> None:
    """[S14.4] A layer is remembered once it is linked. distribution up to 3.1.1 did not store it,
    and said it had.
    """
    layout.layer(CONTENT)
    app.layers.stat(DIGEST)
    layout.driver.delete(BLOB)
    with app.uploads.create() as writer:
        writer.write(CONTENT)
        writer.commit(DIGEST)
    assert content_of(layout.driver, BLOB) == CONTENT


def test_delete_is_seen_by_all_at_once(
    layout: Layout, app: Repository, other_app: Repository
) -> None:
    """[S14.2] What a mount deletes is a miss at once, for all that share the Redis."""
    layout.layer(CONTENT)
    other_app.layers.stat(DIGEST)
    app.layers.delete(DIGEST)
    for repository in (app, other_app):
        with pytest.raises(BlobUnknown):
            repository.layers.stat(DIGEST)


def test_what_was_deleted_does_not_come_back_with_another_repository(
    layout: Layout, app: Repository, registry: Registry
) -> None:
    """[S14.2] Stays one, whoever else has the blob. It did in distribution before 3.1.0, which
    cleared the blob only.
    """
    for repository in (APP, OTHER):
        layout.layer(CONTENT, repository)
        registry.repository(repository).layers.stat(DIGEST)
    app.layers.delete(DIGEST)
    registry.repository(OTHER).layers.stat(DIGEST)
    with pytest.raises(BlobUnknown):
        app.layers.stat(DIGEST)


def test_revision_that_was_deleted_is_no_layer_of_a_registry_either(
    layout: Layout, app: Repository, cache: DescriptorCache
) -> None:
    """Distribution 3 remembers revisions as it does layers."""
    revision = layout.revision(b"{}")
    cache.set(revision, Descriptor(revision, 2), APP)
    app.manifests.links.delete(revision)
    assert cache.stat(revision, APP) is None


def test_delete_of_what_is_gone_clears_it(layout: Layout, app: Repository) -> None:
    layout.layer(CONTENT)
    app.layers.stat(DIGEST)
    layout.driver.delete(LINK)
    with pytest.raises(BlobUnknown):
        app.layers.delete(DIGEST)
    with pytest.raises(BlobUnknown):
        app.layers.stat(DIGEST)


def _look(layers: LinkedBlobStore) -> None:
    layers.stat(DIGEST)


def _list(layers: LinkedBlobStore) -> None:
    layers.prefetch([DIGEST])


@pytest.mark.parametrize(
    ("look", "known", "at"),
    [
        (_look, "nothing", LINK),
        (_look, "nothing", BLOB),
        (_look, "all but the time", BLOB),
        (_list, "nothing", LINK),
        (_list, "nothing", BLOB),
        (_list, "all but the time", LINK),
        (_list, "all", LINK),
    ],
)
def test_delete_during_a_lookup_is_not_undone_by_it(
    layout: Layout,
    registry: Registry,
    asked: AskedDriver,
    *,
    look: Callable[[LinkedBlobStore], None],
    known: str,
    at: str,
) -> None:
    """[S14.2] Whatever the mount was looking up meanwhile."""
    layout.layer(CONTENT)
    app, cache = registry.repository(APP), registry.blobs.descriptors.cache
    if known != "nothing":
        app.layers.stat(DIGEST)
    if known == "all but the time":
        _forgetting_times(cache)

    def delete(path: str) -> None:
        if path == at:
            asked.meanwhile = nothing
            app.layers.delete(DIGEST)

    asked.meanwhile = delete
    try:
        look(app.layers)
    except BlobUnknown:
        pass  # so soon
    with pytest.raises(BlobUnknown):
        app.layers.stat(DIGEST)
    assert cache.stat(DIGEST, APP) is None


def test_delete_while_the_cache_is_told_is_not_undone(
    layout: Layout, app: Repository, registry: Registry, cache: DescriptorCache
) -> None:
    """Whichever of the two the server does first."""
    layout.layer(CONTENT)
    descriptors = registry.blobs.descriptors
    before = descriptors.generation
    found = app.layers.stat_now(DIGEST)
    app.layers.delete(DIGEST)
    descriptors.set_many({DIGEST: found}, APP, before)
    assert cache.stat(DIGEST, APP) is None


def test_listing_asks_the_storage_only_for_what_is_not_remembered(
    layout: Layout, app: Repository, other_app: Repository, asked: AskedDriver
) -> None:
    """[S14.1] A listing asks for a hundred at once, and the storage for those that are not
    remembered.
    """
    digests = [layout.layer(b"%d" % number) for number in range(250)]
    other_app.layers.prefetch(digests[:200])
    app.layers.prefetch(digests)
    remembered = {paths.link(paths.layers(APP), digest) for digest in digests[:200]}
    assert sum(path in remembered for path in asked.asked) == 200, "none is read"
    asked.asked.clear()
    assert [app.layers.stat(digest).size for digest in digests] == [
        len(b"%d" % number) for number in range(250)
    ]
    assert asked.asked == []


@pytest.fixture
def hurried() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hurried")
def test_threads_list_and_look_at_once() -> None:
    blobs = {digest: Descriptor(digest, 1) for digest in map(Digest.of, map(bytes, range(50)))}
    statter = CachedBlobStatter(
        BlobDescriptorService(NoCache()), blobs.__getitem__, blobs.__getitem__
    )

    def list_and_look(_: int) -> list[Descriptor]:
        statter.prefetch(list(blobs), lambda known: known, lambda unknown: None)
        return [statter.stat(digest) for digest in blobs]

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(list_and_look, range(1000)))
    assert found == [list(blobs.values())] * 1000


def _timed(cache: DescriptorCache) -> None:
    assert cache.stat(DIGEST, APP) is not None


@pytest.mark.parametrize("remember", [_timed, _forgetting_times], ids=["timed", "without a time"])
def test_listing_leaves_out_what_has_no_link(
    layout: Layout,
    app: Repository,
    cache: DescriptorCache,
    remember: Callable[[DescriptorCache], None],
) -> None:
    """[S14.6] A listing leaves out what has no link, whether or not the layer is remembered. A
    commit, and a registry, remember a layer without its time.
    """
    layout.layer(CONTENT)
    app.layers.stat(DIGEST)
    remember(cache)
    layout.driver.delete(LINK)
    app.layers.prefetch([DIGEST])
    with pytest.raises(BlobUnknown):
        app.layers.stat(DIGEST)
    assert cache.stat(DIGEST, APP) is None


def test_listing_does_not_take_a_broken_link_for_what_was_remembered_without_a_time(
    layout: Layout, app: Repository, cache: DescriptorCache
) -> None:
    """[S4.1] A link whose blob is missing, is a directory, or is empty although its digest is not
    that of nothing: looking it up is EIO.
    """
    layout.layer(CONTENT)
    app.layers.stat(DIGEST)
    _forgetting_times(cache)
    layout.put(LINK, b"no digest")
    app.layers.prefetch([DIGEST])
    with pytest.raises(LinkInvalid):
        app.layers.stat(DIGEST)
    assert cache.stat(DIGEST, APP) is None


@pytest.mark.redis
def test_listing_takes_a_round_trip_to_ask_and_one_to_tell(
    layout: Layout, driver: StorageDriver, redis_server: RedisServer
) -> None:
    digests = [layout.layer(b"%d" % number) for number in range(5)]
    with (
        closing(redis_server.client()) as client,
        closing(RedisCache(RedisOptions.parse(redis_server.url), 10)) as cache,
    ):
        client.flushall()
        layers = Registry(driver, cache).repository(APP).layers
        layers.prefetch([DIGEST])  # connected
        before = client.info("stats")["total_reads_processed"]
        layers.prefetch(digests)
        for digest in digests:
            layers.stat(digest)
        assert client.info("stats")["total_reads_processed"] - before == 3, "one is this count"


def test_commit_is_remembered_once_it_is_linked_and_before_its_upload_is_gone(
    app: Repository, asked: AskedDriver, cache: DescriptorCache
) -> None:
    """[S14.4] A layer is remembered once it is linked."""
    known: dict[str, bool] = {}

    def note(path: str) -> None:
        known[path] = cache.stat(DIGEST, APP) is not None

    with app.uploads.create() as writer:
        writer.write(CONTENT)
        writer.suspend()
        asked.meanwhile = note
        writer.commit(DIGEST)
    assert known[LINK] is False
    assert known[paths.upload(APP, writer.id)] is True
    assert app.layers.stat(DIGEST).size == len(CONTENT)


def test_layer_that_was_mounted_is_remembered(
    layout: Layout, registry: Registry, app: Repository, asked: AskedDriver
) -> None:
    layout.layer(CONTENT)
    other = registry.repository(OTHER)
    other.layers.mount(DIGEST, app.layers)
    asked.asked.clear()
    assert other.layers.stat(DIGEST).mtime_ns == app.layers.stat_now(DIGEST).mtime_ns
    assert LINK.replace(APP, OTHER) not in asked.asked

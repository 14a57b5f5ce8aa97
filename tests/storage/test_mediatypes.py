"""The reading of manifests for media types: side by side, each once, without a lost result."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import pytest

from blobfs import paths
from blobfs.concurrency import TakesLong, waiting
from blobfs.digest import Descriptor, Digest
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.errors import StorageUnavailable
from blobfs.reference import RepositoryName
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.manifestmemory import ManifestMemory, References
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository
from tests.support.layout import APP, Layout, image
from tests.support.watched_driver import WatchedDriver

CONFIG = Digest.of(b"config")
OTHER = RepositoryName("other")
WAIT_S = 20.0


class RemoteDriver(WatchedDriver):
    """A driver whose calls are made in threads."""

    def __init__(self, driver: StorageDriver, on_open: Callable[[str], object]) -> None:
        super().__init__(driver, on_open)
        self.is_local = False


def nothing(path: str) -> None:
    """When nothing is to happen before a read."""


@pytest.fixture
def remote() -> Iterator[RemoteDriver]:
    driver = RemoteDriver(InMemoryDriver(), nothing)
    yield driver
    driver.close()


def stored(driver: StorageDriver, count: int, name: RepositoryName = APP) -> list[Digest]:
    """The layers of so many images, in the order in which their manifests are listed."""
    layers = [Digest.of(b"layer %d" % number) for number in range(count)]
    of = {Layout(driver).revision(image(CONFIG, layer), name): layer for layer in layers}
    listed = Repository(driver, BlobStore(driver), name).manifests.links.enumerate("sha256")
    return [of[revision] for revision in listed]


def is_manifest(path: str) -> bool:
    return path.startswith(paths.BLOBS)


def test_manifests_are_read_side_by_side(remote: RemoteDriver) -> None:
    """[S13.19] Manifests are read 32 side by side."""
    layers = stored(remote, 32)
    together = Barrier(16)

    def wait(path: str) -> None:
        if is_manifest(path):
            together.wait(WAIT_S)

    remote.on_open = wait
    assert Registry(remote).repository(APP).media_types.describe(layers[-1])


def test_blob_of_a_known_manifest_is_described_while_others_are_read(remote: RemoteDriver) -> None:
    """[S3.7] A blob whose manifest was read is answered at once."""
    layers = stored(remote, 1)
    media_types = Registry(remote).repository(APP).media_types
    assert media_types.describe(layers[0])
    asked, end = Event(), Event()

    def hang(path: str) -> None:
        asked.set()
        end.wait(WAIT_S)

    Layout(remote).revision(image(CONFIG))
    remote.on_open = hang
    with ThreadPoolExecutor(1) as thread:
        unknown = thread.submit(media_types.describe, Digest.of(b"unknown"))
        assert asked.wait(WAIT_S)
        assert media_types.describe(layers[0])
        assert not unknown.done()
        end.set()
        assert unknown.result(WAIT_S) is None


def test_failure_keeps_what_was_read(remote: RemoteDriver) -> None:
    """[S3.7] After EIO or a time-out the next call goes on with the manifests that were not read
    yet.
    """
    stored(remote, 300)
    media_types = Registry(remote).repository(APP).media_types
    opened: list[str] = []

    def fail_later(path: str) -> None:
        if is_manifest(path):
            if len(opened) >= 200:
                raise StorageUnavailable(path)
            opened.append(path)

    remote.on_open = fail_later
    with pytest.raises(StorageUnavailable):
        media_types.describe(Digest.of(b"unknown"))
    first = set(opened)
    opened.clear()
    remote.on_open = opened.append
    assert media_types.describe(Digest.of(b"unknown")) is None
    assert len(first) == 200
    assert not first & set(opened)


def test_reading_ends_once_the_blob_is_described(remote: RemoteDriver) -> None:
    layers = stored(remote, 300)
    opened: list[str] = []
    remote.on_open = opened.append
    assert Registry(remote).repository(APP).media_types.describe(layers[0])
    assert 0 < len(list(filter(is_manifest, opened))) < 300


def test_manifest_is_read_once_for_all_repositories(remote: RemoteDriver) -> None:
    """[S3.7] For `user.blobfs.media_type` each manifest is read once, whichever repository it is
    in.
    """
    layers = stored(remote, 3)
    stored(remote, 3, OTHER)
    registry = Registry(remote)
    assert all(map(registry.repository(APP).media_types.describe, layers))
    opened: list[str] = []
    remote.on_open = opened.append
    assert all(map(registry.repository(OTHER).media_types.describe, layers))
    assert not list(filter(is_manifest, opened))


def test_event_loop_does_not_wait_for_the_thread_that_reads(remote: RemoteDriver) -> None:
    stored(remote, 1)
    media_types = Registry(remote).repository(APP).media_types
    asked, end = Event(), Event()

    def hang(path: str) -> None:
        asked.set()
        end.wait(WAIT_S)

    remote.on_open = hang
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(media_types.describe, Digest.of(b"unknown"))
        assert asked.wait(WAIT_S)
        with waiting, pytest.raises(TakesLong):
            media_types.describe(Digest.of(b"unknown"))
        end.set()
        assert first.result(WAIT_S) is None


def test_event_loop_reads_no_manifest(remote: RemoteDriver) -> None:
    layers = stored(remote, 1)
    media_types = Registry(remote).repository(APP).media_types
    with waiting, pytest.raises(TakesLong):
        media_types.describe(layers[0])
    assert media_types.describe(layers[0])
    with waiting:
        assert media_types.describe(layers[0])


def test_blob_linked_after_its_manifest_was_read_is_described(remote: RemoteDriver) -> None:
    """[S3.7] Of blobs that manifests refer to and that are no layers, 64 MiB are kept for all
    repositories (1.4 million references).
    """
    late = Digest.of(b"late")
    Layout(remote).revision(image(CONFIG, late))
    media_types = Registry(remote).repository(APP).media_types
    assert media_types.describe(Digest.of(b"unknown")) is None
    found = media_types.describe(late)
    assert found is not None
    assert found.digest == late


def test_digest_that_begins_like_another_is_not_mistaken() -> None:
    wanted = Digest("sha256", "01" * 32)
    shifted = [
        Descriptor(Digest.of(b"%d" % number), 2**60 + 1, "\0" + "01" * number)
        for number in range(40)
    ]
    references = References.of([*shifted, Descriptor(wanted, 7, "a/b")])
    assert references.find(wanted) == Descriptor(wanted, 7, "a/b")
    assert references.find(Digest.of(b"absent")) is None
    assert all(references.find(each.digest) == each for each in shifted)


def test_reference_is_found_only_at_the_start_of_a_record() -> None:
    """The records of two descriptors hold the key of a third across their border."""
    first = Digest("sha256", "ab" * 32)
    second = Digest("sha256", "cd" * 32)
    records = References.of([Descriptor(first, 1), Descriptor(second, 1)]).records
    start = records.index(b"\0", 1)
    crossing = Digest("sha256", records[start + 1 : start + 33].hex())
    assert References.of([Descriptor(first, 1), Descriptor(second, 1)]).find(crossing) is None


def test_memory_of_manifests_is_bounded() -> None:
    revisions = [Digest.of(b"%d" % number) for number in range(10)]
    references = References.of((Descriptor(revisions[0], 1),) * 4)
    memory = ManifestMemory(limit=4 * references.memory())
    for revision in revisions:
        memory.put(revision, references)
        memory.get(revisions[0])
    assert [r for r in revisions if memory.get(r)] == [revisions[0], *revisions[-3:]]

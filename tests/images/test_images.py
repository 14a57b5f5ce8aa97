"""Images of a registry: what is read, once, and what cannot be shown."""

import gc
import json
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.concurrency import TakesLong, waiting
from blobfs.digest import Digest
from blobfs.drivers.base import FileReader, StorageDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.drivers.wrapper import DriverWrapper
from blobfs.errors import DigestMismatch, LayerInvalid, NotFound, StorageFull
from blobfs.images.images import Images
from blobfs.images.index_store import IndexStore
from blobfs.images.rootfs import ROOT, RootFilesystem
from blobfs.reference import RepositoryName
from blobfs.storage.manifest import OCI_INDEX, OCI_MANIFEST
from blobfs.storage.registry import Registry
from blobfs.vfs.nodes import Directory, File, Node
from blobfs.vfs.rootfs import RootfsDirectory
from tests.support.compressed_layers import zstandard
from tests.support.layers import archive, image_blobs, member, store_blobs, store_image
from tests.support.layout import APP, LATEST, Json, Layout, as_bytes, descriptor
from tests.support.mounts import eventually
from tests.support.tables import TabledLayer, image_of

OTHER = RepositoryName("other")
LAYERS = (archive(member(b"a", b"1")), archive(member(b"b", b"2" * 100_000)))


class OpeningDriver(DriverWrapper):
    """Counts how often each file is opened."""

    def __init__(self, driver: StorageDriver) -> None:
        super().__init__(driver)
        self.opened: Counter[str] = Counter()

    def open(self, path: str, size: int | None = None) -> FileReader:
        self.opened[path] += 1
        return super().open(path, size)


class Stored:
    """A registry with images, and how often its blobs are opened."""

    def __init__(self, directory: Path) -> None:
        self.driver = OpeningDriver(InMemoryDriver())
        self.layout = Layout(self.driver)
        self.registry = Registry(self.driver)
        self.directory = directory

    def images(self) -> Images:
        return Images(self.registry, IndexStore(self.directory, 2**30))

    def rootfs(self, digest: Digest, images: Images | None = None) -> RootFilesystem:
        images = images or self.images()
        repository = self.registry.repository(APP)
        return images.rootfs(repository, images.here(repository, digest))

    def with_config(self, config: object, *layers: bytes) -> Digest:
        """Store an image with another config than that of its layers."""
        *_, manifest = image_blobs(layers)
        document = json.loads(manifest)
        document["config"]["digest"] = str(self.layout.layer(json.dumps(config).encode()))
        for layer in layers:
            self.layout.layer(layer)
        return self.layout.revision(json.dumps(document).encode())


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path / "index")


def test_rootfs_has_the_files_of_all_layers(stored: Stored) -> None:
    rootfs = stored.rootfs(store_image(stored.layout, *LAYERS, compress=True))
    assert list(rootfs.names(ROOT)) == [b"a", b"b"]
    with rootfs.open(rootfs.lookup(ROOT, b"b").number) as reader:
        assert reader.read_at(99_998, 10) == b"22"


def test_layers_are_read_once_by_all_threads_and_processes(stored: Stored) -> None:
    digest = store_image(stored.layout, *LAYERS, compress=True)
    images = stored.images()
    barrier = threading.Barrier(4)

    def use() -> list[bytes]:
        barrier.wait()
        return list(stored.rootfs(digest, images).names(ROOT))

    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(use) for _ in range(4)]
        assert [future.result() for future in futures] == 4 * [[b"a", b"b"]]
    blobs = [paths.blob_data(Digest.of(blob)) for blob in image_blobs(LAYERS, compress=True)[:2]]
    assert [stored.driver.opened[blob] for blob in blobs] == [1, 1]
    assert list(stored.rootfs(digest, stored.images()).names(ROOT)) == [b"a", b"b"]
    assert [stored.driver.opened[blob] for blob in blobs] == [1, 1]


def test_layer_that_the_repository_does_not_link_is_not_shown(stored: Stored) -> None:
    digest = store_image(stored.layout, *LAYERS)
    *_, manifest = image_blobs(LAYERS)
    stored.layout.revision(manifest, OTHER)
    images = stored.images()
    stored.rootfs(digest, images)
    other = stored.registry.repository(OTHER)
    with pytest.raises(NotFound):
        images.here(other, digest)
    stored.layout.link(paths.layers(OTHER), Digest.of(image_blobs(LAYERS)[2]))
    with pytest.raises(LayerInvalid, match="not in other"):
        images.rootfs(other, images.here(other, digest))


def test_diff_id_of_another_archive_is_refused_also_if_the_layer_has_an_index(
    stored: Stored,
) -> None:
    images = stored.images()
    stored.rootfs(store_image(stored.layout, *LAYERS), images)
    wrong = {"rootfs": {"diff_ids": [str(Digest.of(LAYERS[0])), str(Digest.of(b"x"))]}}
    with pytest.raises(DigestMismatch, match="in the image"):
        stored.rootfs(stored.with_config(wrong, *LAYERS), images)


def test_diff_ids_of_two_algorithms_are_verified_each(stored: Stored) -> None:
    images = stored.images()
    stored.rootfs(store_image(stored.layout, *LAYERS), images)
    diff_ids = [str(Digest.of(layer, "sha512")) for layer in LAYERS]
    digest = stored.with_config({"rootfs": {"diff_ids": diff_ids}}, *LAYERS)
    assert list(stored.rootfs(digest, images).names(ROOT)) == [b"a", b"b"]
    wrong = {"rootfs": {"diff_ids": diff_ids[::-1]}}
    with pytest.raises(DigestMismatch):
        stored.rootfs(stored.with_config(wrong, *LAYERS), images)


def test_layer_that_cannot_be_indexed_is_not_read_again_for_a_while(stored: Stored) -> None:
    digest = stored.with_config({}, b"no archive, but a chart")
    images = stored.images()
    for _ in range(2):
        with pytest.raises(LayerInvalid, match="no tar archive"):
            stored.rootfs(digest, images)
    assert stored.driver.opened[paths.blob_data(Digest.of(b"no archive, but a chart"))] == 1
    repository = stored.registry.repository(APP)
    assert "no tar archive" in images.failure(images.here(repository, digest))


def test_index_is_made_again_after_it_was_damaged(stored: Stored) -> None:
    digest = store_image(stored.layout, *LAYERS, compress=True)
    stored.rootfs(digest)
    for file in stored.directory.rglob("sha256-*"):
        file.write_bytes(file.read_bytes()[:-100] + bytes(100))
    assert list(stored.rootfs(digest).names(ROOT)) == [b"a", b"b"]


def test_layer_in_one_frame_is_decompressed_in_another_process(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = archive(member(b"zeros", bytes(17 * 2**20)), member(b"last", b"1"))
    layer = TabledLayer(zstandard(content), content, {})
    rootfs = stored.rootfs(store_blobs(stored.layout, image_of(layer), LATEST))
    monkeypatch.setattr("blobfs.images.seekable.decompress", None)
    with rootfs.open(rootfs.resolve(b"last").number) as reader:
        assert reader.read_at(0, 2) == b"1"


def test_members_that_have_no_place_are_one_warning(
    stored: Stored, caplog: pytest.LogCaptureFixture
) -> None:
    images = stored.images()
    bad = [member(b"a/%d" % number) for number in range(3)]
    digest = store_image(stored.layout, archive(member(b"a"), *bad))
    for _ in range(2):
        assert list(stored.rootfs(digest, images).names(ROOT)) == [b"a"]
    [text] = caplog.messages
    assert text == (
        f"image {digest}: members without a place: 3; the first is b'a/0' of layer 1,"
        " because b'a' above it is no directory"
    )


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.long)])
def test_image_of_many_layers_keeps_few_files_open(stored: Stored, count: int) -> None:
    layers = [archive(member(b"%d" % number, b"x")) for number in range(count)]
    before = len(os.listdir("/proc/self/fd"))
    rootfs = stored.rootfs(store_image(stored.layout, *layers))
    assert len(list(rootfs.names(ROOT))) == count
    assert len(os.listdir("/proc/self/fd")) < before + 140


def test_event_loop_reads_no_manifest_or_config_of_an_image(stored: Stored) -> None:
    digest = store_image(stored.layout, *LAYERS)
    images, repository = stored.images(), stored.registry.repository(APP)
    with waiting, pytest.raises(TakesLong):
        images.platforms(repository, digest)
    images.platforms(repository, digest)
    with waiting, pytest.raises(TakesLong):
        images.image(repository, digest)
    images.image(repository, digest)
    with waiting:
        assert images.here(repository, digest).digest == digest


def test_image_without_room_for_its_index_is_not_read_again(stored: Stored) -> None:
    digest = store_image(stored.layout, *LAYERS, compress=True)
    images = Images(stored.registry, IndexStore(stored.directory, 1000))
    for _ in range(2):
        with pytest.raises(StorageFull, match="--index-size"):
            stored.rootfs(digest, images)
    blob = paths.blob_data(Digest.of(image_blobs(LAYERS, compress=True)[0]))
    assert stored.driver.opened[blob] == 1


def test_open_files_of_many_images_are_bounded(stored: Stored) -> None:
    """The kernel may hold nodes of any number of images."""
    images, repository = stored.images(), stored.registry.repository(APP)
    nodes: list[Node] = []
    descriptors = len(os.listdir("/proc/self/fd"))
    for number in range(100):
        digest = store_image(stored.layout, archive(member(b"d/f", b"%d" % number)))
        image = images.here(repository, digest)
        root = RootfsDirectory(f"/{number}", images, repository, image, 0, flatten_owners=False)
        nodes.append(root.lookup("d"))
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) - descriptors < 4 * 64 + 20
    with waiting, pytest.raises(TakesLong):
        _file_in(nodes[0])
    for number, node in enumerate(nodes):
        with _file_in(node).open() as reader:
            assert reader.read_at(0, 9) == b"%d" % number


def _file_in(directory: Node) -> File:
    assert isinstance(directory, Directory)
    found = directory.lookup("f")
    assert isinstance(found, File)
    return found


def test_image_of_an_index_is_found_when_it_is_pushed_later(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blobfs.images.images._INCOMPLETE_FOR_S", 0.0)
    images, repository = stored.images(), stored.registry.repository(APP)
    blobs = image_blobs(LAYERS)
    child = descriptor(Digest.of(blobs[-1]), media_type=OCI_MANIFEST)
    document: Json = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child]}
    index = stored.layout.revision(as_bytes(document))
    assert not images.platforms(repository, index)
    digest = store_blobs(stored.layout, blobs, LATEST)
    eventually(lambda: list(images.platforms(repository, index).values()) == [digest])


@pytest.mark.parametrize("count", [100, pytest.param(10_000, marks=pytest.mark.long)])
def test_index_of_many_images_and_an_index_of_it(stored: Stored, count: int) -> None:
    images, repository = stored.images(), stored.registry.repository(APP)
    children: list[Json] = []
    for number in range(count):
        child = stored.with_config({"os": "linux", "architecture": f"a{number}"})
        children.append(descriptor(child, media_type=OCI_MANIFEST))
    for _ in range(2):
        document: Json = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children}
        index = stored.layout.revision(as_bytes(document))
        found = images.platforms(repository, index)
        assert [str(platform) for platform in found] == [f"linux-a{n}" for n in range(count)]
        children = [descriptor(index, media_type=OCI_INDEX)]

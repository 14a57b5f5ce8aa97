"""Root filesystems of images whose layers have tables of contents."""

import gzip
import logging
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from blobfs.digest import Digest
from blobfs.drivers.base import FileReader, StorageDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.drivers.wrapper import DriverWrapper
from blobfs.errors import DigestMismatch, LayerInvalid
from blobfs.images.images import Images
from blobfs.images.index_store import IndexStore
from blobfs.images.rootfs import ROOT, Entry, RootFilesystem
from blobfs.images.toc.table import CHUNKED_POSITION, ESTARGZ
from blobfs.storage.registry import Registry
from tests.images.test_tables import ARCHIVE, file
from tests.support import estargz_sample
from tests.support.compressed_layers import CountingReader
from tests.support.image_trees import differences, tree_of, unpacked
from tests.support.layers import LayerImages, archive, directory, hardlink, member, store_blobs
from tests.support.layout import APP, LATEST, Layout
from tests.support.tables import Json, TabledLayer, estargz, image_of, zstd_chunked

RANDOM = random.Random(7).randbytes(10**6)
LOW = archive(
    directory(b"./", mtime_ns=10**18), directory(b"d/", mtime_ns=10**18), file(b"d/gone", b"1"),
    file(b"d/random", RANDOM), file(b"replaced", b"2"),
)  # fmt: skip
HIGH = archive(
    file(b"d/.wh.gone"), file(b"d/new", b"3"), directory(b"replaced/", mtime_ns=10**18),
    file(b"replaced/in", b"4"),
)  # fmt: skip


class CountingDriver(DriverWrapper):
    """Counts the bytes that are read of opened files."""

    def __init__(self, driver: StorageDriver) -> None:
        super().__init__(driver)
        self.readers: list[CountingReader] = []

    @property
    def bytes_read(self) -> int:
        return sum(reader.bytes_read for reader in self.readers)

    def open(self, path: str, size: int | None = None) -> FileReader:
        with super().open(path, size) as reader:
            self.readers.append(CountingReader(b"".join(reader.chunks())))
            return self.readers[-1]


class Stored:
    """A registry with images, and the bytes that are read of its blobs."""

    def __init__(self, directory: Path) -> None:
        self.driver = CountingDriver(InMemoryDriver())
        self.layout = Layout(self.driver)
        self.registry = Registry(self.driver)
        self.directory = directory

    def images(self) -> Images:
        return Images(self.registry, IndexStore(self.directory, 2**30))

    def add(self, *tabled: TabledLayer) -> Digest:
        return store_blobs(self.layout, image_of(*tabled), LATEST)

    def rootfs(self, digest: Digest, images: Images | None = None) -> RootFilesystem:
        images = images or self.images()
        repository = self.registry.repository(APP)
        return images.rootfs(repository, images.here(repository, digest))

    def index(self, digest: Digest) -> RootFilesystem:
        images = self.images()
        repository = self.registry.repository(APP)
        return images.index(repository, images.here(repository, digest))


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path / "index")


def _content(rootfs: RootFilesystem, path: bytes) -> bytes:
    with rootfs.open(rootfs.resolve(path).number) as reader:
        return b"".join(reader.chunks())


@pytest.mark.parametrize("write", [estargz, zstd_chunked])
def test_files_are_listed_and_read_without_the_layers(
    write: Callable[[bytes], TabledLayer], stored: Stored
) -> None:
    """[S21.11] the first use reads the table, and not the layer"""
    many = archive(
        *(file(b"f%d" % number, RANDOM[number:]) for number in range(40)), file(b"z", b"1")
    )
    tabled = write(many)
    digest = stored.add(tabled)
    stored.driver.readers.clear()
    rootfs = stored.rootfs(digest)
    assert len(list(rootfs.names(ROOT))) >= 40
    assert stored.driver.bytes_read < 10**6
    assert _content(rootfs, b"f20") == RANDOM[20:]
    assert stored.driver.bytes_read < 12 * 10**6


@pytest.mark.parametrize("write", [estargz, zstd_chunked])
def test_tree_is_the_same_by_tables_and_by_layers(
    write: Callable[[bytes], TabledLayer], stored: Stored
) -> None:
    digest = stored.add(write(LOW), write(HIGH))
    images = stored.images()
    first = tree_of(stored.rootfs(digest, images))
    numbers = [entry.number for _, entry in _entries(stored.rootfs(digest, images))]
    full = stored.index(digest)
    assert tree_of(full) == first
    assert [entry.number for _, entry in _entries(full)] == numbers
    assert tree_of(stored.rootfs(digest, images)) == first
    assert tree_of(stored.rootfs(digest)) == first


def _entries(rootfs: RootFilesystem) -> list[tuple[bytes, Entry]]:
    return list(rootfs.entries(ROOT, list(rootfs.names(ROOT))))


def test_layers_that_are_indexed_need_no_table(stored: Stored) -> None:
    """[S21.13] Later uses go by the archive."""
    low, high = estargz(LOW), estargz(HIGH)
    stored.index(stored.add(low))
    digest = stored.add(low, high)
    expected = tree_of(stored.rootfs(stored.add(TabledLayer(LOW, LOW, {}), high)))
    expected.pop(b"/stargz.index.json")
    found = tree_of(stored.rootfs(digest))
    found.pop(b"/stargz.index.json")
    assert found == expected
    stored.driver.readers.clear()
    stored.index(digest)
    assert stored.driver.bytes_read < len(low.blob)


def test_table_that_lies_makes_the_image_unusable_once_it_is_read_in_full(stored: Stored) -> None:
    """[S21.13] A table that differs from the archive makes `rootfs` EIO."""

    def lie(document: Json) -> None:
        document["entries"][0]["mode"] = 0o4777

    digest = stored.add(estargz(archive(file(b"a", b"1")), lie))
    images = stored.images()
    assert stored.rootfs(digest, images).resolve(b"a").mode & 0o7777 == 0o4777
    with pytest.raises(LayerInvalid, match="differs from the archive: b'a'"):
        stored.index(digest)
    for each in (stored.images(), images):  # the second one had it open by its table
        with pytest.raises(LayerInvalid, match="differs from the archive"):
            stored.rootfs(digest, each)


def test_chunks_that_lie_are_errors(stored: Stored) -> None:
    def lie(document: Json) -> None:
        document["entries"][0]["chunkDigest"] = str(Digest.of(b"2"))

    rootfs = stored.rootfs(stored.add(estargz(archive(file(b"a", b"1")), lie)))
    with pytest.raises(DigestMismatch):
        _content(rootfs, b"a")


def test_layer_whose_table_is_of_no_use_is_read_in_full_with_one_message(
    stored: Stored, caplog: pytest.LogCaptureFixture
) -> None:
    """[S21.12] The layer is read in full, and the log says why."""
    tabled = estargz(LOW, lambda document: document.update(version=2))
    digest = stored.add(tabled)
    with caplog.at_level(logging.WARNING):
        rootfs = stored.rootfs(digest)
        assert _content(rootfs, b"d/random") == RANDOM
        stored.rootfs(digest)
    (record,) = caplog.records
    assert "its version is 2, not 1" in record.getMessage()


def test_two_tables_of_one_layer_and_its_archive_are_not_mixed(stored: Stored) -> None:
    def other(document: Json) -> None:
        document["entries"][1]["name"] = "c"

    content = archive(file(b"a", b"1"), file(b"b", b"2"))
    plain, renamed = zstd_chunked(content), zstd_chunked(content, other)
    position, size, *_ = renamed.annotations[CHUNKED_POSITION].split(":")
    moved = f"{len(plain.blob) + 8}:{size}:1:1"
    blob = plain.blob + renamed.blob[int(position) - 8 :]
    images = stored.images()
    for noted, name in (
        (plain.annotations, b"b"),
        (renamed.annotations | {CHUNKED_POSITION: moved}, b"c"),
        ({}, b"b"),
    ):
        rootfs = stored.rootfs(stored.add(TabledLayer(blob, content, noted)), images)
        assert list(rootfs.names(ROOT)) == [b"a", name]
        assert _content(rootfs, name) == b"2"


def test_layer_by_containerds_library_has_what_its_archive_has(stored: Stored) -> None:
    blob = estargz_sample.BLOB
    tabled = TabledLayer(blob, gzip.decompress(blob), {ESTARGZ: estargz_sample.DIGEST})
    digest = stored.add(tabled)
    stored.driver.readers.clear()
    found = tree_of(stored.rootfs(digest))
    assert found == tree_of(stored.index(digest))
    assert found[b"/d/f"].content == b"x" * 250_000
    assert found[b"/d/f"].names == {b"/d/f", b"/hard"}
    assert {b"/stargz.index.json", b"/.no.prefetch.landmark"} <= found.keys()


@pytest.mark.registry
@pytest.mark.usefixtures("as_root")
def test_tree_by_tables_is_that_of_umoci(stored: Stored, tmp_path: Path) -> None:
    """[S21.4] `rootfs` is what `umoci unpack` makes of the layers as root"""
    layers = [ARCHIVE, LOW, HIGH, archive(member(b"d/precise", b"1"), hardlink(b"h", b"d/precise"))]
    tabled = [estargz(layer, is_listed=number % 2 == 0) for number, layer in enumerate(layers)]
    layout = LayerImages(tmp_path / "layout")
    layout.add_blobs("v1", image_of(*tabled))
    expected, failure = unpacked(layout, "v1", tmp_path / "bundle")
    assert not failure
    assert differences(tree_of(stored.rootfs(stored.add(*tabled))), expected) == []

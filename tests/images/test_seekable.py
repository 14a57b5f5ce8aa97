"""Random access to layers: reads equal the archive, and read and keep no more than they need."""

import random
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blobfs.concurrency import TakesLong, waiting
from blobfs.drivers.base import FileReader
from blobfs.drivers.prefetch.driver import ReadAheadDriver, ReadAheadOptions
from blobfs.errors import Corrupt, StorageFull
from blobfs.images.index_store import IndexStore
from blobfs.images.layer_index import MAX_SPAN
from blobfs.images.seekable import KIND, SeekableLayer, SpanCache, open_archive
from tests.support.compressed_layers import (
    CountingReader,
    archive,
    estargz,
    gzipped,
    indexed,
    member,
    parallel_gzipped,
    zstandard,
    zstd_frames,
)
from tests.support.remote_driver import RemoteDriver

_WRITERS: Final[Mapping[str, Callable[[], bytes]]] = {
    "gzip": lambda: gzipped(archive()),
    "gzip -9": lambda: gzipped(archive(), 9),
    "stored": lambda: gzipped(archive(), 1),
    "parallel gzip": lambda: parallel_gzipped(archive()),
    "eStargz": lambda: estargz(archive()),
    "zstd frames": lambda: zstd_frames(archive()),
    "zstd": lambda: zstandard(archive()),
    "tar": archive,
}


class Layers:
    """Layers of the same archive, by the program that has compressed it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = IndexStore(directory / "store", 10**9)
        self.blobs = {name: write() for name, write in _WRITERS.items()}
        self.indexes = {name: indexed(self.blobs[name], directory / name) for name in _WRITERS}

    def reader(self, name: str, spans: SpanCache | None = None) -> FileReader:
        blob = CountingReader(self.blobs[name])
        return open_archive(self.store, self.indexes[name], blob, spans or SpanCache())


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layers]:
    found = Layers(tmp_path_factory.mktemp("layers"))
    yield found
    for index in found.indexes.values():
        index.close()


@pytest.fixture(scope="module")
def open_layers(layers: Layers) -> Iterator[Mapping[str, FileReader]]:
    found = {name: layers.reader(name) for name in _WRITERS}
    yield found
    for reader in found.values():
        reader.close()


@pytest.mark.parametrize("name", _WRITERS)
def test_whole_layer_is_the_archive(name: str, layers: Layers) -> None:
    with layers.reader(name) as reader:
        assert reader.size == len(archive())
        assert b"".join(reader.chunks(2**17)) == archive()


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(list(_WRITERS)),
    offset=st.integers(0, 31_000_000),
    size=st.one_of(st.integers(0, 4096), st.integers(0, 9 * 2**20)),
)
def test_any_read_is_a_slice_of_the_archive(
    open_layers: Mapping[str, FileReader], name: str, offset: int, size: int
) -> None:
    expected = archive()[offset : offset + size]
    reader = open_layers[name]
    assert reader.read_at(offset, size) == expected
    at_once = reader.read_nowait(offset, size)
    assert at_once is None or bytes(at_once) == expected


@pytest.mark.parametrize("name", ["gzip", "eStargz", "zstd frames"])
def test_read_at_each_bound_of_a_span_is_a_slice(name: str, layers: Layers) -> None:
    index = layers.indexes[name]
    with layers.reader(name) as reader:
        for number in range(1, index.span_number(index.size - 1) + 1):
            start = index.span_start(number)
            for offset in (start - 1, start, start + 1):
                assert reader.read_at(offset, 3) == archive()[offset : offset + 3]


@pytest.mark.parametrize("name", ["gzip", "parallel gzip", "eStargz", "zstd frames"])
def test_small_read_reads_one_span_of_the_blob(name: str, layers: Layers) -> None:
    index = layers.indexes[name]
    offset = len(archive()) // 2
    blob = CountingReader(layers.blobs[name])
    SeekableLayer(blob, index, SpanCache()).read_at(offset, 100)
    span = index.span(index.span_number(offset))
    assert blob.bytes_read == span.end - span.point.position
    assert span.size <= MAX_SPAN


def test_small_read_of_a_remote_layer_is_one_request(layers: Layers) -> None:
    blob = layers.blobs["gzip"]
    remote = RemoteDriver()
    remote.put_content("/blob", blob)
    with ReadAheadDriver(remote, ReadAheadOptions()).open("/blob", len(blob)) as reader:
        SeekableLayer(reader, layers.indexes["gzip"], SpanCache()).read_at(15_000_000, 100)
        ((_, size),) = remote.requests
        assert size < MAX_SPAN


def test_streams_side_by_side_decompress_each_span_once(layers: Layers) -> None:
    blob = CountingReader(layers.blobs["gzip"])
    spans = SpanCache()
    layer = SeekableLayer(blob, layers.indexes["gzip"], spans)
    starts = (0, 10_000_000, 20_000_000)
    for step in range(0, 10_000_000, 2**17):
        for start in starts:
            assert layer.read_at(start + step, 2**17) == archive()[start + step :][: 2**17]
    count = layers.indexes["gzip"].span_number(len(archive())) + 1
    assert spans.decompressed <= count
    assert blob.bytes_read <= len(blob.read_at(0, 2**30)) + count


def test_threads_share_one_layer(layers: Layers) -> None:
    spans = SpanCache(10 * 2**20)
    layer = SeekableLayer(CountingReader(layers.blobs["gzip"]), layers.indexes["gzip"], spans)

    def read(seed: int) -> bool:
        chance = random.Random(seed)
        offsets = [chance.randrange(len(archive())) for _ in range(10)]
        return all(layer.read_at(at, 2**17) == archive()[at : at + 2**17] for at in offsets)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(read, range(6)))


def test_threads_that_read_one_span_decompress_it_once(layers: Layers) -> None:
    spans = SpanCache()
    layer = SeekableLayer(CountingReader(layers.blobs["gzip"]), layers.indexes["gzip"], spans)
    barrier = threading.Barrier(6)

    def read(_: int) -> bytes:
        barrier.wait()
        return layer.read_at(5_000_000, 1000)

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(read, range(6))) == {archive()[5_000_000:5_001_000]}
    assert spans.decompressed == 1


def test_cache_keeps_its_limit(layers: Layers) -> None:
    spans = SpanCache(1)
    layer = SeekableLayer(CountingReader(layers.blobs["gzip"]), layers.indexes["gzip"], spans)
    for _ in range(2):
        assert layer.read_at(100, 1000) == archive()[100:1100]
    assert spans.decompressed == 2
    assert layer.read_nowait(100, 1000) is None


def test_event_loop_reads_only_what_is_decompressed(layers: Layers) -> None:
    with layers.reader("gzip") as layer, waiting:
        assert layer.read_nowait(0, 100) is None
        with pytest.raises(TakesLong):
            layer.read_at(0, 100)
    with layers.reader("gzip") as layer:
        layer.read_at(0, 100)
        with waiting:
            assert layer.read_nowait(50, 100) == archive()[50:150]
            assert layer.read_at(50, 100) == archive()[50:150]
            assert layer.read_nowait(len(archive()), 100) == b""


def test_changed_blob_is_a_mismatch_and_never_wrong_bytes(layers: Layers) -> None:
    chance = random.Random(5)
    for name in ("tar", "gzip", "parallel gzip", "zstd frames"):
        index = layers.indexes[name]
        for _ in range(4):
            changed = bytearray(layers.blobs[name])
            position = chance.randrange(len(changed))
            changed[position] ^= 0x10
            layer = SeekableLayer(CountingReader(bytes(changed)), index, SpanCache())
            failed = 0
            for offset in range(0, len(archive()), 2**20):
                try:
                    is_same = layer.read_at(offset, 2**20) == archive()[offset : offset + 2**20]
                    assert is_same  # without a comparison of a mebibyte in the report
                except Corrupt:
                    failed += 1
            assert failed < len(archive()) / 2**20 / 2


def test_truncated_blob_is_an_error(layers: Layers) -> None:
    blob = CountingReader(layers.blobs["gzip"][:-2_000_000])
    with pytest.raises(Corrupt):
        SeekableLayer(blob, layers.indexes["gzip"], SpanCache()).read_at(len(archive()) - 10, 10)


def test_layer_in_one_frame_is_decompressed_into_the_store_once(
    layers: Layers, tmp_path: Path
) -> None:
    store = IndexStore(tmp_path, 10**9)
    index = layers.indexes["zstd"]
    for bytes_read in (len(layers.blobs["zstd"]), 0):
        blob = CountingReader(layers.blobs["zstd"])
        with open_archive(store, index, blob, SpanCache()) as reader:
            assert reader.read_at(12_345_678, 1000) == archive()[12_345_678:][:1000]
            assert reader.size == len(archive())
        assert blob.bytes_read == bytes_read
        assert blob.is_closed
    assert store.used() >= len(archive())


def test_changed_layer_is_not_decompressed_into_the_store(layers: Layers, tmp_path: Path) -> None:
    blob = zstandard(archive()[:-1] + b"x")
    store = IndexStore(tmp_path, 10**9)
    with pytest.raises(Corrupt):
        open_archive(store, layers.indexes["zstd"], CountingReader(blob), SpanCache())
    assert store.find(KIND, layers.indexes["zstd"].digest) is None


def test_layer_in_one_frame_over_the_limit_is_refused(layers: Layers, tmp_path: Path) -> None:
    blob = CountingReader(layers.blobs["zstd"])
    with pytest.raises(StorageFull, match="--index-size"):
        open_archive(IndexStore(tmp_path, 10**6), layers.indexes["zstd"], blob, SpanCache())
    assert blob.bytes_read == 0


def test_layer_with_a_long_span_of_the_blob_is_not_seekable(tmp_path: Path) -> None:
    empty = b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * MAX_SPAN + b"\0" + member(b"")[10:]
    blob = member(bytes(5 * 2**20)) + empty
    with indexed(blob, tmp_path / "index") as index:
        assert index.size == 5 * 2**20
        assert not index.is_seekable


def test_bomb_of_zeros_can_be_read_at_any_place(tmp_path: Path) -> None:
    command = "head --bytes=100000000 /dev/zero | gzip --stdout -9"
    blob = subprocess.run(["sh", "-c", command], check=True, stdout=subprocess.PIPE).stdout
    with indexed(blob, tmp_path / "index") as index:
        layer = SeekableLayer(CountingReader(blob), index, SpanCache())
        assert index.is_seekable
        assert layer.read_at(99_999_990, 100) == bytes(10)
        assert layer.read_at(50_000_000, 100) == bytes(100)

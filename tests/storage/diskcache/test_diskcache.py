"""What is read from a cache of blobs, and what becomes an entry of it."""

import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blobfs.drivers.prefetch.driver import ReadAheadDriver, ReadAheadOptions
from blobfs.errors import MountRefused, PathNotFound, StorageUnavailable
from blobfs.storage.diskcache.cache import CachedDriver, CacheOptions
from tests.support.disk_cache import caching, content, put
from tests.support.remote_driver import KIB, MIB, RemoteDriver

BLOB = content(1)


@pytest.mark.parametrize("size", [1, 100, 256 * KIB, 256 * KIB + 1, MIB, 3 * MIB + 7])
@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_what_was_read_once_is_not_asked_for_again(
    tmp_path: Path, size: int, algorithm: str
) -> None:
    blob = content(size, size)
    with caching(tmp_path) as cached:
        path = put(cached.remote, blob, algorithm)
        assert cached.is_asked(path, blob)
        cached.until("stored", 1)
        assert not cached.is_asked(path, blob)
        assert cached.temporary() == []


def test_entry_outlives_the_mount(tmp_path: Path) -> None:
    with caching(tmp_path) as cached:
        [path] = cached.store(BLOB)
    with caching(tmp_path, cached.remote) as cached:
        assert not cached.is_asked(path, BLOB)


def test_entry_is_served_while_the_store_does_not_answer(tmp_path: Path) -> None:
    def fail(_offset: int, _data: bytes) -> bytes:
        raise StorageUnavailable("gone")

    with caching(tmp_path) as cached:
        [path] = cached.store(BLOB)
        cached.remote.answer = fail
        assert cached.read(path) == BLOB


def test_open_asks_the_store_whether_the_blob_is_there(tmp_path: Path) -> None:
    with caching(tmp_path) as cached:
        [path] = cached.store(BLOB)
        with cached.driver.open(path) as reader:
            assert (reader.size, reader.read_at(0, MIB)) == (MIB, BLOB)
        cached.remote.delete(path)
        with pytest.raises(PathNotFound):
            cached.driver.open(path)


@pytest.mark.parametrize("offset", [0, 1, 256 * KIB - 1, 256 * KIB, 600 * KIB, MIB - 1, MIB])
@pytest.mark.parametrize("size", [0, 1, 256 * KIB, 300 * KIB, 2 * MIB])
def test_any_range_of_an_entry_is_right(tmp_path: Path, offset: int, size: int) -> None:
    with caching(tmp_path) as cached:
        [path] = cached.store(BLOB)
        before = len(cached.remote.requests)
        assert cached.read_at(path, offset, size) == BLOB[offset : offset + size]
        assert len(cached.remote.requests) == before


def test_reader_that_stays_open_goes_over_to_the_entry(tmp_path: Path) -> None:
    with caching(tmp_path) as cached:
        path = put(cached.remote, BLOB)
        with cached.driver.open(path) as reader:
            assert b"".join(reader.chunks()) == BLOB
            cached.until("stored", 1)
            before = len(cached.remote.requests)
            assert b"".join(reader.chunks()) == BLOB
            assert len(cached.remote.requests) == before


def test_other_files_are_not_cached(tmp_path: Path) -> None:
    with caching(tmp_path) as cached:
        for path in ("/docker/registry/v2/blobs/sha256/ab/data", "/docker/registry/v2/x/data"):
            cached.remote.put_content(path, BLOB)
            assert cached.is_asked(path, BLOB)
            assert cached.is_asked(path, BLOB)
        assert cached.temporary() == []


def test_empty_blob_is_read(tmp_path: Path) -> None:
    with caching(tmp_path) as cached:
        assert cached.read(put(cached.remote, b"")) == b""


def test_halves_read_by_two_readers_make_an_entry(tmp_path: Path) -> None:
    with caching(tmp_path) as cached:
        path = put(cached.remote, BLOB)
        cached.read_at(path, 0, MIB // 2)
        assert cached.count("stored") == 0
        cached.read_at(path, MIB // 2, MIB // 2)
        cached.until("stored", 1)
        assert not cached.is_asked(path, BLOB)


def test_blob_that_is_not_its_digest_is_read_and_not_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caching(tmp_path) as cached:
        path = put(cached.remote, BLOB)
        cached.remote.put_content(path, BLOB[:-1] + b"x")
        assert cached.read(path) == BLOB[:-1] + b"x"
        cached.until("mismatched", 1)
        cached.remote.until(lambda: not cached.temporary())
        assert not cached.entry(path).exists()
    assert [record.message for record in caplog.records] == [
        f"blob sha256:{Path(path).parent.name} is not cached: it does not match its digest"
    ]


def test_failed_read_is_told_and_made_good_later(tmp_path: Path) -> None:
    def fail(offset: int, data: bytes) -> bytes:
        if offset:
            raise StorageUnavailable("gone")
        return data

    with caching(tmp_path) as cached:
        path = put(cached.remote, BLOB)
        cached.remote.answer = fail
        with pytest.raises(StorageUnavailable):
            cached.read(path)
        cached.remote.answer = lambda _offset, data: data
        assert cached.read(path) == BLOB
        cached.until("stored", 1)


def test_short_answers_make_no_entry(tmp_path: Path) -> None:
    with caching(tmp_path) as cached:
        path = put(cached.remote, BLOB)
        cached.remote.answer = lambda _offset, data: data[:-1]
        with cached.driver.open(path) as reader:
            for offset in range(0, MIB, 64 * KIB):
                assert len(reader.read_at(offset, 64 * KIB)) == 64 * KIB - 1
        assert cached.count("stored") == 0


def test_reading_ahead_fills_it_and_reads_from_it(tmp_path: Path) -> None:
    blob = content(2, 8 * MIB)
    options = ReadAheadOptions(memory=4 * MIB, part=MIB, first=64 * KIB, hedge_after_s=60)
    remote = RemoteDriver()
    path = put(remote, blob)
    asked = []
    for _ in range(2):
        with (
            caching(tmp_path, remote) as cached,
            closing(ReadAheadDriver(cached.driver, options)) as driver,
        ):
            with driver.open(path, len(blob)) as reader:
                assert b"".join(reader.chunks(128 * KIB)) == blob
            cached.remote.until(cached.entry(path).exists)
        asked.append(len(remote.requests))
    assert asked[0] == asked[1]


def test_eight_readers_side_by_side(tmp_path: Path) -> None:
    blobs = [content(seed, 3 * MIB + seed) for seed in range(4)]
    with caching(tmp_path, size=8 * MIB) as cached:  # so that entries go meanwhile
        stored = [put(cached.remote, blob) for blob in blobs]

        def read(seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(12):
                index = chance.randrange(len(blobs))
                offsets = list(range(0, len(blobs[index]), 300 * KIB))
                chance.shuffle(offsets)
                with cached.driver.open(stored[index]) as reader:
                    for offset in offsets:
                        expected = blobs[index][offset : offset + 300 * KIB]
                        assert reader.read_at(offset, 300 * KIB) == expected

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(read, range(8)))
        cached.until("stored", 1)
        assert cached.count("failures") == 0
        assert cached.count("damaged") == 0


def test_eight_threads_share_one_reader(tmp_path: Path) -> None:
    blob = content(3, 6 * MIB)
    with caching(tmp_path) as cached, ThreadPoolExecutor(8) as threads:
        path = put(cached.remote, blob)
        with cached.driver.open(path) as reader:
            parts = threads.map(lambda n: reader.read_at(n * 64 * KIB, 64 * KIB), range(96))
            assert b"".join(parts) == blob
        cached.until("stored", 1)
        assert not cached.is_asked(path, blob)


SMALL = content(4, 600_000)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, len(SMALL) + 10), st.integers(0, 300_000), st.booleans()),
        max_size=12,
    )
)
def test_any_order_of_reads_is_right_and_only_all_of_it_is_an_entry(
    tmp_path_factory: pytest.TempPathFactory, reads: list[tuple[int, int, bool]]
) -> None:
    with caching(tmp_path_factory.mktemp("cache")) as cached:
        path = put(cached.remote, SMALL)
        lacking = bytearray(b"x" * len(SMALL))
        reader = cached.driver.open(path)
        for offset, size, reopen in reads:
            if reopen:
                reader.close()
                reader = cached.driver.open(path)
            assert reader.read_at(offset, size) == SMALL[offset : offset + size]
            end = min(offset + size, len(SMALL))
            lacking[offset:end] = bytes(max(0, end - offset))
        reader.close()
        if any(lacking):
            assert cached.count("stored") == 0
        else:
            cached.until("stored", 1)
            assert not cached.is_asked(path, SMALL)
        cached.driver.close()
        assert cached.entry(path).exists() is not any(lacking)
        assert cached.temporary() == []


def test_stats_count_reads_and_entries(tmp_path: Path) -> None:
    with caching(tmp_path) as cached:
        [path] = cached.store(BLOB)
        cached.read(path, step=MIB)
        counted = cached.driver.stats()
        assert {name: counted[name] for name in ("hits", "misses", "stored", "evicted")} == {
            "hits": 1, "misses": 11, "stored": 1, "evicted": 0,
        }  # fmt: skip
        assert MIB <= counted["held_bytes"] <= MIB + 8 * KIB


def test_nothing_of_a_mount_but_entries_is_left(tmp_path: Path) -> None:
    with caching(tmp_path) as cached:
        [path] = cached.store(BLOB)
        cached.read_at(put(cached.remote, SMALL), 0, 1000)
        assert len(cached.temporary()) == 1
    files = {file.relative_to(tmp_path) for file in tmp_path.rglob("*") if file.is_file()}
    assert files == {Path("v1/lock"), cached.entry(path).relative_to(tmp_path)}


def test_what_is_complete_at_the_end_is_stored(tmp_path: Path) -> None:
    with caching(tmp_path) as cached:
        path = put(cached.remote, BLOB)
        cached.read(path)
    assert cached.entry(path).exists()


def test_entries_are_for_their_owner_only(tmp_path: Path) -> None:
    directory = tmp_path / "new"
    with caching(directory) as cached:
        [path] = cached.store(BLOB)
    entry = cached.entry(path)
    below = [directory, *entry.relative_to(directory).parents[:-1]]
    assert {(directory / part).stat().st_mode & 0o777 for part in below} == {0o700}
    assert entry.stat().st_mode & 0o777 == 0o600


def _refusal(directory: Path) -> str:
    with pytest.raises(MountRefused) as refused:
        CachedDriver.opened(RemoteDriver(), CacheOptions(directory))
    return str(refused.value)


def test_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    for mode in (0o777, 0o1777, 0o770, 0o702):
        tmp_path.chmod(mode)
        assert f"{tmp_path} cannot be used as a cache" in _refusal(tmp_path)


def test_directory_below_that_others_may_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1").chmod(0o777)
    assert f"{tmp_path / 'v1'} cannot" in _refusal(tmp_path)


def test_file_is_refused_as_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be used as a cache" in _refusal(tmp_path / "file")
    assert "cannot be used as a cache" in _refusal(tmp_path / "file/below")


def test_symlink_to_a_directory_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real").mkdir()
    with caching(tmp_path / "link") as cached:
        [path] = cached.store(BLOB)
        assert not cached.is_asked(path, BLOB)

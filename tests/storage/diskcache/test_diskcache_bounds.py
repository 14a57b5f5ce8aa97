"""How much a cache of blobs holds, and what goes first."""

import os
import random
import time
from pathlib import Path

from tests.support.disk_cache import Cached, caching, content, put
from tests.support.remote_driver import KIB, MIB


def _age(cached: Cached, path: str, hours: int) -> None:
    """Have an entry as if it was last used some hours ago."""
    used_s = time.time() - 3600 * hours
    os.utime(cached.entry(path), (used_s, used_s))


def test_many_blobs_take_no_more_than_they_may(tmp_path: Path) -> None:
    chance = random.Random(7)
    with caching(tmp_path, size=2 * MIB) as cached:
        for seed in range(40):
            cached.store(content(seed, chance.randrange(1, 400 * KIB)))
            assert cached.on_disk() <= 2 * MIB
        assert cached.on_disk() > MIB
        assert cached.count("held_bytes") >= cached.on_disk()
        assert cached.count("evicted") > 10
        assert cached.count("failures") == 0


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    blobs = [content(seed, 450 * KIB) for seed in range(5)]
    with caching(tmp_path, size=2 * MIB) as cached:
        stored = cached.store(*blobs[:4])
        for path, hours in zip(stored, (3, 9, 5, 7), strict=True):
            _age(cached, path, hours)
        cached.read(stored[3])  # the oldest but one
        stored += cached.store(blobs[4])
        kept = [cached.entry(path).exists() for path in stored]
        assert kept == [True, False, True, True, True]


def test_use_is_noted_once_a_minute(tmp_path: Path) -> None:
    with caching(tmp_path) as cached:
        [path] = cached.store(content(1))
        _age(cached, path, 1)
        cached.read(path)
        used_ns = cached.entry(path).stat().st_mtime_ns
        assert time.time_ns() - used_ns < 60 * 10**9
        cached.read(path)
        assert cached.entry(path).stat().st_mtime_ns == used_ns


def test_blob_larger_than_the_cache_is_not_cached(tmp_path: Path) -> None:
    with caching(tmp_path, size=MIB) as cached:
        small, large = content(1, 500 * KIB), content(2, MIB)  # with its checks it is too large
        [path] = cached.store(small)
        assert cached.read(put(cached.remote, large)) == large
        assert cached.temporary() == []
        assert not cached.is_asked(path, small)


def test_blob_as_large_as_the_cache_takes_all_of_it(tmp_path: Path) -> None:
    with caching(tmp_path, size=MIB + 4 * KIB) as cached:
        small, large = content(1, 500 * KIB), content(2, MIB)
        cached.store(small)
        [path] = cached.store(large)
        assert not cached.is_asked(path, large)
        assert cached.on_disk() <= MIB + 4 * KIB


def test_two_blobs_that_have_room_one_after_the_other_only(tmp_path: Path) -> None:
    one, other = content(1), content(2)
    with caching(tmp_path, size=MIB + 600 * KIB) as cached:
        readers = [cached.driver.open(put(cached.remote, blob)) for blob in (one, other)]
        for offset in range(0, MIB, 100 * KIB):
            for reader in readers:
                reader.read_at(offset, 100 * KIB)
            assert cached.on_disk() <= MIB + 600 * KIB
        for reader in readers:
            reader.close()
        cached.until("stored", 1)
        assert cached.count("failures") == 0


def test_beginnings_of_many_blobs_drive_out_no_entries(tmp_path: Path) -> None:
    with caching(tmp_path, size=4 * MIB) as cached:
        entries = cached.store(content(1), content(2), content(3))
        for seed in range(100, 200):
            cached.read_at(put(cached.remote, content(seed)), 0, 100 * KIB)
            assert cached.on_disk() <= 4 * MIB
        assert all(cached.entry(path).exists() for path in entries)
        assert 0 < len(cached.temporary()) <= 5


def test_pieces_here_and_there_take_no_more_than_they_may(tmp_path: Path) -> None:
    blob = content(1, 8 * MIB)
    chance = random.Random(1)
    with caching(tmp_path, size=9 * MIB) as cached:
        path = put(cached.remote, blob)
        with cached.driver.open(path) as reader:
            for _ in range(5000):
                offset = chance.randrange(len(blob))
                assert reader.read_at(offset, 10) == blob[offset : offset + 10]
        assert cached.on_disk() <= 9 * MIB
        assert cached.read(path) == blob


def test_what_was_only_begun_is_dropped_after_a_while(tmp_path: Path) -> None:
    with caching(tmp_path, idle_s=0.0) as cached:
        cached.read_at(put(cached.remote, content(1)), 0, 100)
        cached.remote.until(lambda: not cached.temporary())


def test_many_files_are_not_open_at_a_time(tmp_path: Path) -> None:
    with caching(tmp_path) as cached:
        before = len(os.listdir("/proc/self/fd"))
        stored = [put(cached.remote, content(seed, 100)) for seed in range(400)]
        readers = [cached.driver.open(path) for path in stored]
        for reader in readers:
            reader.read_at(0, 10)
        assert len(os.listdir("/proc/self/fd")) < before + 200
        for reader in readers:
            reader.close()


def test_free_space_is_left_to_others(tmp_path: Path) -> None:
    info = os.statvfs(tmp_path)
    with caching(tmp_path, min_free=2 * info.f_blocks * info.f_frsize) as cached:
        blob = content(1)
        path = put(cached.remote, blob)
        assert cached.is_asked(path, blob)
        assert cached.is_asked(path, blob)
        assert cached.temporary() == []
        assert cached.count("failures") == 0


def test_smaller_cache_in_the_next_mount_makes_entries_go(tmp_path: Path) -> None:
    with caching(tmp_path) as cached:
        cached.store(*(content(seed) for seed in range(4)))
    with caching(tmp_path, cached.remote, size=2 * MIB) as cached:
        cached.store(content(9, 100 * KIB))
        assert cached.on_disk() <= 2 * MIB

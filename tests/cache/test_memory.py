"""The cache in memory is bounded; and none is none."""

from blobfs.cache.memory import MemoryCache, NoCache
from tests.support.cache_samples import ONE, described

BLOBS = [described(b"%d" % number) for number in range(4)]


def _known(cache: MemoryCache) -> list[bool]:
    return [descriptor is not None for descriptor in cache.stat_many([b.digest for b in BLOBS])]


def test_oldest_entry_makes_room() -> None:
    cache = MemoryCache(3)
    for blob in BLOBS:
        cache.set(blob.digest, blob)
    assert _known(cache) == [False, True, True, True]


def test_entry_that_is_used_stays() -> None:
    cache = MemoryCache(3)
    for blob in BLOBS[:3]:
        cache.set(blob.digest, blob)
    cache.stat(BLOBS[0].digest)
    cache.set(BLOBS[3].digest, BLOBS[3])
    assert _known(cache) == [True, False, True, True]


def test_entry_that_is_set_again_stays() -> None:
    cache = MemoryCache(3)
    for blob in [*BLOBS[:3], BLOBS[0], BLOBS[3]]:
        cache.set(blob.digest, blob)
    assert _known(cache) == [True, False, True, True]


def test_what_a_repository_has_counts_too() -> None:
    cache = MemoryCache(3)
    for blob in BLOBS:
        cache.set(blob.digest, blob, ONE)
    assert [cache.stat(blob.digest, ONE) for blob in BLOBS] == [None, None, None, BLOBS[3]]


def test_entry_is_believed_for_its_time_and_no_longer() -> None:
    now = 100.0
    cache = MemoryCache(ttl_s=10, clock=lambda: now)
    cache.set(BLOBS[0].digest, BLOBS[0], ONE)
    now = 109.0
    assert cache.stat(BLOBS[0].digest, ONE) == BLOBS[0], "which makes it last no longer"
    now = 110.0
    assert cache.stat(BLOBS[0].digest, ONE) is None
    assert cache.stat(BLOBS[0].digest) is None
    cache.set(BLOBS[0].digest, BLOBS[0], ONE)
    assert cache.stat(BLOBS[0].digest, ONE) == BLOBS[0]


def test_no_time_to_live_is_no_memory() -> None:
    cache = MemoryCache(ttl_s=0)
    cache.set(BLOBS[0].digest, BLOBS[0])
    assert cache.stat(BLOBS[0].digest) is None


def test_memory_is_local() -> None:
    assert MemoryCache().is_local


def test_none_remembers_nothing() -> None:
    cache = NoCache()
    cache.set(BLOBS[0].digest, BLOBS[0], ONE)
    cache.clear(BLOBS[0].digest, ONE)
    assert cache.stat(BLOBS[0].digest) is None
    assert cache.stat_many([blob.digest for blob in BLOBS], ONE) == [None] * 4
    cache.close()

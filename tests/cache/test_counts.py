"""What caches count of themselves, and what is exported of it."""

from collections.abc import Callable
from contextlib import closing

import pytest

from blobfs import metrics
from blobfs.cache.base import DescriptorCache
from blobfs.cache.factory import cache_for
from blobfs.cache.memory import MemoryCache
from blobfs.cache.redis.cache import RedisCache
from blobfs.fuse.stats import timings
from tests.support.cache_samples import ONE, OTHER, described
from tests.support.redis_server import RedisServer

BLOB = described(b"a blob")


def _added(counts: Callable[[], dict[str, int]], call: Callable[[], object]) -> dict[str, int]:
    before = counts()
    call()
    return {name: count - before.get(name, 0) for name, count in counts().items()}


def _look(cache: DescriptorCache) -> None:
    """A hit, and two misses: a digest, and a repository."""
    cache.stat_many([BLOB.digest, described(b"another").digest], ONE)
    cache.stat(BLOB.digest, OTHER)


def test_memory_counts_each_digest() -> None:
    cache = MemoryCache()
    cache.set(BLOB.digest, BLOB, ONE)
    _look(cache)
    expected = {"requests": 3, "hits": 1, "misses": 2, "errors": 0, "skipped": 0}
    assert cache.stats() == expected


def test_cache_of_a_mount_is_exported() -> None:
    def exported() -> dict[str, int]:
        return dict(metrics.CACHE.totals()["memory",])

    with closing(cache_for("memory")) as cache:
        cache.set(BLOB.digest, BLOB, ONE)
        added = _added(exported, lambda: _look(cache))
    assert (added["requests"], added["hits"], added["misses"]) == (3, 1, 2)


@pytest.mark.redis
def test_calls_of_redis_are_timed(redis_cache: RedisCache) -> None:
    def timed() -> dict[str, int]:
        found = timings(metrics.REDIS_SECONDS).items()
        return {operation: timing.count for (operation,), timing in found}

    def use() -> None:
        redis_cache.stat(BLOB.digest, ONE)
        redis_cache.set(BLOB.digest, BLOB, ONE)
        redis_cache.clear(BLOB.digest, ONE)

    assert _added(timed, use) == {"stat": 1, "set": 1, "clear": 1}


@pytest.mark.redis
def test_lookup_that_fails_is_a_miss_and_an_error(redis_server: RedisServer) -> None:
    url = redis_server.url.replace("redis://", "redis://nobody:wrong@")
    with closing(cache_for(url)) as cache:
        _look(cache)
        counts = cache.stats()
    assert (counts["requests"], counts["hits"], counts["misses"]) == (3, 0, 3)
    assert counts["errors"] == 2

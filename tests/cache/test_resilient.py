"""A real Redis in trouble: no call fails or waits for it, and it is used again within 5 s."""

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Final

import pytest

from blobfs.cache.redis.cache import RedisCache
from blobfs.cache.redis.options import RedisOptions
from blobfs.cache.resilient import ResilientCache
from tests.support.cache_samples import ONE, OTHER, described, eventually
from tests.support.redis_server import RedisServer, Trouble, locked, paused, stopped

pytestmark = pytest.mark.redis

BLOB = described(b"a layer")

RECOVERY_S: Final = 5.0
LIMIT_S: Final = 0.2  # not 50 ms: a machine that is busy is no server in trouble
WORST_S: Final = 1.0  # of one call


@pytest.fixture
def cache(own_redis: RedisServer) -> Iterator[ResilientCache]:
    with closing(_cache(own_redis)) as cache:
        yield cache


def _cache(server: RedisServer) -> ResilientCache:
    return ResilientCache(RedisCache(RedisOptions.parse(server.url), LIMIT_S))


def _knows(cache: ResilientCache) -> bool:
    """Whether the cache remembers what it is told, now."""
    cache.stat(BLOB.digest, ONE)
    cache.set(BLOB.digest, BLOB, ONE)
    return cache.stat(BLOB.digest, ONE) == BLOB


def _give_up(cache: ResilientCache) -> None:
    """Ask until nobody is waited for, and some more."""
    for _ in range(100):
        start_s = time.monotonic()
        assert cache.stat(BLOB.digest, ONE) is None
        cache.set(BLOB.digest, BLOB, ONE)
        assert time.monotonic() - start_s < WORST_S
    assert cache.stats()["errors"] < 10
    assert cache.stats()["skipped"] > 180


@pytest.mark.parametrize("trouble", [paused, stopped, locked])
def test_server_in_trouble_is_left_alone_and_used_again(
    cache: ResilientCache,
    own_redis: RedisServer,
    trouble: Trouble,
) -> None:
    assert eventually(lambda: _knows(cache), RECOVERY_S)
    end = trouble(own_redis)
    _give_up(cache)
    end()
    assert eventually(lambda: _knows(cache), RECOVERY_S)


def test_server_need_not_be_there_at_first(cache: ResilientCache, own_redis: RedisServer) -> None:
    own_redis.kill()
    _give_up(cache)
    own_redis.start()
    assert eventually(lambda: _knows(cache), RECOVERY_S)


def test_threads_do_not_wait_either(cache: ResilientCache, own_redis: RedisServer) -> None:
    own_redis.pause()

    def ask(_: int) -> float:
        start_s = time.monotonic()
        assert cache.stat(BLOB.digest) is None
        return time.monotonic() - start_s

    with ThreadPoolExecutor(16) as threads:
        assert max(threads.map(ask, range(200))) < WORST_S
    assert cache.stats()["errors"] <= 20
    own_redis.resume()


def test_server_that_was_emptied_is_told_again(
    cache: ResilientCache, own_redis: RedisServer
) -> None:
    assert eventually(lambda: _knows(cache), RECOVERY_S)
    with closing(own_redis.client()) as client:
        client.flushall()
    assert cache.stat(BLOB.digest, ONE) is None
    assert eventually(lambda: _knows(cache), RECOVERY_S)


def test_server_that_is_full_answers_and_is_told_nothing(
    cache: ResilientCache, own_redis: RedisServer
) -> None:
    assert eventually(lambda: _knows(cache), RECOVERY_S)
    with closing(own_redis.client()) as client:
        client.config_set("maxmemory", "1mb")
        for number in range(100):
            another = described(b"%d" % number)
            cache.set(another.digest, another)
            assert cache.stat(BLOB.digest, ONE) == BLOB
        assert cache.stats()["errors"] < 10
        assert cache.stats()["skipped"] > 90
        client.config_set("maxmemory", "0")
    another = described(b"another")

    def remembers() -> bool:
        cache.set(another.digest, another)
        return cache.stat(another.digest) == another

    assert eventually(remembers, RECOVERY_S)


def test_nothing_is_set_after_a_lookup_that_failed(
    cache: ResilientCache, own_redis: RedisServer
) -> None:
    own_redis.kill()
    cache.stat(BLOB.digest)
    own_redis.start()
    cache.set(BLOB.digest, BLOB)
    with closing(own_redis.client()) as client:
        assert client.dbsize() == 0


def test_each_change_is_logged_once(
    cache: ResilientCache, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "blobfs")
    own_redis.kill()
    _give_up(cache)
    own_redis.start()
    assert eventually(lambda: _knows(cache), RECOVERY_S)
    [given_up, working] = caplog.records
    assert (given_up.levelname, working.levelname) == ("WARNING", "INFO")
    assert f"lookups fail, doing without: {own_redis.url}: " in given_up.getMessage()
    assert "lookups work again" in working.getMessage()
    assert own_redis.url in working.getMessage()


def test_hits_and_misses_are_counted(cache: ResilientCache) -> None:
    assert eventually(lambda: _knows(cache), RECOVERY_S)
    before = cache.stats()
    cache.stat_many([BLOB.digest, described(b"another").digest], ONE)
    cache.stat(BLOB.digest, OTHER)
    now = cache.stats()
    assert (now["hits"] - before["hits"], now["misses"] - before["misses"]) == (1, 2)


@pytest.mark.parametrize("trouble", [paused, locked])
def test_clear_that_failed_is_made_again(
    cache: ResilientCache,
    own_redis: RedisServer,
    trouble: Trouble,
) -> None:
    """Else a blob that was deleted meanwhile would be had again afterwards, by all."""
    assert eventually(lambda: _knows(cache), RECOVERY_S)
    end = trouble(own_redis)
    cache.clear(BLOB.digest, ONE)
    end()
    seen = []

    def is_cleared() -> bool:
        seen.append(cache.stat(BLOB.digest, ONE))
        return client.dbsize() == 0

    with closing(own_redis.client()) as client:
        assert eventually(is_cleared, RECOVERY_S)
    assert set(seen) == {None}, "what was to be cleared is never found"
    assert eventually(lambda: _knows(cache), RECOVERY_S)


def test_clears_that_are_owed_are_made_at_the_end(
    cache: ResilientCache, own_redis: RedisServer
) -> None:
    assert eventually(lambda: _knows(cache), RECOVERY_S)
    with closing(_cache(own_redis)) as other:
        let_in = locked(own_redis)
        for _ in range(5):
            other.clear(BLOB.digest, ONE)
        assert (other.stats()["errors"], other.stats()["skipped"]) == (3, 2)
        let_in()
    with closing(own_redis.client()) as client:
        assert client.dbsize() == 0


def test_clears_that_cannot_be_made_are_told_at_the_end(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    own_redis.kill()
    with closing(_cache(own_redis)) as cache:
        cache.clear_many([BLOB.digest, described(b"another").digest], ONE)
    assert "2 clears were never made" in caplog.text

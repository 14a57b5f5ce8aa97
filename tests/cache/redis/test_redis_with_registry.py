"""A real registry and the cache share one Redis: each knows what the other wrote."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from blobfs.cache.redis.cache import RedisCache
from blobfs.digest import Descriptor
from blobfs.reference import RepositoryName
from tests.support.cached_registry import SMALL, CachedRegistry
from tests.support.redis_server import RedisServer
from tests.support.services import delete_blob

pytestmark = [pytest.mark.redis, pytest.mark.registry]


@pytest.fixture
def pushed(
    redis_server: RedisServer, redis_client: Redis, tmp_path: Path
) -> Iterator[CachedRegistry]:
    """Its descriptor cache is the server that ``redis_cache`` is in."""
    with CachedRegistry.serving(tmp_path, redis_server) as registry:
        yield registry


def test_what_the_registry_wrote_is_known(pushed: CachedRegistry, redis_cache: RedisCache) -> None:
    pushed.size_told()
    assert redis_cache.stat(pushed.digest, SMALL) == Descriptor(pushed.digest, pushed.size)
    assert redis_cache.stat(pushed.digest, RepositoryName("library/other")) is None


def test_what_we_wrote_the_registry_knows(
    pushed: CachedRegistry, redis_cache: RedisCache, redis_client: Redis
) -> None:
    redis_client.flushall()
    redis_cache.set(pushed.digest, Descriptor(pushed.digest, 17, mtime_ns=1), SMALL)
    assert pushed.size_told() == 17, "it did not look at the blob"


def test_what_we_cleared_the_registry_looks_up(
    pushed: CachedRegistry, redis_cache: RedisCache
) -> None:
    redis_cache.set(pushed.digest, Descriptor(pushed.digest, 17), SMALL)
    redis_cache.clear(pushed.digest, SMALL)
    assert pushed.size_told() == pushed.size
    assert redis_cache.stat(pushed.digest, SMALL) == Descriptor(pushed.digest, pushed.size)


def test_what_the_registry_deleted_is_not_known(
    pushed: CachedRegistry, redis_cache: RedisCache
) -> None:
    pushed.size_told()
    delete_blob(pushed.address, SMALL, str(pushed.digest))
    assert redis_cache.stat(pushed.digest, SMALL) is None

"""The caches that the conformance suite is run against, each bare and made resilient."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from redis import Redis

from blobfs.cache.base import DescriptorCache
from blobfs.cache.memory import MemoryCache
from blobfs.cache.redis.cache import RedisCache
from blobfs.cache.redis.options import RedisOptions
from blobfs.cache.resilient import ResilientCache
from tests.support.cache_samples import PATIENT_S
from tests.support.redis_server import RedisServer, serving_cluster


@pytest.fixture
def redis_client(redis_server: RedisServer) -> Iterator[Redis]:
    """What the server has, as redis-py sees it; nothing at first."""
    with closing(redis_server.client()) as client:
        client.flushall()
        yield client


@pytest.fixture
def redis_cache(redis_server: RedisServer, redis_client: Redis) -> Iterator[RedisCache]:
    """For tests that are marked redis."""
    with closing(RedisCache(RedisOptions.parse(redis_server.url), PATIENT_S)) as cache:
        yield cache


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    """Three servers that any test may empty, and none may stop; they take 3 s to start."""
    with serving_cluster(tmp_path_factory.mktemp("redis-cluster")) as servers:
        yield servers


@pytest.fixture
def cluster_cache(redis_cluster: list[RedisServer]) -> Iterator[RedisCache]:
    """For tests that are marked redis; nothing is known at first."""
    for server in redis_cluster:
        with closing(server.client()) as client:
            client.flushall()
    url = f"redis+cluster://{','.join(server.address for server in redis_cluster[:2])}"
    with closing(RedisCache(RedisOptions.parse(url), PATIENT_S)) as cache:
        yield cache


@pytest.fixture
def memory_cache() -> MemoryCache:
    return MemoryCache()


@pytest.fixture(
    params=[
        "memory",
        "resilient memory",
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("resilient redis", marks=pytest.mark.redis),
        pytest.param("cluster", marks=pytest.mark.redis),
    ]
)
def cache(request: pytest.FixtureRequest) -> DescriptorCache:
    *wrappers, kind = request.param.split()
    cache: DescriptorCache = request.getfixturevalue(f"{kind}_cache")
    return ResilientCache(cache) if wrappers else cache


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server to be troubled, for tests that are marked redis."""
    with RedisServer.serving(tmp_path) as server:
        yield server

"""Whatever is done, Redis answers like the cache in memory, which a reader can follow."""

from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from blobfs.cache.memory import MemoryCache
from blobfs.cache.redis.cache import RedisCache
from blobfs.cache.redis.options import RedisOptions
from blobfs.digest import Descriptor, Digest
from blobfs.reference import RepositoryName
from tests.support.cache_samples import ONE, OTHER, PATIENT_S
from tests.support.redis_server import RedisServer

CONTENTS = (b"a", b"b")
DIGESTS = [Digest.of(content, name) for content in CONTENTS for name in ("sha256", "sha512")]

repositories = st.sampled_from([None, ONE, OTHER])
digests = st.sampled_from(DIGESTS)
descriptors = st.builds(
    Descriptor,
    digest=digests,
    size=st.integers(-1, 2),
    media_type=st.sampled_from(["", "text/a", "text/b"]),
)
sets = st.tuples(repositories, st.dictionaries(digests, descriptors, max_size=3))
clears = st.tuples(repositories, st.lists(digests, max_size=2))


def _all(cache: MemoryCache | RedisCache) -> dict[RepositoryName | None, list[Descriptor | None]]:
    return {repository: cache.stat_many(DIGESTS, repository) for repository in (None, ONE, OTHER)}


@pytest.mark.redis
@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(sets | clears, max_size=12))
def test_redis_answers_like_memory(
    redis_server: RedisServer,
    redis_client: Redis,
    steps: list[tuple[RepositoryName | None, dict[Digest, Descriptor] | list[Digest]]],
) -> None:
    redis_client.flushall()
    memory = MemoryCache()
    with closing(RedisCache(RedisOptions.parse(redis_server.url), PATIENT_S)) as redis:
        for repository, step in steps:
            for cache in (memory, redis):
                if isinstance(step, dict):
                    cache.set_many(step, repository)
                else:
                    cache.clear_many(step, repository)
            assert _all(redis) == _all(memory)

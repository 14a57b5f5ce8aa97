"""Redis of several servers: a cluster that shares the keys, and a master that sentinels replace."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from blobfs.cache.redis.cache import RedisCache
from blobfs.cache.redis.options import RedisOptions
from blobfs.cache.resilient import ResilientCache
from blobfs.errors import StorageTimeout, StorageUnavailable
from tests.support.cache_samples import ONE, OTHER, PATIENT_S, described, eventually
from tests.support.redis_server import RedisServer, serving_cluster, serving_sentinel
from tests.support.services import free_port

pytestmark = pytest.mark.redis

BLOB = described(b"a layer")
BLOBS = {blob.digest: blob for blob in (described(b"%d" % number) for number in range(60))}

RECOVERY_S: Final = 20.0
"""5 s, after a replica has become the master, on a machine that is busy."""


def _cache(url: str) -> RedisCache:
    return RedisCache(RedisOptions.parse(url), PATIENT_S)


def _sizes(servers: list[RedisServer]) -> list[int]:
    """How many keys each server has."""
    sizes = []
    for server in servers:
        with closing(server.client()) as client:
            sizes.append(client.dbsize())
    return sizes


def test_each_server_of_a_cluster_has_some(
    redis_cluster: list[RedisServer], cluster_cache: RedisCache
) -> None:
    cluster_cache.set_many(BLOBS, ONE)
    assert min(_sizes(redis_cluster)) > 20
    cluster_cache.clear_many(list(BLOBS), ONE)
    assert _sizes(redis_cluster) == [0, 0, 0]


def test_any_node_tells_of_the_cluster(redis_cluster: list[RedisServer]) -> None:
    url = f"redis+cluster://127.0.0.1:{free_port()},{redis_cluster[2].address}"
    with closing(_cache(url)) as cache:
        assert cache.stat(BLOB.digest) is None


def test_cluster_that_is_not_there_is_an_error() -> None:
    url = f"redis+cluster://:secret@127.0.0.1:{free_port()}"
    with closing(_cache(url)) as cache:
        with pytest.raises(StorageUnavailable) as failure:
            cache.stat(BLOB.digest)
        assert "secret" not in str(failure.value)


def test_clear_that_does_not_reach_whose_the_blobs_are_leaves_all(tmp_path: Path) -> None:
    """Else they would be had again as soon as somebody else is given them."""
    with serving_cluster(tmp_path) as servers:
        options = RedisOptions.parse(f"redis+cluster://{servers[0].address}")
        with closing(RedisCache(options, PATIENT_S)) as cache:
            cache.set_many(BLOBS, ONE)
        members = _holder(servers, f"repository::{ONE}::blobs")
        others = [server for server in servers if server is not members]
        before = _sizes(others)
        with closing(RedisCache(options, 1.0)) as cache:
            assert None not in cache.stat_many(list(BLOBS), ONE), "it is connected to all"
            members.pause()
            with pytest.raises(StorageTimeout):
                cache.clear_many(list(BLOBS), ONE)
        assert _sizes(others) == before


def _holder(servers: list[RedisServer], key: str) -> RedisServer:
    """The server of a cluster that has *key*."""
    for server in servers:
        with closing(server.client()) as client:
            if client.keys(key):
                return server
    raise AssertionError(f"nobody has {key}")


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[RedisServer]]:
    """A master, and a replica of it."""
    for name in ("master", "replica"):
        (tmp_path / name).mkdir()
    with RedisServer.serving(tmp_path / "master", "--repl-diskless-sync-delay", "0") as master:
        options = ("--replicaof", "127.0.0.1", str(master.port))
        with RedisServer.serving(tmp_path / "replica", *options) as replica:
            replica.wait_until(
                lambda client: client.info("replication")["master_link_status"] == "up"
            )
            yield [master, replica]


def test_sentinel_says_which_server_it_is(servers: list[RedisServer], tmp_path: Path) -> None:
    with serving_sentinel(servers[0], tmp_path) as sentinel:
        url = f"redis+sentinel://127.0.0.1:{free_port()},{sentinel.address}/master"
        with closing(_cache(url)) as cache:
            cache.set(BLOB.digest, BLOB, ONE)
            assert cache.stat(BLOB.digest, ONE) == BLOB
        assert _sizes(servers[:1]) == [3]


def test_replica_is_used_once_it_is_the_master(servers: list[RedisServer], tmp_path: Path) -> None:
    master, replica = servers
    with serving_sentinel(master, tmp_path) as sentinel:
        sentinel.wait_until(lambda client: client.sentinel_slaves("master") != [])
        url = f"redis+sentinel://{sentinel.address}/master"
        with closing(ResilientCache(_cache(url))) as cache:

            def knows() -> bool:
                cache.set(BLOB.digest, BLOB, OTHER)
                return cache.stat(BLOB.digest, OTHER) == BLOB

            assert knows()
            master.kill()
            replica.wait_until(lambda client: client.info("replication")["role"] == "master")
            assert eventually(knows, RECOVERY_S)


def test_sentinel_that_knows_no_such_master_is_an_error(
    servers: list[RedisServer], tmp_path: Path
) -> None:
    with serving_sentinel(servers[0], tmp_path) as sentinel:
        url = f"redis+sentinel://:secret@{sentinel.address}/other"
        with closing(_cache(url)) as cache:
            with pytest.raises(StorageUnavailable, match="other") as failure:
                cache.stat(BLOB.digest)
            assert "secret" not in str(failure.value)

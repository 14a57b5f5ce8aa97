"""A Redis whose ACL gives us a registry's keys and no others."""

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from redis import Redis

from blobfs.cache.redis.cache import RedisCache
from blobfs.cache.redis.keys import blob_key, linked_key, members_key
from blobfs.cache.redis.options import RedisOptions
from blobfs.errors import StorageUnavailable
from tests.support.cache_samples import ONE, OTHER, PATIENT_S, described
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis

BLOB = replace(described(b"a layer"), mtime_ns=1)
REGISTRYS_KEYS = ("repository::*", "blobs::*")


@pytest.fixture
def restricted(redis_server: RedisServer, redis_client: Redis) -> Iterator[RedisCache]:
    """The cache as a user who may do anything with a registry's keys, and knows no others."""
    _permit(redis_client, *REGISTRYS_KEYS)
    url = redis_server.url.replace("//", "//registry:secret@")
    with closing(RedisCache(RedisOptions.parse(url), PATIENT_S)) as cache:
        yield cache
    redis_client.acl_deluser("registry")


def _permit(client: Redis, *keys: str, commands: tuple[str, ...] = ()) -> None:
    client.acl_setuser(
        "registry",
        enabled=True,
        passwords=["+secret"],
        keys=list(keys),
        categories=["+@all"],
        commands=list(commands),
        reset=True,
    )


def test_blob_is_remembered_without_its_time(restricted: RedisCache) -> None:
    """[S14.8] A Redis that refuses `blobfs::mtime::*`, as an ACL for a registry's keys does, is
    used without these keys.
    """
    restricted.set(BLOB.digest, BLOB, ONE)
    assert restricted.stat(BLOB.digest, ONE) == replace(BLOB, mtime_ns=None)
    assert restricted.stat(BLOB.digest, OTHER) is None


def test_clear_takes_from_the_registry_what_it_has(
    restricted: RedisCache, redis_cache: RedisCache, redis_client: Redis
) -> None:
    """[S14.8] Deletes clear the registry's keys all the same."""
    redis_cache.set(BLOB.digest, BLOB, ONE)
    restricted.clear(BLOB.digest, ONE)
    assert not redis_client.exists(
        blob_key(BLOB.digest), members_key(ONE), linked_key(ONE, BLOB.digest)
    )


def test_clear_needs_no_transaction(
    restricted: RedisCache, redis_cache: RedisCache, redis_client: Redis
) -> None:
    redis_cache.set(BLOB.digest, BLOB, ONE)
    _permit(redis_client, *REGISTRYS_KEYS, commands=("-multi", "-exec"))
    restricted.clear(BLOB.digest, ONE)
    assert redis_cache.stat(BLOB.digest, ONE) is None


def test_refusal_is_remembered_and_logged_once(
    restricted: RedisCache,
    redis_server: RedisServer,
    redis_client: Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """[S14.8] One warning in the log says so."""
    redis_client.acl_log_reset()
    with caplog.at_level(logging.WARNING, "blobfs.cache.redis.cache"):
        for blob in (BLOB, described(b"another")):
            restricted.set(blob.digest, blob, ONE)
            restricted.stat(blob.digest, ONE)
            restricted.clear(blob.digest, ONE)
    assert [record.getMessage() for record in caplog.records] == [
        f"redis://{redis_server.address}/0 refuses the keys blobfs::mtime::*:"
        " times of blobs are read from the storage; allow ~blobfs::mtime::* to its user"
        " and mount again to cache them"
    ]
    assert redis_client.acl_log()[0]["count"] == 1, "it was asked again"


def test_refusal_of_a_registrys_keys_is_an_error(
    restricted: RedisCache, redis_client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    _permit(redis_client, "blobfs::*")
    for call in (restricted.stat, restricted.clear):
        with pytest.raises(StorageUnavailable, match="permission") as failure:
            call(BLOB.digest, ONE)
        assert "secret" not in str(failure.value)
    assert caplog.records == []

"""What is in Redis is what distribution writes and reads, byte for byte."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Thread

import pytest
from redis import Redis

from blobfs.cache.redis.cache import RedisCache
from blobfs.digest import Descriptor, Digest
from tests.support.cache_samples import ONE, OTHER, described

pytestmark = pytest.mark.redis

BLOB = described(b"a layer", "application/vnd.oci.image.layer.v1.tar+gzip")
ALIAS = Digest.of(b"a layer", "sha512")
KEY = f"blobs::{BLOB.digest}"
MEMBERS = "repository::library/one::blobs"
MTIME = f"blobfs::mtime::{BLOB.digest}"
LINKED = f"repository::library/one::blobs::{BLOB.digest}"


def _hash(client: Redis, key: str) -> dict[bytes | str, bytes | str]:
    content = client.hgetall(key)
    assert isinstance(content, dict)
    return content


def test_blob_is_a_hash(redis_cache: RedisCache, redis_client: Redis) -> None:
    redis_cache.set(BLOB.digest, BLOB)
    assert redis_client.keys() == [f"blobs::sha256:{BLOB.digest.encoded}".encode()]
    assert _hash(redis_client, KEY) == {
        b"digest": str(BLOB.digest).encode(),
        b"size": b"7",
        b"mediatype": b"application/vnd.oci.image.layer.v1.tar+gzip",
    }


def test_repository_has_a_set_and_its_own_media_types(
    redis_cache: RedisCache, redis_client: Redis
) -> None:
    redis_cache.set(BLOB.digest, BLOB, ONE)
    redis_cache.set(BLOB.digest, Descriptor(BLOB.digest, 7, "text/x"), ONE)
    assert {key.decode() for key in redis_client.scan_iter()} == {KEY, MEMBERS, LINKED}
    assert redis_client.smembers(MEMBERS) == {str(BLOB.digest).encode()}
    assert _hash(redis_client, LINKED) == {b"mediatype": b"text/x"}
    assert _hash(redis_client, KEY)[b"mediatype"] == BLOB.media_type.encode()


def test_alias_is_a_hash_that_names_the_canonical_digest(
    redis_cache: RedisCache, redis_client: Redis
) -> None:
    redis_cache.set(ALIAS, BLOB, ONE)
    alias = _hash(redis_client, f"blobs::{ALIAS}")
    assert alias[b"digest"] == str(BLOB.digest).encode()
    assert alias == _hash(redis_client, KEY)
    assert redis_client.smembers(MEMBERS) == {str(ALIAS).encode()}


def test_time_is_a_key_of_our_own(redis_cache: RedisCache, redis_client: Redis) -> None:
    def keys() -> dict[object, object]:
        return {key: redis_client.type(key) for key in redis_client.scan_iter()}

    redis_cache.set(BLOB.digest, BLOB, ONE)
    before = keys()
    redis_cache.set(BLOB.digest, replace(BLOB, mtime_ns=17), ONE)
    assert redis_client.get(MTIME) == b"17"
    redis_client.delete(MTIME)
    assert keys() == before


@pytest.mark.parametrize("text", [b"", b"now", b"1.5", b"+7", b" 7", b"7" * 20, b"\xff"])
def test_time_that_makes_no_sense_is_not_known(
    redis_cache: RedisCache, redis_client: Redis, text: bytes
) -> None:
    redis_cache.set(BLOB.digest, replace(BLOB, mtime_ns=17), ONE)
    redis_client.set(MTIME, text)
    found = redis_cache.stat(BLOB.digest, ONE)
    assert found == BLOB
    assert found.mtime_ns is None


def test_nothing_expires(redis_cache: RedisCache, redis_client: Redis) -> None:
    redis_cache.set(BLOB.digest, BLOB, ONE)
    assert [redis_client.ttl(key) for key in (KEY, MEMBERS, LINKED)] == [-1, -1, -1]


def test_clear_leaves_nothing(redis_cache: RedisCache, redis_client: Redis) -> None:
    redis_cache.set(BLOB.digest, BLOB, ONE)
    redis_cache.clear(BLOB.digest, ONE)
    assert redis_client.keys() == []


def test_clear_leaves_what_others_have(redis_cache: RedisCache, redis_client: Redis) -> None:
    redis_cache.set(BLOB.digest, BLOB, ONE)
    redis_cache.set(BLOB.digest, BLOB, OTHER)
    redis_cache.clear(BLOB.digest, ONE)
    assert {key.decode() for key in redis_client.scan_iter()} == {
        "repository::library/other::blobs",
        f"repository::library/other::blobs::{BLOB.digest}",
    }


def test_what_a_registry_wrote_is_known(redis_cache: RedisCache, redis_client: Redis) -> None:
    redis_client.sadd(MEMBERS, str(BLOB.digest))
    redis_client.hset(KEY, mapping={"digest": str(BLOB.digest), "size": "7"})
    redis_client.hsetnx(KEY, "mediatype", "application/octet-stream")
    redis_client.hset(LINKED, "mediatype", BLOB.media_type)
    assert redis_cache.stat(BLOB.digest, ONE) == BLOB
    assert redis_cache.stat(BLOB.digest) == described(b"a layer")


def test_blob_without_a_media_type_is_bytes(redis_cache: RedisCache, redis_client: Redis) -> None:
    redis_client.hset(KEY, mapping={"digest": str(BLOB.digest), "size": "7"})
    assert redis_cache.stat(BLOB.digest) == described(b"a layer")


def test_empty_media_type_of_a_repository_is_the_blobs(
    redis_cache: RedisCache, redis_client: Redis
) -> None:
    redis_cache.set(BLOB.digest, BLOB, ONE)
    redis_client.hset(LINKED, "mediatype", "")
    assert redis_cache.stat(BLOB.digest, ONE) == BLOB


@pytest.mark.parametrize(
    "damage",
    [
        lambda client: client.srem(MEMBERS, str(BLOB.digest)),
        lambda client: client.hdel(LINKED, "mediatype"),
        lambda client: client.hset(LINKED, "mediatype", b"\xff"),
        lambda client: client.hdel(KEY, "digest"),
        lambda client: client.hdel(KEY, "size"),
        lambda client: client.hset(KEY, "mediatype", ""),
        lambda client: client.hset(KEY, "mediatype", b"\xff"),
        lambda client: client.hset(KEY, "size", "seven"),
        lambda client: client.hset(KEY, "size", ""),
        lambda client: client.hset(KEY, "size", "-7"),
        lambda client: client.hset(KEY, "size", " 7"),
        lambda client: client.hset(KEY, "size", "1_0"),
        lambda client: client.hset(KEY, "size", "\u0667"),
        lambda client: client.hset(KEY, "size", "7" * 40),
        lambda client: client.hset(KEY, "digest", "sha256:short"),
        lambda client: client.hset(KEY, "digest", b"\xff"),
        lambda client: client.hset(KEY, "digest", str(Digest.of(b"another"))),
        lambda client: client.hset(KEY, "digest", str(ALIAS)),
        lambda client: client.set(KEY, "text"),
        lambda client: client.set(LINKED, "text"),
        lambda client: client.set(MEMBERS, "text"),
    ],
    ids=[
        "not a member",
        "no media type of the repository's",
        "its media type is no text",
        "no digest",
        "no size",
        "an empty media type",
        "the media type is no text",
        "the size is a word",
        "the size is empty",
        "the size is negative",
        "the size has a blank",
        "the size is Python's",
        "the size is in other digits",
        "the size is huge",
        "the digest is short",
        "the digest is no text",
        "the digest is another's",
        "the digest is not the canonical one",
        "the blob is no hash",
        "the repository's own is no hash",
        "the members are no set",
    ],
)
def test_what_makes_no_sense_is_not_known(
    redis_cache: RedisCache, redis_client: Redis, damage: Callable[[Redis], object]
) -> None:
    redis_cache.set(BLOB.digest, BLOB, ONE)
    other = described(b"whole")
    redis_cache.set(other.digest, other, OTHER)
    damage(redis_client)
    assert redis_cache.stat(BLOB.digest, ONE) is None
    assert redis_cache.stat_many([other.digest, BLOB.digest], OTHER) == [other, None]


@pytest.mark.parametrize("key", [KEY, LINKED, MEMBERS])
def test_key_of_another_kind_is_no_error(
    redis_cache: RedisCache, redis_client: Redis, key: str
) -> None:
    redis_client.set(key, "text")
    redis_cache.set(BLOB.digest, BLOB, ONE)
    redis_cache.clear(BLOB.digest, ONE)
    assert redis_cache.stat(BLOB.digest, ONE) is None


@contextmanager
def _commands(client: Redis) -> Iterator[list[str]]:
    """What the server is told in the ``with`` block, complete after it."""
    told: list[str] = []
    with client.monitor() as monitor:  # type: ignore[no-untyped-call]  # redis-py gives it none

        def listen() -> None:
            while (command := str(monitor.next_command()["command"])) != "ECHO over":
                told.append(command.split(maxsplit=1)[0])

        listener = Thread(target=listen)
        listener.start()
        yield told
        client.echo("over")
        listener.join(10)


def test_set_and_clear_are_a_transaction_each(redis_cache: RedisCache, redis_client: Redis) -> None:
    redis_cache.stat(BLOB.digest)  # connected
    with _commands(redis_client) as told:
        redis_cache.set(BLOB.digest, BLOB, ONE)
        redis_cache.clear(BLOB.digest, ONE)
    assert told == [
        *("MULTI", "SADD", "HSET", "HSETNX", "DEL", "HSET", "EXEC"),
        *("MULTI", "SREM", "DEL", "HDEL", "DEL", "EXEC"),
    ]


def _reads(client: Redis) -> int:
    """How often the server has read from a connection."""
    reads: int = client.info("stats")["total_reads_processed"]
    return reads


def test_many_are_asked_in_one_round_trip(redis_cache: RedisCache, redis_client: Redis) -> None:
    digests = [described(b"%d" % number).digest for number in range(10)]  # redis-py sends by 6 KB
    redis_cache.stat_many(digests, ONE)  # connected
    before = _reads(redis_client)
    redis_cache.stat_many(digests, ONE)
    assert _reads(redis_client) - before == 2, "ours, and that of the count"


def test_server_that_was_emptied_knows_nothing(
    redis_cache: RedisCache, redis_client: Redis
) -> None:
    redis_cache.set(BLOB.digest, BLOB, ONE)
    redis_client.flushall()
    assert redis_cache.stat(BLOB.digest, ONE) is None
    redis_cache.set(BLOB.digest, BLOB, ONE)
    assert redis_cache.stat(BLOB.digest, ONE) == BLOB

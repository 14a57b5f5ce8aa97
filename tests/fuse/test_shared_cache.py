"""Mounts and a real registry that share one Redis: each is told what another has looked up."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self

import pytest
from redis import Redis

from blobfs.reference import RepositoryName
from tests.support.cached_registry import SMALL, CachedRegistry, storage_actions
from tests.support.mounts import eventually, mounted
from tests.support.redis_server import RedisServer
from tests.support.repositories import layer
from tests.support.services import free_port

pytestmark = [pytest.mark.fuse, pytest.mark.redis, pytest.mark.registry]

OTHER = RepositoryName("library/other")


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[Redis]:
    with closing(redis_server.client()) as client:
        yield client


@pytest.fixture
def registry(redis_server: RedisServer, client: Redis, tmp_path: Path) -> Iterator[CachedRegistry]:
    """What it remembers of a push is forgotten."""
    client.flushall()  # else it would take for stored what another test has pushed elsewhere
    with CachedRegistry.serving(tmp_path, redis_server) as registry:
        client.flushall()
        yield registry


class Mount:
    """A mount at *path* of which the kernel keeps directories, and asks for each blob."""

    def __init__(self, path: Path, registry: CachedRegistry, http: str) -> None:
        self.path = path
        self.layer = layer(path / SMALL, registry.digest)
        self._http = http

    @classmethod
    @contextmanager
    def of(cls, registry: CachedRegistry, redis: RedisServer, tmp_path: Path) -> Iterator[Self]:
        http = f"127.0.0.1:{free_port()}"
        options = ("--cache", redis.url, "--http", http, "--allow-delete")
        timeouts = ("--entry-timeout", "0", "--attr-timeout", "0", "--tag-timeout", "600")
        with mounted(registry.root, tmp_path, *options, *timeouts) as mount:
            (mount.path / SMALL / "_layers/sha256").stat()
            yield cls(mount.path, registry, http)

    def actions(self) -> Counter[str]:
        return storage_actions(self._http)


def test_what_the_registry_looked_up_a_mount_is_told(
    registry: CachedRegistry, redis_server: RedisServer, tmp_path: Path
) -> None:
    """[S14.1] Only a registry keeps no time."""
    registry.size_told()
    with Mount.of(registry, redis_server, tmp_path) as first:
        before = first.actions()
        assert first.layer.stat().st_size == registry.size
        asked = first.actions() - before
        # By the second one the mount knows the blob store from now on.
        assert asked == {"stat": 2}, "the blob's time, and the blob store"
    with Mount.of(registry, redis_server, tmp_path) as second:
        before = second.actions()
        assert second.layer.stat().st_size == registry.size
        assert second.actions() == before


def test_what_a_mount_looked_up_the_registry_is_told(
    registry: CachedRegistry, redis_server: RedisServer, client: Redis, tmp_path: Path
) -> None:
    """[S14.1] Who looks up a layer that is remembered asks the storage for nothing."""

    def asked() -> int:
        before = storage_actions(registry.debug_address)
        assert registry.size_told() == registry.size
        actions = storage_actions(registry.debug_address) - before
        return actions["GetContent"] + actions["Stat"]

    assert asked() > 0
    client.flushall()
    with Mount.of(registry, redis_server, tmp_path) as mount:
        mount.layer.stat()
    assert asked() == 0


def test_delete_in_a_mount_is_seen_by_all(
    registry: CachedRegistry, redis_server: RedisServer, client: Redis, tmp_path: Path
) -> None:
    """[S14.2] What a mount deletes is a miss at once, for all that share the Redis. Also by those
    who have the same blob in another repository.
    """
    with (
        Mount.of(registry, redis_server, tmp_path) as one,
        Mount.of(registry, redis_server, tmp_path) as two,
    ):
        (one.path / OTHER).mkdir()
        other_layer = layer(one.path / OTHER, registry.digest)
        os.link(one.layer, other_layer)
        for mount in (one, two):
            mount.layer.stat()
        assert registry.size_told() == registry.size
        one.layer.unlink()
        assert not client.sismember(f"repository::{SMALL}::blobs", str(registry.digest))
        for _ in range(2):
            assert registry.size_told() is None
            for mount in (one, two):
                assert not mount.layer.exists()
            assert registry.size_told(OTHER) == other_layer.stat().st_size == registry.size


def _expire(client: Redis, key: bytes) -> None:
    client.pexpire(key, 1)
    eventually(lambda: not client.exists(key))


def _spoil(client: Redis, key: bytes) -> None:
    client.delete(key)
    client.set(key, "nonsense")


def _exaggerate(client: Redis, key: bytes) -> None:
    if client.type(key) == b"hash":
        client.hset(key, "size", 10**9)


DAMAGES: list[Callable[[Redis, bytes], object]] = [
    lambda client, key: client.delete(key),
    _expire,
    _spoil,
    _exaggerate,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=["deleted", "expired", "spoilt", "a wrong size"])
def test_truth_comes_back_whatever_becomes_of_a_key(
    registry: CachedRegistry,
    redis_server: RedisServer,
    client: Redis,
    tmp_path: Path,
    damage: Callable[[Redis, bytes], object],
) -> None:
    """[S14.3] An entry that is damaged, expired or evicted is a miss."""
    with Mount.of(registry, redis_server, tmp_path) as mount:
        stored = mount.layer.stat()
        keys = [key for key in client.scan_iter() if registry.digest.encoded.encode() in key]
        assert len(keys) == 3
        for key in [*keys, f"repository::{SMALL}::blobs".encode()]:
            damage(client, key)
            assert len(mount.layer.read_bytes()) == registry.size, key
            assert mount.layer.stat() == stored, key
            client.flushall()
            mount.layer.stat()

"""A collection beside a registry that caches descriptors in Redis."""

import json
from contextlib import closing
from pathlib import Path

import pytest

from blobfs.reference import RepositoryName
from tests.support import images
from tests.support.cached_registry import SMALL, CachedRegistry
from tests.support.mounts import run
from tests.support.redis_server import RedisServer
from tests.support.services import delete_manifest, inspect, push

OPTIONS = ("--layers", "--delete", "--age", "0s", "--grace", "0s", "--settle", "0s")

pytestmark = [pytest.mark.redis, pytest.mark.registry]


@pytest.fixture(autouse=True)
def _empty_redis(redis_server: RedisServer) -> None:
    with closing(redis_server.client()) as client:
        client.flushall()


@pytest.mark.parametrize("is_told", [True, False], ids=["told", "not told"])
def test_registry_stores_anew_what_was_deleted(
    redis_server: RedisServer, tmp_path: Path, is_told: bool
) -> None:
    """[S19.31] With `--cache` Redis forgets what was removed. Else the registry believes Redis."""
    with CachedRegistry.serving(tmp_path, redis_server) as registry:
        assert registry.size_told() == registry.size
        delete_manifest(registry.address, SMALL, inspect(registry.address, SMALL, "v1").digest)
        assert registry.size_told() == registry.size, "its layers are linked"
        cache = ["--cache", redis_server.url] if is_told else []
        done = run("gc", registry.root, *OPTIONS, *cache, "--state", tmp_path / "state")
        assert done.returncode == 0, done.stderr
        assert not list(registry.root.rglob("data*"))
        assert (registry.size_told() is None) is is_told
        push(images.small(), registry.address, SMALL, "v1")
        assert bool(list(registry.root.rglob(f"{registry.digest.encoded}/data"))) is is_told
        assert registry.size_told(RepositoryName("other")) is None


def test_redis_of_the_registrys_file_is_cleared(redis_server: RedisServer, tmp_path: Path) -> None:
    """[S19.35] With a registry's file as STORAGE its Redis is cleared."""
    with CachedRegistry.serving(tmp_path, redis_server) as registry:
        registry.size_told()
        delete_manifest(registry.address, SMALL, inspect(registry.address, SMALL, "v1").digest)
        state = ("--state", tmp_path / "state")
        done = run("gc", tmp_path / "registry.yml", *OPTIONS, *state)
        assert done.returncode == 0, done.stderr
        assert registry.size_told() is None


def test_cache_in_the_registrys_memory_is_warned_of(tmp_path: Path) -> None:
    """[S19.35] A cache in the registry's memory is warned of."""
    (tmp_path / "storage/docker/registry/v2/repositories").mkdir(parents=True)
    storage = {
        "filesystem": {"rootdirectory": str(tmp_path / "storage")},
        "cache": {"blobdescriptor": "inmemory"},
    }
    config = tmp_path / "config.yml"
    config.write_text(json.dumps({"version": 0.1, "storage": storage}))
    done = run("gc", config, "--state", tmp_path / "state")
    assert done.returncode == 0, done.stderr
    assert "restart it after gc" in done.stderr

"""A real registry and the cache share one Redis: each knows what the other wrote."""

import http.client
import json
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis

from blobfs.cache.redis import RedisCache
from blobfs.digest import Descriptor, Digest
from blobfs.reference import RepositoryName
from tests import images
from tests.redisserver import RedisServer
from tests.services import delete_blob, free_port, inspect, push, serving

pytestmark = [pytest.mark.redis, pytest.mark.registry]

SMALL = RepositoryName("library/small")


@dataclass(frozen=True, slots=True)
class Pushed:
    """An image in a registry at *address*: the digest and the size of its last layer."""

    address: str
    digest: Digest
    size: int

    def size_told(self) -> int | None:
        """How long the layer is, as the registry says; None if it has none of that digest."""
        with closing(http.client.HTTPConnection(self.address, timeout=10)) as connection:
            connection.request("HEAD", f"/v2/{SMALL}/blobs/{self.digest}")
            response = connection.getresponse()
            return int(response.headers["Content-Length"]) if response.status == 200 else None


@pytest.fixture
def pushed(redis_server: RedisServer, redis_client: Redis, tmp_path: Path) -> Iterator[Pushed]:
    """Pushed to a registry whose descriptor cache is the server that ``redis_cache`` is in."""
    address = f"127.0.0.1:{free_port()}"
    config = {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {
            "filesystem": {"rootdirectory": str(tmp_path / "storage")},
            "cache": {"blobdescriptor": "redis"},
            "delete": {"enabled": True},
        },
        "redis": {"addr": f"127.0.0.1:{redis_server.port}"},
        "http": {"addr": address},
    }
    config_path = tmp_path / "registry.yml"
    config_path.write_text(json.dumps(config))
    command = ("docker-registry", "serve", config_path)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("REGISTRY_")}
    with serving(command, address, "/v2/", tmp_path / "registry.log", environment):
        push(images.small(), address, SMALL, "v1")
        layer = json.loads(inspect(address, SMALL, "v1").content)["layers"][-1]
        yield Pushed(address, Digest.parse(layer["digest"]), layer["size"])


def test_what_the_registry_wrote_is_known(pushed: Pushed, redis_cache: RedisCache) -> None:
    pushed.size_told()
    assert redis_cache.stat(pushed.digest, SMALL) == Descriptor(pushed.digest, pushed.size)
    assert redis_cache.stat(pushed.digest, RepositoryName("library/other")) is None


def test_what_we_wrote_the_registry_knows(
    pushed: Pushed, redis_cache: RedisCache, redis_client: Redis
) -> None:
    redis_client.flushall()
    redis_cache.set(pushed.digest, Descriptor(pushed.digest, 17), SMALL)
    assert pushed.size_told() == 17, "it did not look at the blob"


def test_what_we_cleared_the_registry_looks_up(pushed: Pushed, redis_cache: RedisCache) -> None:
    redis_cache.set(pushed.digest, Descriptor(pushed.digest, 17), SMALL)
    redis_cache.clear(pushed.digest, SMALL)
    assert pushed.size_told() == pushed.size
    assert redis_cache.stat(pushed.digest, SMALL) == Descriptor(pushed.digest, pushed.size)


def test_what_the_registry_deleted_is_not_known(pushed: Pushed, redis_cache: RedisCache) -> None:
    pushed.size_told()
    delete_blob(pushed.address, SMALL, str(pushed.digest))
    assert redis_cache.stat(pushed.digest, SMALL) is None

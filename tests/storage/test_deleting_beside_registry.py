"""Layers that blobfs deletes and a real registry is then pushed again, by its descriptor cache."""

from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from blobfs import open_registry
from blobfs.cache.factory import cache_for
from blobfs.digest import Digest
from tests.support import images
from tests.support.cached_registry import SMALL, CachedRegistry
from tests.support.redis_server import RedisServer
from tests.support.services import DockerRegistry, inspect, push

pytestmark = pytest.mark.registry


def _status(address: str, digest: str) -> int:
    """What a registry answers to who asks for a layer of ``SMALL``."""
    try:
        with urlopen(Request(f"http://{address}/v2/{SMALL}/blobs/{digest}", method="HEAD")) as got:
            return int(got.status)
    except HTTPError as exc:
        return exc.code


def _pushed(address: str) -> str:
    """A layer of ``SMALL``, which was just pushed."""
    push(images.small(), address, SMALL, "v1")
    return inspect(address, SMALL, "v1").blobs[-1]


def _delete(root: Path, digest: str, cache: str = "none") -> None:
    with open_registry(str(root), cache=cache_for(cache)) as registry:
        registry.repository(SMALL).layers.delete(Digest.parse(digest))


def test_registry_that_remembers_in_memory_loses_what_is_pushed_again(tmp_path: Path) -> None:
    """[S9.4] It takes a removed layer for stored: a push of the same layer links nothing, and after
    the registry's restart pulls are 404.
    """
    root = tmp_path / "storage"
    with DockerRegistry.serving(root, cache="inmemory") as registry:
        layer = _pushed(registry.address)
        _delete(root, layer)
        _pushed(registry.address)
        assert _status(registry.address, layer) == HTTPStatus.OK, "it remembers the layer"
    with DockerRegistry.serving(root, cache="inmemory") as registry:
        assert _status(registry.address, layer) == HTTPStatus.NOT_FOUND
        _pushed(registry.address)
    with DockerRegistry.serving(root) as registry:
        assert _status(registry.address, layer) == HTTPStatus.OK, "it was restarted before the push"


def test_registry_that_remembers_nothing_has_what_is_pushed_again(tmp_path: Path) -> None:
    """[S9.4] Or remove the key from its configuration."""
    root = tmp_path / "storage"
    with DockerRegistry.serving(root) as registry:
        layer = _pushed(registry.address)
        _delete(root, layer)
        assert _status(registry.address, layer) == HTTPStatus.NOT_FOUND
        _pushed(registry.address)
        assert _status(registry.address, layer) == HTTPStatus.OK


@pytest.mark.redis
def test_registry_that_shares_a_redis_has_what_is_pushed_again(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """[S9.4] Share a Redis with it (14)."""
    with closing(redis_server.client()) as client:
        client.flushall()  # another test's registry may have had the layer
    with CachedRegistry.serving(tmp_path, redis_server) as registry:
        assert registry.size_told() == registry.size
        _delete(registry.root, str(registry.digest), redis_server.url)
        assert registry.size_told() is None
        _pushed(registry.address)
        assert registry.size_told() == registry.size
    with DockerRegistry.serving(registry.root) as restarted:
        assert _status(restarted.address, str(registry.digest)) == HTTPStatus.OK

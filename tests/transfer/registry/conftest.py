"""Registries behind HTTP, and places that speak to them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs import open_registry
from blobfs.digest import Digest
from blobfs.transfer.registry import RegistryOptions, RegistrySource, RegistryTarget, client
from tests.support.api_server import serving
from tests.support.s3_proxy import S3Proxy
from tests.support.services import DockerRegistry

ANONYMOUS = RegistryOptions(anonymous=True)


def in_chunks(content: bytes) -> Iterator[bytes]:
    """The chunks of a blob, as a reader gives them."""
    return (content[begin : begin + 2**20] for begin in range(0, len(content), 2**20))


def copy(
    source: RegistrySource, origin: str, digest: Digest, target: RegistryTarget, repository: str
) -> None:
    """Copy an image with all its parts, in the order that a target needs."""
    outline = source.outline(origin, digest)
    for child in outline.children:
        copy(source, origin, child, target, repository)
    for blob in target.missing(repository, outline.blobs):
        with source.open(origin, blob) as reader:
            target.put_blob(repository, blob, reader.chunks())
    target.put_manifest(repository, digest, source.manifest(origin, digest))
    target.flush()


@pytest.fixture(autouse=True)
def _no_logins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody's own logins are used."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    for name in ("REGISTRY_AUTH_FILE", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_FIRST_DELAY_S", 0.001)


@pytest.fixture(params=["docker-registry", "blobfs"])
def source(request: pytest.FixtureRequest, registry: DockerRegistry) -> Iterator[RegistrySource]:
    """The shared registry, by each server that can be read from."""
    if request.param == "docker-registry":
        with RegistrySource(registry.address, ANONYMOUS) as source:
            yield source
        return
    with (
        open_registry(str(registry.root)) as opened,
        serving(opened) as address,
        RegistrySource(address, ANONYMOUS) as source,
    ):
        yield source


@pytest.fixture
def empty(empty_registry: DockerRegistry) -> DockerRegistry:
    """A registry to write to, in repositories of each test's own."""
    return empty_registry


@pytest.fixture
def target(empty: DockerRegistry) -> Iterator[RegistryTarget]:
    with RegistryTarget(empty.address, ANONYMOUS) as target:
        yield target


@pytest.fixture
def proxy(empty: DockerRegistry) -> Iterator[S3Proxy]:
    """Before ``empty``; it makes faults."""
    with S3Proxy.before(empty.url) as proxy:
        yield proxy


@pytest.fixture
def proxied(proxy: S3Proxy) -> Iterator[RegistryTarget]:
    """``empty`` behind ``proxy``."""
    with RegistryTarget(proxy.url.removeprefix("http://"), ANONYMOUS) as target:
        yield target

"""The API of blobfs over what the shared registry stores, and that registry, read-only."""

from collections.abc import Iterator

import pytest

from blobfs import open_registry
from tests.support.api_server import serving, serving_docker_registry
from tests.support.services import DockerRegistry, Manifest, inspect


@pytest.fixture(scope="session")
def api(registry: DockerRegistry) -> Iterator[str]:
    """The address of blobfs' API; for reading."""
    with open_registry(str(registry.root)) as opened, serving(opened) as address:
        yield address


@pytest.fixture(scope="session")
def peer(registry: DockerRegistry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a docker-registry on the same storage that takes no writes either."""
    storage = {"filesystem": {"rootdirectory": str(registry.root)}}
    directory = tmp_path_factory.mktemp("peer")
    with serving_docker_registry(directory, storage) as address:
        yield address


@pytest.fixture(scope="session")
def image(registry: DockerRegistry) -> Manifest:
    """library/small:v1, as the registry has it."""
    return inspect(registry.address, "library/small", "v1")


@pytest.fixture
def layer(image: Manifest) -> str:
    """The path of the smallest layer of library/small:v1, of some 4 KiB."""
    return f"/v2/library/small/blobs/{image.blobs[1]}"

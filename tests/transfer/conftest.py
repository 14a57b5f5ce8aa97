"""The places that the contracts of a transfer are checked for, and those of copies."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from blobfs.inventory import scanning
from tests.support.copies import Copies
from tests.support.places import (
    ArchivePlace,
    LayoutPlace,
    Place,
    RegistryPlace,
    bucket_place,
    directory_place,
    memory_place,
    places,
)
from tests.support.services import DockerRegistry


@pytest.fixture
def copies(tmp_path: Path) -> Copies:
    """An empty source, and a target that does not exist."""
    return Copies(tmp_path)


@pytest.fixture(params=places())
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    *surveyed, kind = request.param.split()
    with ExitStack() as stack:
        match kind:
            case "directory":
                yield directory_place(tmp_path, survey=bool(surveyed))
            case "memory":
                yield memory_place()
            case "layout":
                yield LayoutPlace(tmp_path / "layout")
            case "archive":
                yield ArchivePlace(tmp_path / "archive.tar")
            case "registry":
                yield RegistryPlace(request.getfixturevalue("empty_registry"))
            case _:
                moto = request.getfixturevalue("moto")
                yield stack.enter_context(bucket_place(moto, survey=bool(surveyed)))


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """A registry that each test empties first."""
    with DockerRegistry.serving(tmp_path_factory.mktemp("empty") / "storage") as registry:
        yield registry


@pytest.fixture(autouse=True)
def _drivers_are_closed() -> Iterator[None]:
    yield
    scanning.close_all()

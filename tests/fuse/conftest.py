"""Mounts that several tests look at, and a storage that tests lay out themselves."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.filesystem import FilesystemDriver
from tests.support.layout import Layout
from tests.support.mounts import MountedRegistry, mounted
from tests.support.services import DockerRegistry
from tests.support.stoppable_filesystem import Remote


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """An empty registry's root."""
    root = tmp_path / "storage"
    (root / "docker/registry/v2").mkdir(parents=True)
    return root


@pytest.fixture
def layout(storage: Path) -> Iterator[Layout]:
    """Lays out what ``storage`` holds."""
    driver = BaseDriver(FilesystemDriver.below(storage))
    yield Layout(driver)
    driver.close()


@pytest.fixture
def mount(storage: Path, tmp_path: Path) -> Iterator[MountedRegistry]:
    """A mount of ``storage``, which tests fill while it is there."""
    with mounted(storage, tmp_path) as mount:
        yield mount


@pytest.fixture(scope="session")
def common_mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedRegistry]:
    """A mount for reading of what ``common_layout`` adds."""
    place = tmp_path_factory.mktemp("common")
    (place / "storage/docker/registry/v2").mkdir(parents=True)
    with mounted(place / "storage", place) as mount:
        yield mount


@pytest.fixture(scope="session")
def common_layout(common_mount: MountedRegistry) -> Iterator[Layout]:
    """Adds to what ``common_mount`` shows. Tests change nothing that is there."""
    driver = BaseDriver(FilesystemDriver.below(Path(common_mount.storage)))
    yield Layout(driver)
    driver.close()


@pytest.fixture
def remote(storage: Path, layout: Layout, tmp_path: Path) -> Iterator[Remote]:
    """``storage``, which holds a layer, on a file system of another machine's."""
    layout.layer(b"far away")
    remote = Remote(storage, tmp_path / "remote")
    yield remote
    remote.die()
    remote.disconnect()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedRegistry]:
    """A mount that tests write to, each into ``repository`` and what it makes itself."""
    place = tmp_path_factory.mktemp("shared")
    with mounted(place / "storage", place, "--create") as mount:
        yield mount


@pytest.fixture
def repository(shared: MountedRegistry) -> Path:
    """An empty repository of a test's own, made by mkdir(1) in ``shared``."""
    path = shared.path / f"test/{uuid.uuid4()}"
    path.parent.mkdir(exist_ok=True)
    path.mkdir()
    return path


@pytest.fixture(scope="session")
def images(
    registry: DockerRegistry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MountedRegistry]:
    """A mount of what a running docker-registry keeps, with ``_blobs``; for reading only."""
    with mounted(registry.root, tmp_path_factory.mktemp("images"), "--expose-blobs") as mount:
        yield mount

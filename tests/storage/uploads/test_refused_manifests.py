"""What the storage refuses, here a symlink in a file's place, hides nothing beside it."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.errors import AccessDenied
from blobfs.reference import RepositoryName, Tag
from blobfs.storage.registry import Registry, open_registry
from tests.support.layout import APP, LATEST, Layout, all_blobs

NOBODY: Final = 65534
GOOD, REFUSED = Digest.of(b"good"), Digest.of(b"refused")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A good layer and a refused one, a refused blob, and a refused tag."""
    with Registry(BaseDriver(FilesystemDriver.below(tmp_path))) as registry:
        layout = Layout(BaseDriver(FilesystemDriver.below(tmp_path)))
        layout.layer(b"good")
        layout.tag(GOOD)
        for path in (
            paths.link(paths.layers(APP), REFUSED),
            paths.blob_data(REFUSED),
            paths.tag_current_link(APP, Tag("refused")),
        ):
            refuse(tmp_path / path[1:])
        yield registry
        layout.driver.close()


def refuse(file: Path) -> None:
    """Put a symlink there, which the driver does not follow."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.symlink_to("/etc/hostname")


def test_layers_are_enumerated_with_the_refused_one(registry: Registry) -> None:
    layers = registry.repository(APP).layers
    assert set(layers.enumerate("sha256")) == {GOOD, REFUSED}
    with pytest.raises(AccessDenied):
        layers.stat(REFUSED)


def test_tags_are_enumerated_with_the_refused_one(registry: Registry) -> None:
    tags = registry.repository(APP).tags
    assert set(tags.enumerate()) == {LATEST, "refused"}
    with pytest.raises(AccessDenied):
        tags.get(Tag("refused"))


def test_blobs_are_enumerated_with_the_refused_one(registry: Registry) -> None:
    assert set(all_blobs(registry.blobs)) == {GOOD, REFUSED}
    with pytest.raises(AccessDenied):
        registry.blobs.stat(REFUSED)


def test_refused_ones_are_present(registry: Registry) -> None:
    layers = registry.repository(APP).layers
    assert layers.existing([GOOD, REFUSED]) == [GOOD, REFUSED]
    assert registry.blobs.existing([GOOD, REFUSED]) == [GOOD, REFUSED]


def test_refused_repository_is_enumerated(registry: Registry, tmp_path: Path) -> None:
    refuse(tmp_path / paths.repository("team/refused")[1:])
    assert set(registry.enumerate()) == {APP, "team/refused"}
    with pytest.raises(AccessDenied):
        registry.stat(paths.repository("team/refused"))


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A registry's root, which this process may read with the rights that files give it."""
    with TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        driver = BaseDriver(FilesystemDriver.below(Path(place)))
        for name in (APP, RepositoryName("other")):
            Layout(driver).layer(b"layer", name)
        driver.close()
        user = os.geteuid()
        if user == 0:
            os.seteuid(NOBODY)
        yield Path(place)
        os.seteuid(user)


@pytest.mark.parametrize("refused", ["repositories/other", "repositories", "blobs", "."])
def test_directory_without_rights_is_an_error_and_no_shorter_listing(
    unprivileged: Path, refused: str
) -> None:
    """[S4.4] No shorter listing, no ENOENT."""
    with open_registry(str(unprivileged)) as registry:
        place = unprivileged / paths.ROOT[1:] / refused
        user = os.geteuid()
        os.seteuid(os.getuid())
        place.chmod(0)
        os.seteuid(user)
        with pytest.raises(AccessDenied):
            _look_at_all_layers(registry)
        os.seteuid(os.getuid())
        place.chmod(0o755)


def _look_at_all_layers(registry: Registry) -> None:
    for name in registry.enumerate():
        layers = registry.repository(name).layers
        for digest in layers.list_unchecked("sha256"):
            layers.stat(digest)


def test_refused_marker_makes_a_repository_too(registry: Registry, tmp_path: Path) -> None:
    for name in (APP, RepositoryName("other")):
        refuse(tmp_path / paths.uploads(name)[1:])
        assert registry.is_repository(name)

"""What the storage refuses, here a symlink in a file's place, hides nothing beside it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.checked import CheckedDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.errors import AccessDenied
from blobfs.reference import RepositoryName, Tag
from blobfs.storage.registry import Registry
from tests.storage.layout import APP, LATEST, Layout

GOOD, REFUSED = Digest.of(b"good"), Digest.of(b"refused")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A good layer and a refused one, a refused blob, and a refused tag."""
    with Registry(CheckedDriver(FilesystemDriver.below(tmp_path))) as registry:
        layout = Layout(CheckedDriver(FilesystemDriver.below(tmp_path)))
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
    assert set(registry.blobs.enumerate()) == {GOOD, REFUSED}
    with pytest.raises(AccessDenied):
        registry.blobs.stat(REFUSED)


def test_refused_ones_are_present(registry: Registry) -> None:
    layers = registry.repository(APP).layers
    assert layers.present([GOOD, REFUSED]) == [GOOD, REFUSED]
    assert registry.blobs.present([GOOD, REFUSED]) == [GOOD, REFUSED]


def test_refused_repository_is_passed_over(registry: Registry, tmp_path: Path) -> None:
    refuse(tmp_path / paths.repository("team/refused")[1:])
    assert list(registry.enumerate()) == [APP]
    with pytest.raises(AccessDenied):
        registry.stat(paths.repository("team/refused"))


def test_refused_marker_makes_a_repository_too(registry: Registry, tmp_path: Path) -> None:
    for name in (APP, RepositoryName("other")):
        refuse(tmp_path / paths.uploads(name)[1:])
        assert registry.is_repository(name)

"""Damaged tags, layers and manifests are replaced and removed by the programs that people use."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.reference import Tag
from tests.support.layout import APP, LATEST, Layout, image
from tests.support.mounts import MountedRegistry, failing_with, mounted
from tests.support.repositories import layer, layers, put_layer, revision, shell

pytestmark = pytest.mark.fuse

LAYER = Digest.of(b"a layer")
IMAGE = image(LAYER)
TARGET = f"../revisions/sha256/{Digest.of(IMAGE).encoded}"
CURRENT = paths.tag_current_link(APP, LATEST)


@pytest.fixture
def allowing(storage: Path, tmp_path: Path, layout: Layout) -> Iterator[MountedRegistry]:
    """A mount in which everything may be deleted, of a tagged image."""
    layout.layer(b"a layer")
    layout.tag(layout.revision(IMAGE))
    with mounted(storage, tmp_path, "--allow-delete") as mount:
        yield mount


@pytest.fixture
def tags(allowing: MountedRegistry) -> Path:
    return allowing.path / APP / "_manifests/tags"


def _empty(link: Path) -> None:
    link.write_bytes(b"")


def _directory(link: Path) -> None:
    link.unlink()
    (link / "below").mkdir(parents=True)


def _outside(link: Path) -> None:
    link.unlink()
    link.symlink_to("/etc/hostname")


each_damage = pytest.mark.parametrize("damage", [_empty, _directory, _outside])


@each_damage
def test_damaged_tag_is_a_symlink_that_cannot_be_read(
    allowing: MountedRegistry, storage: Path, tags: Path, damage: Callable[[Path], None]
) -> None:
    """[S4.1] With one warning that names it."""
    damage(storage / CURRENT[1:])
    number = errno.EACCES if damage is _outside else errno.EIO
    for _ in range(2):
        assert (tags / LATEST).is_symlink()
        with failing_with(number):
            os.readlink(tags / LATEST)
        with failing_with(number):
            (tags / LATEST).stat()
    [warning] = allowing.warnings()
    assert CURRENT in warning


@each_damage
def test_damaged_tag_is_replaced_by_ln_and_mv_and_removed_by_rm(
    storage: Path, tags: Path, damage: Callable[[Path], None]
) -> None:
    """[S8.8] `ln -sfn`, `mv`, `rm` and a manifest that is put replace or remove a damaged tag."""
    damage(storage / CURRENT[1:])
    done = shell("ln", "-sfn", TARGET, tags / LATEST)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tags / LATEST).read_bytes() == IMAGE
    damage(storage / CURRENT[1:])
    (tags / "next").symlink_to(TARGET)
    done = shell("mv", "-fT", tags / "next", tags / LATEST)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tags / LATEST).read_bytes() == IMAGE
    damage(storage / CURRENT[1:])
    done = shell("rm", tags / LATEST)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.listdir(tags) == []


def test_damaged_tag_is_replaced_by_a_manifest_that_is_put(storage: Path, tags: Path) -> None:
    """[S8.8] `ln -sfn`, `mv`, `rm` and a manifest that is put replace or remove a damaged tag."""
    _empty(storage / CURRENT[1:])
    (tags.parent / "_uploads" / LATEST).write_bytes(IMAGE)
    assert os.readlink(tags / LATEST) == TARGET


@each_damage
def test_damaged_layer_and_manifest_are_removed_and_put_anew(
    allowing: MountedRegistry, storage: Path, damage: Callable[[Path], None]
) -> None:
    """[S8.8] With `--allow-delete` `rm` removes a damaged layer or manifest."""
    repository = allowing.path / APP
    for links, digest, file in (
        (paths.layers(APP), LAYER, layer(repository, LAYER)),
        (paths.revisions(APP), Digest.of(IMAGE), revision(repository, Digest.of(IMAGE))),
    ):
        damage(storage / paths.link(links, digest)[1:])
        with failing_with(errno.EACCES if damage is _outside else errno.EIO):
            file.read_bytes()
        done = shell("rm", file)
        assert (done.returncode, done.stderr) == (0, "")
        assert not os.path.lexists(file)
    assert put_layer(repository, b"a layer") == LAYER
    assert layers(repository) == {LAYER.encoded: b"a layer"}


def test_link_without_a_blob_is_removed(
    allowing: MountedRegistry, storage: Path, layout: Layout
) -> None:
    """[S8.8] With `--allow-delete` `rm` removes a damaged layer or manifest."""
    layout.driver.delete(paths.blob_data(LAYER).removesuffix("/data"))
    file = layer(allowing.path / APP, LAYER)
    with failing_with(errno.EIO):
        file.read_bytes()
    done = shell("rm", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (storage / paths.link(paths.layers(APP), LAYER)[1:]).exists()


def test_damaged_layer_is_an_error_where_it_cannot_be_removed(
    layout: Layout, mount: MountedRegistry
) -> None:
    """[S4.1] Looking it up is EIO, with one warning that names it."""
    digest = layout.link(paths.layers(APP), Digest.of(b"lost"))
    with failing_with(errno.EIO):
        layer(mount.path / APP, digest).lstat()


def test_tag_that_stands_for_a_damaged_manifest_is_moved(
    allowing: MountedRegistry, layout: Layout, tags: Path
) -> None:
    """[S8.8] A change does not need what it replaces to be readable."""
    other = layout.revision(image(LAYER, LAYER))
    layout.tag(other, Tag("v1"))
    layout.driver.delete(paths.blob_data(other).removesuffix("/data"))
    done = shell("ln", "-sfn", TARGET, tags / "v1")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tags / "v1").read_bytes() == IMAGE

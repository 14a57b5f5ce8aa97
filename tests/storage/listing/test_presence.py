"""A registry that was there and is gone from its storage, which is never shown as an empty one."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.errors import BlobUnknown, LinkDangling, PathNotFound, StorageUnavailable
from blobfs.storage.registry import Registry, open_registry
from tests.support.layout import APP, Layout, all_blobs

DIGEST = Digest.of(b"layer")
Question = Callable[[Registry], object]
Loss = Callable[[Path], object]

QUESTIONS: dict[str, tuple[str, Question]] = {
    "list the root": ("repositories", lambda registry: list(registry.children(""))),
    "list a repository": ("repositories", lambda registry: list(registry.children(APP))),
    "look for a repository": ("repositories", lambda registry: registry.is_repository(APP)),
    "list repositories": ("repositories", lambda registry: list(registry.enumerate())),
    "list layers": (
        "repositories",
        lambda registry: list(registry.repository(APP).layers.list_unchecked("sha256")),
    ),
    "list tags": (
        "repositories",
        lambda registry: list(registry.repository(APP).tags.list_unchecked()),
    ),
    "list uploads": (
        "repositories",
        lambda registry: list(registry.repository(APP).uploads.enumerate()),
    ),
    "look for a layer": (
        "repositories",
        lambda registry: registry.repository(APP).layers.stat(DIGEST),
    ),
    "list blobs": ("blobs", lambda registry: all_blobs(registry.blobs)),
    "look for a blob": ("blobs", lambda registry: registry.repository(APP).layers.stat(DIGEST)),
    "open a blob": ("blobs", lambda registry: registry.blobs.open(DIGEST)),
    "store a blob": ("blobs", lambda registry: registry.blobs.put(b"another")),
    "link a blob": (
        "repositories",
        lambda registry: registry.repository(APP).layers.link(Digest.of(b"x"), DIGEST),
    ),
    "check the health": ("blobs", lambda registry: registry.reach()),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture
def registry(root: Path) -> Iterator[Registry]:
    """A registry in a directory, with one layer, which was looked at."""
    root.mkdir()
    with closing(FilesystemDriver.below(root)) as driver:
        Layout(driver).layer(b"layer")
    with open_registry(str(root)) as registry:
        assert list(registry.enumerate()) == [APP]
        registry.repository(APP).layers.stat(DIGEST)
        yield registry


def _removed(part: Path) -> None:
    shutil.rmtree(part)


def _unmounted(part: Path) -> None:
    """Leave an empty directory of another file system's, as umount(8) does."""
    part.rename(part.with_name("unmounted"))
    part.mkdir()


@pytest.mark.parametrize(("part", "ask"), QUESTIONS.values(), ids=QUESTIONS)
@pytest.mark.parametrize("loss", [_removed, _unmounted])
def test_part_that_is_gone_is_an_error(
    registry: Registry, root: Path, loss: Loss, part: str, ask: Question
) -> None:
    """[S4.4] So is a registry whose `docker/registry/v2`, `repositories` or `blobs` is missing, or
    replaced by an empty directory, after it was there.
    """
    loss(root / "docker/registry/v2" / part)
    with pytest.raises(StorageUnavailable, match="is gone from the storage"):
        ask(registry)
    if loss is _unmounted:
        assert list((root / "docker/registry/v2" / part).iterdir()) == [], "nothing is put there"


def test_registry_without_its_root_is_not_well_until_it_is_back(
    registry: Registry, root: Path
) -> None:
    """[S4.4] `/readyz` and `.blobfs/health.json` say so.
    [S17.8] Else 503 and what fails, with the reason.
    """
    docker = root / "docker"
    docker.rename(root / "away")
    with pytest.raises(StorageUnavailable):
        registry.reach()
    with pytest.raises(StorageUnavailable):
        list(registry.children(""))
    shutil.copytree(root / "away", docker)
    registry.reach()
    assert list(registry.enumerate()) == [APP]


def test_registry_that_was_emptied_by_hand_is_empty(registry: Registry, root: Path) -> None:
    """[S4.4] A directory that is still the same may be empty. The directory is the same, so
    somebody has deleted what was in it.
    """
    shutil.rmtree(root / "docker/registry/v2/repositories/team")
    assert list(registry.enumerate()) == []
    registry.reach()


def test_registry_that_never_held_anything_is_empty(root: Path) -> None:
    """[S4.4] A directory that is still the same may be empty."""
    root.mkdir()
    with open_registry(str(root)) as registry:
        registry.reach()
        with pytest.raises(PathNotFound):
            registry.children("")
        registry.blobs.put(b"first")
        assert len(all_blobs(registry.blobs)) == 1


def test_missing_name_in_a_registry_that_is_there_is_missing(registry: Registry) -> None:
    with pytest.raises(PathNotFound):
        registry.children("other")
    with pytest.raises(BlobUnknown):
        registry.repository(APP).layers.stat(Digest.of(b"never linked"))


@pytest.mark.parametrize("with_directory", [False, True], ids=["missing", "empty"])
def test_links_without_any_blob_are_damage_from_the_start(
    root: Path, *, with_directory: bool
) -> None:
    """[S4.5] The whole blob store is empty or missing. Whatever was there before this mount: the
    blob store is not mounted.
    """
    link = Path(f"{root}{paths.link(paths.layers(APP), DIGEST)}")
    link.parent.mkdir(parents=True)
    link.write_text(str(DIGEST))
    if with_directory:
        Path(f"{root}{paths.BLOBS}/sha256").mkdir(parents=True)
    with open_registry(str(root)) as registry, pytest.raises(LinkDangling):
        registry.repository(APP).layers.stat(DIGEST)

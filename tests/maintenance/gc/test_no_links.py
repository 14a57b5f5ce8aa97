"""A storage with blobs and without links: its repositories are not mounted, or gc removed all."""

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.drivers.location import Location
from blobfs.errors import StorageUnavailable
from blobfs.inventory import scanning
from tests.maintenance.gc.conftest import AT_ONCE, Garbage
from tests.maintenance.gc.test_collector import OTHER, aside, once
from tests.support.layout import APP, Layout, image

PLAIN = replace(AT_ONCE, layers=False, untagged=False)


def repositories(garbage: Garbage) -> Path:
    return Path(garbage.url) / paths.REPOSITORIES[1:]


def unmount(directory: Path) -> None:
    """Leave the empty directory on which a file system was mounted."""
    directory.rename(directory.with_name("elsewhere"))
    directory.mkdir()


def remove(directory: Path) -> None:
    directory.rename(directory.with_name("elsewhere"))


def stored(layout: Layout) -> list[Digest]:
    """Store a tagged image; returns its blobs."""
    layer = layout.layer(b"layer")
    manifest = layout.revision(image(layer))
    layout.tag(manifest)
    return [layer, manifest]


LOSSES = pytest.mark.parametrize("lose", [unmount, remove])


@LOSSES
def test_blobs_stay_if_the_repositories_are_lost(
    garbage: Garbage, lose: Callable[[Path], None]
) -> None:
    """[S19.36] No blob is deleted while the storage has no link, as if the repositories were not
    mounted, unless gc itself has removed the last ones.
    """
    blobs = stored(garbage.layout)
    lose(repositories(garbage))
    outcome = garbage.delete(PLAIN)
    assert all(map(garbage.has_blob, blobs))
    assert outcome.blocked is not None
    assert "mount or restore it" in outcome.blocked
    assert outcome.freed == []
    with garbage.collection(PLAIN).planned() as plan:
        assert plan.blocked == outcome.blocked


@LOSSES
def test_blob_that_was_set_aside_returns_if_the_repositories_are_lost(
    garbage: Garbage, lose: Callable[[Path], None]
) -> None:
    layer, manifest = stored(garbage.layout)
    garbage.layout.driver.move(paths.blob_data(layer), aside(layer))
    lose(repositories(garbage))
    outcome = garbage.delete(PLAIN)
    assert outcome.blocked is not None
    assert garbage.has_blob(layer)
    assert garbage.has_blob(manifest)


def test_blob_that_was_set_aside_returns_if_a_directory_cannot_be_read(garbage: Garbage) -> None:
    blob = garbage.layout.blob(b"perhaps linked")
    garbage.layout.driver.move(paths.blob_data(blob), aside(blob))
    (repositories(garbage) / "elsewhere").symlink_to("/")
    outcome = garbage.delete(PLAIN)
    assert outcome.blocked is not None
    assert garbage.has_blob(blob)


@LOSSES
def test_run_ends_if_the_repositories_are_lost_meanwhile(
    garbage: Garbage, lose: Callable[[Path], None]
) -> None:
    blob = garbage.layout.blob(b"linked meanwhile")

    def link_and_lose() -> None:
        garbage.layout.link(paths.layers(OTHER), blob)
        lose(repositories(garbage))

    with pytest.raises(StorageUnavailable, match="repositories is gone"):
        garbage.delete(PLAIN, wait=once(link_and_lose))
    assert garbage.has_blob(blob)


def test_look_without_links_keeps_all_blobs(garbage: Garbage) -> None:
    """The directory stays, as in an object store whose keys were removed."""
    blob = garbage.layout.blob(b"linked meanwhile")

    def empty() -> None:
        for child in repositories(garbage).iterdir():
            shutil.rmtree(child)

    outcome = garbage.delete(PLAIN, wait=once(empty))
    assert outcome.blocked is not None
    assert garbage.has_blob(blob)
    assert not garbage.has_aside(blob)


@LOSSES
def test_push_into_lost_repositories_does_not_make_the_others_garbage(
    garbage: Garbage, lose: Callable[[Path], None]
) -> None:
    """[S19.36] A push does not end that: another directory of repositories does, or the removal of
    the journal.
    """
    blobs = stored(garbage.layout)
    lose(repositories(garbage))
    garbage.delete(PLAIN)
    scanning.close_all()
    garbage.layout.layer(b"pushed", OTHER)
    for _ in range(2):
        outcome = garbage.delete(PLAIN)
        assert outcome.blocked is not None
        assert f"remove the journal {garbage.state}" in outcome.blocked
    assert all(map(garbage.has_blob, blobs))
    garbage.state.unlink()
    assert garbage.delete(PLAIN).blocked is None
    assert not any(map(garbage.has_blob, blobs))


def test_push_after_all_blobs_were_removed_is_a_new_registry(garbage: Garbage) -> None:
    for child in repositories(garbage).iterdir():
        shutil.rmtree(child)
    assert garbage.delete(PLAIN).blocked is not None
    shutil.rmtree(Path(garbage.url) / paths.BLOBS[1:])
    scanning.close_all()
    garbage.delete(PLAIN)
    stored(garbage.layout)
    assert garbage.delete(PLAIN).blocked is None


def test_grace_does_not_begin_while_links_are_lost(garbage: Garbage) -> None:
    options = replace(PLAIN, grace_s=3600)
    [layer, _] = stored(garbage.layout)
    lost = repositories(garbage)
    unmount(lost)
    garbage.delete(options)
    lost.rmdir()
    lost.with_name("elsewhere").rename(lost)
    (repositories(garbage) / APP / "_layers/sha256" / layer.encoded / "link").unlink()
    shutil.rmtree(repositories(garbage) / APP / "_manifests")
    found = time.time()
    with garbage.collection(options).planned() as plan:
        dues = [entry.due for entry in plan.entries()]
    assert len(dues) == 2
    assert all(due is not None and due >= found + 3600 for due in dues)


def test_links_that_gc_has_removed_itself_are_not_lost(bare: Garbage) -> None:
    blobs = [bare.layout.blob(b"of nobody"), bare.layout.layer(b"old")]
    bare.delete(replace(AT_ONCE, grace_s=3600))
    assert all(map(bare.has_blob, blobs))
    outcome = bare.delete()
    assert outcome.blocked is None
    assert not any(map(bare.has_blob, blobs))


@LOSSES
def test_repositories_that_are_lost_after_gc_has_removed_all_links_keep_blobs(
    bare: Garbage, lose: Callable[[Path], None]
) -> None:
    bare.layout.layer(b"old")
    bare.delete(replace(AT_ONCE, grace_s=3600))
    pushed = stored(bare.layout)
    lose(repositories(bare))
    scanning.close_all()  # as at the end of the process
    bare.delete()
    assert bare.delete().blocked is not None
    assert all(map(bare.has_blob, pushed))


def test_storage_without_directories_is_emptied_too(tmp_path: Path) -> None:
    memory = InMemoryDriver()
    scanning._drivers[Location.of("memory:")] = memory
    garbage = Garbage("memory:", tmp_path / "state", Layout(memory))
    blobs = [garbage.layout.blob(b"of nobody"), garbage.layout.layer(b"old")]
    garbage.delete()
    scanning.close_all()
    assert not any(map(garbage.has_blob, blobs))

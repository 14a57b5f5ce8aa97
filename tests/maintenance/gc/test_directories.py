"""Empty directories, which deleted links and repositories leave."""

import os
import time
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.errors import AccessDenied
from blobfs.maintenance.gc.directories import remove
from tests.maintenance.gc.conftest import Garbage, later
from tests.maintenance.gc.test_collector import once
from tests.support.layout import APP, image
from tests.support.services import cannot, run


@pytest.fixture
def repositories(bare: Garbage) -> Path:
    return Path(bare.url) / paths.REPOSITORIES[1:]


def directories(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_dir()}


def test_repository_without_files_goes(bare: Garbage, repositories: Path) -> None:
    """[S19.34] A directory that is empty for `--age` is removed, and a repository without files."""
    bare.layout.revision(image(bare.layout.layer(b"old")))
    (repositories / APP / "_uploads").mkdir()
    for _ in range(3):
        bare.delete()
    assert directories(Path(bare.url)) == {"docker", "docker/registry", "docker/registry/v2"} | {
        f"docker/registry/v2/{name}" for name in ("blobs", "repositories", "blobs/sha256")
    }


def test_repository_below_an_empty_one_stays(garbage: Garbage, repositories: Path) -> None:
    (repositories / "team/_uploads").mkdir(parents=True)
    manifest = garbage.layout.revision(image(garbage.layout.layer(b"used")))
    garbage.layout.tag(manifest)
    garbage.delete()
    assert garbage.has_revision(manifest)
    assert not (repositories / "team/_uploads").exists()


def test_directories_of_a_used_repository_stay(garbage: Garbage, repositories: Path) -> None:
    """An empty `_uploads` makes no difference to a registry, and its removal could hit a push."""
    garbage.layout.tag(garbage.layout.revision(image(garbage.layout.layer(b"used"))))
    (repositories / APP / "_uploads").mkdir()
    garbage.delete()
    assert (repositories / APP / "_uploads").exists()


def test_young_directory_stays(garbage: Garbage, repositories: Path) -> None:
    (repositories / "new/_uploads/begun").mkdir(parents=True)
    (repositories / "new/_layers").mkdir()
    os.utime(repositories / "new/_layers", (0, 0))
    garbage.delete(later(age_s=60))
    assert (repositories / "new/_uploads/begun").exists()
    assert (repositories / "new/_layers").exists()


def test_mount_point_stays(garbage: Garbage, repositories: Path) -> None:
    if os.geteuid() != 0:
        cannot("only root can mount a small tmpfs")
    mount_point, *others = [repositories / name for name in ("mounted", "another", "zero")]
    for path in (mount_point, *others):
        path.mkdir(parents=True)
    run("mount", "-t", "tmpfs", "-o", "size=64k", "small", mount_point)
    try:
        garbage.delete()
        assert [path.exists() for path in (mount_point, *others)] == [True, False, False]
    finally:
        run("umount", "-l", mount_point)


def test_directory_that_may_not_be_removed_stays() -> None:
    class ForbiddingDriver(InMemoryDriver):
        def prune(self, path: str) -> None:
            raise AccessDenied(path)

    driver = ForbiddingDriver()
    driver.put_content("/d/a", b"")
    driver.delete("/d/a")
    remove(driver, "/d", time.time_ns() + 10**9)
    assert driver.stat("/d").is_dir


def test_directory_that_a_registry_has_just_begun_to_fill_stays(
    garbage: Garbage, repositories: Path
) -> None:
    """An upload's directory is made before its first file."""
    blob = garbage.layout.blob(b"of nobody")
    uploads = repositories / "old/_uploads"
    uploads.mkdir(parents=True)
    day_ago = time.time() - 86400
    for path in (uploads, Path(garbage.url) / paths.blob_data(blob)[1:]):
        os.utime(path, (day_ago, day_ago))
    garbage.delete(later(age_s=60), wait=once((uploads / "begun").mkdir))
    assert not garbage.has_blob(blob)
    assert (uploads / "begun").exists()

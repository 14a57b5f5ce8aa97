"""Programs that copy a mount: what is gone from the storage is never taken for deleted."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from tests.support import images
from tests.support.mounts import MountedRegistry, eventually, mounted
from tests.support.repositories import shell
from tests.support.services import DockerRegistry, delete_manifest, inspect, push, run

pytestmark = [pytest.mark.fuse, pytest.mark.registry, pytest.mark.backup]

AT_ONCE = ("--tag-timeout", "0", "--negative-timeout", "0")
V2 = "docker/registry/v2"

Loss = Callable[[Path], None]


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedRegistry]:
    """A mount of a real registry's storage, walked before the registry collected its garbage."""
    place = tmp_path_factory.mktemp("collected")
    root = place / "storage"
    with DockerRegistry.serving(root) as registry:
        for tag in ("v1", "v2"):
            push(images.small(), registry.address, "library/small", tag)
        push(images.multi(), registry.address, "library/multi", "latest")
        with mounted(root, place, *AT_ONCE) as mount:
            run("find", mount.path, "-ls")
            for name, tag in (("library/small", "v1"), ("library/multi", "latest")):
                digest = inspect(registry.address, name, tag).digest
                delete_manifest(registry.address, name, digest)
            run("docker-registry", "garbage-collect", "--delete-untagged", f"{root}.yml")
            yield mount


def _layers(storage: Path) -> tuple[set[str], set[str]]:
    """The digits of all layers that are linked, and of all blobs that are stored."""
    links = (storage / V2 / "repositories").glob("**/_layers/sha256/*/link")
    blobs = (storage / V2 / "blobs/sha256").glob("*/*/data")
    return {link.parent.name for link in links}, {blob.parent.name for blob in blobs}


PROGRAMS = {
    "find": "find MNT -ls",
    "tar": "tar -C MNT -cf OUT .",
    "rsync": "rsync -aH --delete MNT/ OUT/",
    "restic": "restic -q -r OUT --no-cache init && restic -q -r OUT --no-cache backup MNT",
    "borg": "borg init -e none OUT && cd MNT && borg create OUT::one .",
}


@pytest.mark.parametrize("command", PROGRAMS.values(), ids=PROGRAMS)
def test_copy_succeeds_after_a_garbage_collection(
    collected: MountedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """[S4.5] A link in `_layers` whose blob is missing and that no manifest of the repository names
    is what a registry's garbage collection has left.
    """
    monkeypatch.setenv("RESTIC_PASSWORD", "only a test")
    monkeypatch.setenv("HOME", str(tmp_path))
    command = command.replace("MNT", str(collected.path)).replace("OUT", str(tmp_path / "out"))
    done = shell("sh", "-c", command)
    assert done.returncode == 0, done.stderr


def test_listing_has_the_layers_whose_blobs_are_there(collected: MountedRegistry) -> None:
    """[S4.5] It is not listed, and ENOENT by its name; a metric counts it."""
    linked, stored = _layers(Path(collected.storage))
    assert linked - stored, "a collection leaves links"
    shown = {file.name for file in collected.path.glob("library/*/_layers/sha256/*")}
    assert shown == linked & stored
    counted = (collected.path / ".blobfs/metrics").read_text()
    [line] = [li for li in counted.splitlines() if li.startswith("blobfs_left_over_links_total")]
    assert float(line.split()[1]) > 0


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MountedRegistry, Path]]:
    """A mount, and a copy of it that rsync(1) made."""
    place = tmp_path_factory.mktemp("copied")
    root = place / "disk/storage"
    with DockerRegistry.serving(root) as registry:
        push(images.small(), registry.address, "library/small", "v1")
    with mounted(root, place, *AT_ONCE) as mount:
        copy = place / "copy"
        assert _synchronised(mount, copy) == 0
        yield mount, copy


def _synchronised(mount: MountedRegistry, copy: Path) -> int:
    return shell("rsync", "-aH", "--delete", f"{mount.path}/", copy).returncode


def _names(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*"))


LOSSES = {
    "storage": ".",
    "file system of the storage": "..",
    "docker": "docker",
    "repositories": f"{V2}/repositories",
    "blobs": f"{V2}/blobs",
}


@pytest.mark.parametrize("is_unmounted", [False, True], ids=["moved away", "unmounted"])
@pytest.mark.parametrize("lost", LOSSES.values(), ids=LOSSES)
def test_rsync_deletes_nothing_while_something_is_gone(
    copied: tuple[MountedRegistry, Path], lost: str, *, is_unmounted: bool
) -> None:
    """[S4.4] No shorter listing, no ENOENT, and nothing is committed. And it goes on once it is
    there again.
    """
    mount, copy = copied
    upload = mount.path / "library/small/_uploads/x"
    before = _names(copy)
    place = Path(os.path.normpath(Path(mount.storage) / lost))
    away = place.with_name("away")
    place.rename(away)
    if is_unmounted:
        place.mkdir()
    try:
        assert _synchronised(mount, copy) != 0
        assert _names(copy) == before
        assert shell("cp", "/etc/hostname", upload).returncode != 0
        if is_unmounted:
            assert _names(place) == []
    finally:
        if is_unmounted:
            place.rmdir()
        away.rename(place)
    upload.unlink(missing_ok=True)
    assert _synchronised(mount, copy) == 0
    assert _names(copy) == before


def test_storage_that_is_restored_at_its_path_is_shown(
    copied: tuple[MountedRegistry, Path],
) -> None:
    """[S4.4] As soon as something is at the path again, that is shown.
    [S17.9] `.blobfs/health.json` has what was last found out about that. Until then the mount is
    not well, and says so.
    """
    mount, copy = copied
    before = _names(copy)
    storage = Path(mount.storage)
    shutil.copytree(storage, storage.with_name("backup"))
    shutil.rmtree(storage)
    eventually(lambda: mount.control("health.json")["status"] == "failing")
    failures = json.dumps(mount.control("health.json")["failures"])
    assert "restore or mount it" in failures
    storage.with_name("backup").rename(storage)
    assert _synchronised(mount, copy) == 0
    assert _names(copy) == before
    shutil.copytree(storage / V2 / "repositories/library", storage / V2 / "repositories/restored")
    assert "restored" in os.listdir(mount.path)
    eventually(lambda: mount.control("health.json")["status"] == "ok")


@pytest.mark.parametrize("size", [1_000, 3 * 2**20], ids=["small", "large"])
def test_upload_that_began_before_the_storage_was_replaced_is_not_lost_in_the_old_one(
    tmp_path: Path, size: int
) -> None:
    """[S4.4] As soon as something is at the path again, that is shown and written to, whatever
    directory it is. The blob is where the path leads to, whole, or the close fails.
    """
    storage = tmp_path / "storage"
    content = random.Random(size).randbytes(size)
    blob = Path(f"{storage}{paths.blob_data(Digest.of(content))}")
    (storage / V2 / "repositories").mkdir(parents=True)
    with mounted(storage, tmp_path, *AT_ONCE) as mount:
        (mount.path / "app").mkdir()
        with suppress(OSError), (mount.path / "app/_uploads/x").open("wb", buffering=0) as file:
            file.write(content[: size // 2])
            os.fsync(file)
            storage.rename(tmp_path / "old")
            shutil.copytree(tmp_path / "old", storage)
            file.write(content[size // 2 :])
        state = os.getxattr(mount.path / "app/_uploads/x", "user.blobfs.state")
        if state == b"committed":
            assert blob.read_bytes() == content
        else:
            assert not blob.exists()

"""Uploads to a storage that is full, or refuses to be written."""

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs.digest import Digest
from tests.support.mounts import MountedRegistry, failing_with, mounted
from tests.support.repositories import layers, shell, upload
from tests.support.services import cannot, run
from tests.support.writers import state

pytestmark = pytest.mark.fuse

SMALL = random.Random(6).randbytes(50_000)
LARGE = random.Random(7).randbytes(6 * 2**20)


class Disk:
    """A file system of 4 MiB."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """Leave no room at all."""
        with failing_with(errno.ENOSPC), self._filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def make_room(self) -> None:
        self._filler.unlink(missing_ok=True)
        run("mount", "-o", "remount,size=64m", self.path)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid() != 0:
        cannot("only root can mount a small tmpfs")
    path = tmp_path / "disk"
    path.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=4m", "small", path)
    try:
        yield Disk(path)
    finally:
        run("umount", "-l", path)


@pytest.fixture
def app(disk: Disk, tmp_path: Path) -> Iterator[Path]:
    """A repository on the disk."""
    with mounted(disk.path / "storage", tmp_path, "--create") as mount:
        (mount.path / "app").mkdir()
        yield mount.path / "app"


def test_cp_says_that_the_disk_is_full_and_nothing_is_published(app: Path, tmp_path: Path) -> None:
    """[S7.16] A full disk is ENOSPC and a quota EDQUOT, at the write or at the close."""
    (tmp_path / "source").write_bytes(LARGE)
    file = upload(app, "layer.tar")
    done = shell("cp", tmp_path / "source", file)
    assert done.stderr.startswith(f"cp: error writing '{file}': No space left on device\n")
    assert layers(app) == {}
    assert state(file).startswith("failed: ")


@pytest.mark.parametrize("name", ["layer.tar", str(Digest.of(LARGE))], ids=["any", "declared"])
def test_error_of_a_write_is_that_of_every_later_close(app: Path, name: str) -> None:
    """[S7.16] Again at every later close of that opening."""
    opened = os.open(upload(app, name), os.O_WRONLY | os.O_CREAT)
    duplicates = [os.dup(opened) for _ in range(3)]
    with failing_with(errno.ENOSPC):
        for start in range(0, len(LARGE), 2**16):
            os.write(opened, LARGE[start : start + 2**16])
    for duplicate in [*duplicates, opened]:
        with failing_with(errno.ENOSPC):
            os.close(duplicate)
    assert layers(app) == {}


def test_upload_is_gone_on_with_once_there_is_room(app: Path, disk: Disk) -> None:
    """[S7.16] With room again, the upload can be gone on with.
    [S7.5] An open upload is gone on with by `>>`, `dd oflag=append conv=notrunc`, `rsync --append`
    and the like.
    """
    file = upload(app, Digest.of(LARGE))
    with failing_with(errno.ENOSPC):
        file.write_bytes(LARGE)
    received = file.read_bytes()
    assert 2**20 < len(received) < len(LARGE)
    assert LARGE.startswith(received)
    disk.make_room()
    with file.open("ab") as more:
        more.write(LARGE[len(received) :])
    assert layers(app) == {Digest.of(LARGE).encoded: LARGE}


@pytest.mark.parametrize("name", ["layer.tar", str(Digest.of(SMALL))], ids=["any", "declared"])
def test_what_was_kept_in_memory_is_refused_at_the_close(app: Path, disk: Disk, name: str) -> None:
    """[S7.16] A full disk is ENOSPC and a quota EDQUOT, at the write or at the close."""
    disk.fill()
    opened = os.open(upload(app, name), os.O_WRONLY | os.O_CREAT)
    assert os.write(opened, SMALL) == len(SMALL)
    with failing_with(errno.ENOSPC):
        os.close(opened)
    assert upload(app, name).read_bytes() == SMALL
    assert state(upload(app, name)).startswith("failed: ")
    assert layers(app) == {}


def test_what_was_refused_at_the_close_is_committed_once_there_is_room(
    app: Path, disk: Disk
) -> None:
    """[S7.16] With room again, the upload can be gone on with."""
    disk.fill()
    file = upload(app, Digest.of(SMALL))
    with failing_with(errno.ENOSPC):
        file.write_bytes(SMALL)
    disk.make_room()
    file.open("ab").close()
    assert state(file) == "committed"
    assert layers(app) == {Digest.of(SMALL).encoded: SMALL}


def test_manifest_and_tag_need_room_too(app: Path, disk: Disk) -> None:
    """[S7.16] A full disk is ENOSPC and a quota EDQUOT, at the write or at the close."""
    upload(app, "layer.tar").write_bytes(b"x")
    disk.fill()
    content = b'{"schemaVersion": 2, "manifests": [], "mediaType": "%s"}' % (
        b"application/vnd.oci.image.index.v1+json"
    )
    file = app / "_manifests/_uploads/v1"
    with failing_with(errno.ENOSPC):
        file.write_bytes(content)
    assert os.listdir(app / "_manifests/tags") == []
    disk.make_room()
    file.write_bytes(content)
    assert (app / "_manifests/tags/v1").read_bytes() == content


@pytest.fixture
def refusing(storage: Path, mount: MountedRegistry) -> Iterator[Path]:
    """A directory of the storage that cannot be written, not even by root."""
    blobs = storage / "docker/registry/v2/blobs"
    blobs.mkdir(parents=True)
    if shell("chattr", "+i", blobs).returncode != 0:
        cannot("chattr +i does not work here")
    try:
        yield blobs
    finally:
        run("chattr", "-i", blobs)


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_storage_that_refuses_is_an_error_and_nothing_is_lost(
    refusing: Path, mount: MountedRegistry, content: bytes
) -> None:
    """[S7.1] What goes wrong is an errno of the call that can carry it."""
    (mount.path / "app").mkdir()
    file = upload(mount.path / "app", Digest.of(content))
    with failing_with(errno.EACCES):
        file.write_bytes(content)
    assert file.read_bytes() == content
    assert state(file).startswith("failed: ")
    assert layers(mount.path / "app") == {}
    run("chattr", "-i", refusing)
    file.open("ab").close()
    assert layers(mount.path / "app") == {Digest.of(content).encoded: content}

"""A storage of several file systems: an event loop touches only those of this machine."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobfs.concurrency import TakesLong, waiting
from blobfs.drivers.filesystem import FilesystemDriver
from tests.support.stoppable_filesystem import Remote

pytestmark = pytest.mark.fuse


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A storage with a directory ``blobs`` to mount something at."""
    (tmp_path / "storage/blobs").mkdir(parents=True)
    (tmp_path / "storage/link").write_bytes(b"near")
    return tmp_path / "storage"


@pytest.fixture
def driver(root: Path) -> Iterator[FilesystemDriver]:
    driver = FilesystemDriver.below(root)
    assert driver.is_local
    yield driver
    driver.close()


@pytest.fixture
def far(root: Path, tmp_path: Path) -> Iterator[None]:
    """A file system of another machine at ``blobs``, with a file."""
    (tmp_path / "far").mkdir()
    (tmp_path / "far/data").write_bytes(b"far")
    (root / "blobs").rmdir()
    remote = Remote(tmp_path / "far", root / "blobs")
    yield
    remote.die()
    remote.disconnect()


@pytest.mark.usefixtures("far")
def test_call_to_a_far_mount_is_for_a_thread(driver: FilesystemDriver) -> None:
    """[S4.9] If that one does not answer, the mount goes on with everything else."""
    for _ in range(2):  # also once the mount is known
        for call in driver.stat, driver.open, driver.listdir, lambda p: driver.read_at(p, 0, 9):
            with waiting, pytest.raises(TakesLong):
                call("/blobs/data")
        with waiting:
            assert driver.read_at("/link", 0, 9) == b"near"
        assert driver.read_at("/blobs/data", 0, 9) == b"far"


@pytest.mark.usefixtures("far")
def test_what_a_thread_has_opened_of_a_far_mount_is_read_in_threads(
    driver: FilesystemDriver,
) -> None:
    """[S4.9] If that one does not answer, the mount goes on with everything else."""
    with driver.open("/blobs/data") as reader:
        assert reader.read_nowait(0, 9) is None
        with waiting, pytest.raises(TakesLong):
            reader.read_at(0, 9)
        assert reader.read_at(0, 9) == b"far"
    entries = driver.listdir("/blobs")
    with waiting:  # read when it was opened: an iterator that fails would seem to end
        assert [entry.name for entry in entries] == ["data"]
    with driver.append("/link") as writer:
        assert writer.can_write_nowait(1)


@pytest.mark.usefixtures("as_root")
def test_local_mount_is_reached_at_once_when_it_is_known(
    driver: FilesystemDriver, root: Path
) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", root / "blobs"], check=True)
    try:
        (root / "blobs/data").write_bytes(b"local")
        with waiting, pytest.raises(TakesLong):
            driver.stat("/blobs/data")
        driver.stat("/blobs/data")
        with waiting, driver.open("/blobs/data") as reader:
            assert reader.read_nowait(0, 9) == b"local"
    finally:
        subprocess.run(["umount", root / "blobs"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", root / "blobs"], check=True)
    try:
        with waiting, pytest.raises(TakesLong):  # it may be of any kind
            driver.stat("/blobs")
    finally:
        subprocess.run(["umount", root / "blobs"], check=True)

"""Mount namespaces of a test's own, which keep the mounts of the other workers' tests."""

import subprocess
import time
from pathlib import Path

import pytest

from tests.support.mounts import BLOBFS, MountedRegistry, eventually, has_ended, run

pytestmark = [pytest.mark.fuse, pytest.mark.alone]


@pytest.fixture
def storage_on_disk(on_disk: Path) -> Path:
    """An empty registry's root that is there also for those who have another /dev."""
    root = on_disk / "storage"
    (root / "docker/registry/v2").mkdir(parents=True)
    return root


def test_umount_names_a_mount_namespace_that_keeps_the_daemon(
    storage: Path, tmp_path: Path
) -> None:
    """[S6.6] `blobfs umount` says at once where that is. As a container's that was started after
    the mount.
    """
    place = tmp_path / "m"
    place.mkdir()
    assert run("mount", storage, place).returncode == 0
    pid = MountedRegistry(storage, place, tmp_path / "log").pid
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as container:
        assert container.stdout is not None
        container.stdout.readline()  # it has its namespace
        done = run("umount", place)
        container.kill()
    assert done.returncode == 1
    assert f"{place} in the mount namespace of s" in done.stderr
    eventually(lambda: has_ended(pid))


def test_daemon_that_cannot_mount_says_why(storage_on_disk: Path, on_disk: Path) -> None:
    """[S6.1] `blobfs mount` returns when the mount answers, or prints why not and exits 1, within
    30 s. On a machine without the device.
    """
    place = on_disk / "m"
    place.mkdir()
    without_devices = 'mount -t tmpfs none /dev && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", without_devices, "sh",
               *BLOBFS, "mount", str(storage_on_disk), str(place)]  # fmt: skip
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "/dev/fuse cannot be used" in done.stderr
    assert time.monotonic() - began < 30


_NO_LOG = """
set -e
new=$(mktemp -d)
mount -t tmpfs none "$new"
touch "$new/fuse" "$new/null"
mount --bind /dev/fuse "$new/fuse"
mount --bind /dev/null "$new/null"
mount --rbind "$new" /dev
"$@"
umount "$0"
"""
"""A machine without a system log: *place*, and the command of the mount."""


def test_log_that_goes_nowhere_is_told_at_the_mount(storage_on_disk: Path, on_disk: Path) -> None:
    """[S6.12] A mount whose log nobody keeps, or whose Redis does not answer, is made all the same,
    and says so on stderr.
    """
    place = on_disk / "m"
    place.mkdir()
    command = ["unshare", "--mount", "sh", "-c", _NO_LOG, str(place), *BLOBFS, "mount",
               str(storage_on_disk), str(place)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == (
        "this machine has no system log (/dev/log): the mount logs nothing; give --log-file FILE\n"
    )

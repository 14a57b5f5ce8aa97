"""A storage on a file system that is not this machine's: it may hang, die and come back."""

import errno
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blobfs.digest import Digest
from tests.support.layout import APP
from tests.support.mounts import MountedRegistry, eventually, failing_with, mounted
from tests.support.stoppable_filesystem import Remote

pytestmark = pytest.mark.fuse


@pytest.fixture
def mount(remote: Remote, tmp_path: Path) -> Iterator[MountedRegistry]:
    options = ("--entry-timeout", "0", "--tag-timeout", "0", "--negative-timeout", "0")
    with mounted(remote.path, tmp_path, *options) as mount:
        yield mount


BLOB = f"{APP}/_layers/sha256/{Digest.of(b'far away').encoded}"


def test_blob_is_read(mount: MountedRegistry) -> None:
    """[S2.1] A file's bytes are the blob's."""
    assert (mount.path / BLOB).read_bytes() == b"far away"


def test_storage_that_dies_is_an_error_until_it_is_back(
    mount: MountedRegistry, remote: Remote
) -> None:
    """[S4.3] A storage that becomes unreadable is EIO for what needs it."""
    assert (mount.path / BLOB).exists()
    remote.die()
    for path in (BLOB, APP):
        with failing_with(errno.EIO):
            os.stat(mount.path / path)
    with failing_with(errno.EIO):
        os.listdir(mount.path)
    assert mount.warnings()
    remote.disconnect()
    remote.connect()
    assert (mount.path / BLOB).read_bytes() == b"far away"


def test_storage_that_hangs_holds_up_nothing_else(mount: MountedRegistry, remote: Remote) -> None:
    """[S4.3] One that does not answer holds up nothing that does not need it."""
    remote.process.send_signal(signal.SIGSTOP)
    with subprocess.Popen(["cat", mount.path / BLOB], stdout=subprocess.PIPE) as waiting:
        try:
            for _ in range(50):
                assert mount.control("stats.json")["uptime_s"] > 0
            assert waiting.poll() is None
        finally:
            remote.process.send_signal(signal.SIGCONT)
        assert waiting.communicate(timeout=30)[0] == b"far away"


def test_mount_tells_of_itself_while_the_storage_hangs(
    mount: MountedRegistry, remote: Remote
) -> None:
    """[S18.1] All but `uploads.json` and the first read of `health.json` answer at once, also while
    the storage does not.
    """
    names = set(os.listdir(mount.path / ".blobfs")) - {"uploads.json", "errors"}
    remote.process.send_signal(signal.SIGSTOP)
    with subprocess.Popen(["cat", mount.path / BLOB], stdout=subprocess.PIPE) as waiting:
        try:
            eventually(lambda: len(_under_way(mount)) > 1)
            assert all((mount.path / ".blobfs" / name).read_text() for name in names)
            assert (mount.path / ".blobfs/errors").read_text() == ""
            assert waiting.poll() is None
        finally:
            remote.process.send_signal(signal.SIGCONT)


def test_requests_that_hang_are_told_of(mount: MountedRegistry, remote: Remote) -> None:
    """[S18.2] `requests.json` has the oldest 200 requests of the kernel that are not answered, the
    oldest first.
    """
    remote.process.send_signal(signal.SIGSTOP)
    with subprocess.Popen(["cat", mount.path / BLOB], stdout=subprocess.PIPE):
        try:
            eventually(lambda: len(found := _under_way(mount)) > 1 and found[0]["seconds"] > 0.5)
            first = second = _under_way(mount)
            while second == first:  # what was rendered is kept for a moment
                second = _under_way(mount)
        finally:
            remote.process.send_signal(signal.SIGCONT)
    assert f"/{BLOB}".startswith(first[0]["path"])
    assert first[-1]["path"] == "/.blobfs/requests.json"
    for field in ("operation", "path"):
        assert first[0][field] == second[0][field]
    assert 0 < first[0]["seconds"] < second[0]["seconds"]


def _under_way(mount: MountedRegistry) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((mount.path / ".blobfs/requests.json").read_text())
    return found

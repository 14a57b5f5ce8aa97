"""What a mount tells over HTTP, and that nothing which is done there harms the mount."""

import errno
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from blobfs.mountinfo import mount_at
from tests.support.http_client import get
from tests.support.mounts import MountedRegistry, eventually, mounted, run
from tests.support.services import free_port
from tests.support.stoppable_filesystem import Remote

pytestmark = pytest.mark.fuse


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def mount(storage: Path, tmp_path: Path, port: int) -> Iterator[MountedRegistry]:
    with mounted(storage, tmp_path, "--http", str(port)) as mount:
        yield mount


def test_pages_are_there_when_the_command_returns(mount: MountedRegistry, port: int) -> None:
    """[S17.1] `--http HOST:PORT` serves `/metrics`, `/healthz`, `/readyz` and `/debug/tasks` to
    whoever can connect. A daemon's, which has left its terminal.
    """
    assert mount.path.is_mount()
    assert get(port, "/healthz").json() == {}
    assert get(port, "/readyz").json() == {}
    assert b"blobfs_fuse_requests_total" in get(port, "/metrics").content
    assert b"attend" in get(port, "/debug/tasks?all=1").content


def test_without_the_option_nobody_listens(storage: Path, tmp_path: Path) -> None:
    with mounted(storage, tmp_path) as mount:
        listening = Path(f"/proc/{mount.pid}/net/tcp").read_text()
        inodes = {os.readlink(fd) for fd in Path(f"/proc/{mount.pid}/fd").iterdir()}
    sockets = (line.split() for line in listening.splitlines()[1:])
    assert not [s for s in sockets if s[3] == "0A" and f"socket:[{s[9]}]" in inodes]


def test_address_that_is_taken_leaves_no_mount(storage: Path, tmp_path: Path) -> None:
    """[S17.2] What is no address, another machine's, or taken already, is refused before there is a
    mount.
    """
    place = tmp_path / "m"
    place.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("mount", storage, place, "--http", port)
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: --http {port}: Address already in use; choose another address or port\n"
    )
    assert mount_at(place) is None


def test_unmount_waits_for_no_client(storage: Path, tmp_path: Path, port: int) -> None:
    """[S17.5] Waits up to a second for answers that have begun, and for nothing else."""
    with ExitStack() as clients:
        with mounted(storage, tmp_path, "--http", str(port)):
            for _ in range(5):
                client = clients.enter_context(socket.create_connection(("127.0.0.1", port)))
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            began = time.monotonic()
        assert time.monotonic() - began < 5  # how long an idle connection may stay


def test_storage_that_dies_is_not_ready_until_it_is_back(
    remote: Remote, tmp_path: Path, port: int
) -> None:
    """[S17.7] `/healthz` is 200 as long as the mount answers at all, whatever its storage does.
    [S17.8] `/readyz` is 200 and `{}` if the storage answers.
    """
    with mounted(remote.path, tmp_path, "--http", str(port)) as mount:
        remote.die()
        eventually(lambda: get(port, "/readyz").status == 503)
        assert (
            os.strerror(errno.ENOTCONN) in get(port, "/readyz").json()["storagedriver_filesystem"]
        )
        assert get(port, "/healthz").status == 200
        eventually(lambda: mount.control("health.json")["status"] == "failing")
        remote.disconnect()
        remote.connect()
        eventually(lambda: get(port, "/readyz").status == 200)


def test_storage_that_hangs_is_not_ready_and_holds_up_no_other_page(
    remote: Remote, tmp_path: Path, port: int
) -> None:
    """[S17.7] `/healthz` is 200 as long as the mount answers at all, whatever its storage does.
    [S17.8] Else 503 and what fails, with the reason.
    [S17.9] `.blobfs/health.json` has what was last found out about that.
    [S17.10] `/debug/tasks` has the number of requests of the kernel that are not answered.
    """
    with mounted(remote.path, tmp_path, "--http", str(port)) as mount:
        remote.process.send_signal(signal.SIGSTOP)
        try:
            with subprocess.Popen(["ls", mount.path / "anything"], stderr=subprocess.DEVNULL):
                eventually(lambda: b"operation=lookup" in get(port, "/debug/tasks").content)
                assert get(port, "/healthz").status == 200
                assert get(port, "/metrics").status == 200
                assert mount.control("health.json")["failures"].keys() <= {
                    "storagedriver_filesystem"
                }
                answer = get(port, "/readyz")
                remote.process.send_signal(signal.SIGCONT)
        finally:
            remote.process.send_signal(signal.SIGCONT)
        assert answer.status == 503
        assert answer.json()["storagedriver_filesystem"].startswith("no answer for ")
        eventually(lambda: get(port, "/readyz").status == 200)

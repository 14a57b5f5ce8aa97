"""What systemd is told of a mount: a datagram socket stands for it."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.mounts import BLOBFS, eventually, run

pytestmark = pytest.mark.fuse


class Systemd:
    """What is told, as systemd listens for it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(10)

    def next(self) -> dict[str, str]:
        """The next message's variables."""
        lines = self.socket.recv(4096).decode().split("\n")
        return dict(line.partition("=")[::2] for line in lines)

    def silence(self) -> bool:
        """Whether there is none."""
        self.socket.settimeout(0.3)
        try:
            self.socket.recv(4096)
        except TimeoutError:
            return True
        return False


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@{tmp_path}/notify"
    systemd = Systemd(address)
    yield systemd
    systemd.socket.close()


@contextmanager
def _service(storage: Path, place: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A mount in the foreground, as systemd runs it."""
    place.mkdir()
    command: list[str | Path] = [*BLOBFS, "mount", "--foreground", storage, place]
    with subprocess.Popen(command, env={**os.environ, **environment}) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()


def test_is_told_when_the_mount_answers_and_when_it_ends(
    systemd: Systemd, storage: Path, tmp_path: Path
) -> None:
    """[S17.14] systemd is told when the mount answers (`Type=notify`)."""
    place = tmp_path / "m"
    with _service(storage, place, NOTIFY_SOCKET=systemd.address) as process:
        assert systemd.next() == {
            "READY": "1",
            "MAINPID": str(process.pid),
            "STATUS": f"{storage} is mounted at {place}",
        }
        assert place.is_mount()
        process.terminate()
        assert systemd.next() == {"STOPPING": "1"}
        assert process.wait(10) == 0


@pytest.mark.parametrize("systemd", ["path"], indirect=True)
def test_watchdog_hears_of_the_event_loop_until_it_hangs(
    systemd: Systemd, storage: Path, tmp_path: Path
) -> None:
    """[S17.14] That its event loop goes on (`WatchdogSec`)."""
    variables = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "100000"}
    with _service(storage, tmp_path / "m", **variables) as process:
        told = [systemd.next() for _ in range(6)]
        assert sum("WATCHDOG" in message for message in told) == 5
        process.send_signal(signal.SIGSTOP)
        eventually(systemd.silence)


@pytest.mark.parametrize("systemd", ["path"], indirect=True)
def test_watchdog_of_another_process_is_not_ours(
    systemd: Systemd, storage: Path, tmp_path: Path
) -> None:
    """[S17.14] That its event loop goes on (`WatchdogSec`)."""
    variables = {
        "NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "50000", "WATCHDOG_PID": "1",
    }  # fmt: skip
    with _service(storage, tmp_path / "m", **variables):
        assert "READY" in systemd.next()
        assert systemd.silence()


@pytest.mark.parametrize("systemd", ["path"], indirect=True)
def test_daemon_tells_which_process_it_is(
    systemd: Systemd, storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S17.14] systemd is told when the mount answers (`Type=notify`), that its event loop goes on
    (`WatchdogSec`), and that it ends.
    """
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.address)
    (tmp_path / "m").mkdir()
    assert run("mount", storage, tmp_path / "m", "--pid-file", tmp_path / "pid").returncode == 0
    told = systemd.next()
    assert told["MAINPID"] == (tmp_path / "pid").read_text().strip()
    assert run("umount", tmp_path / "m").returncode == 0


def test_systemd_that_is_not_there_is_no_trouble(storage: Path, tmp_path: Path) -> None:
    """[S17.14] systemd is told when the mount answers (`Type=notify`), that its event loop goes on
    (`WatchdogSec`), and that it ends.
    """
    place = tmp_path / "m"
    with _service(storage, place, NOTIFY_SOCKET=str(tmp_path / "nobody")) as process:
        eventually((place / ".blobfs").exists)
        process.terminate()
        assert process.wait(10) == 0

"""HTTP clients beside the programs that use a mount."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.http_client import get
from tests.support.mounts import mounted
from tests.support.services import free_port

pytestmark = [pytest.mark.fuse, pytest.mark.alone]


def _asks_until(ends: float, port: int) -> int:
    """How often it was answered."""
    asked = 0
    while time.monotonic() < ends:
        assert get(port, "/metrics").status == 200
        asked += 1
    return asked


def _looks_until(ends: float, path: Path) -> int:
    """How often the mount was asked for something that the kernel does not know."""
    looked = 0
    while time.monotonic() < ends:
        assert not (path / f"missing-{ends}-{looked}").exists()
        looked += 1
    return looked


def test_mount_serves_while_clients_ask_without_end(storage: Path, tmp_path: Path) -> None:
    """[S17.6] Who asks without end waits, and the mount does not."""
    port = free_port()
    with mounted(storage, tmp_path, "--http", str(port)) as mount:
        undisturbed = _looks_until(time.monotonic() + 0.5, mount.path)
        with ThreadPoolExecutor(8) as clients:
            ends = time.monotonic() + 0.5
            asking = [clients.submit(_asks_until, ends, port) for _ in range(8)]
            disturbed = _looks_until(ends, mount.path)
            assert sum(client.result() for client in asking) > 0
        assert disturbed > undisturbed / 5  # a twentieth, where they are answered at once

"""Real mounts for tests: a daemon of its own process, unmounted whatever happens."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from blobfs.errors import MountRefused
from blobfs.host.unmount import unmount
from blobfs.mountinfo import mount_at
from tests.support.command_server import command_server

BLOBFS = (sys.executable, "-m", "tests.support.guards")  # blobfs, with watched locks


Command = Callable[..., subprocess.CompletedProcess[str]]


class MountedRegistry:
    """A mount of *storage* at *path*, and what its daemon says of itself."""

    def __init__(self, storage: Path | str, path: Path, log: Path) -> None:
        self.storage = storage
        self.path = path
        self.log = log

    @property
    def pid(self) -> int:
        return int(self.control("config.json")["pid"])

    def control(self, name: str) -> dict[str, Any]:
        """One of the JSON files of ``/.blobfs``."""
        document: dict[str, Any] = json.loads((self.path / ".blobfs" / name).read_text())
        return document

    def warnings(self) -> list[str]:
        """What was logged as a warning or worse."""
        lines = self.log.read_text().splitlines()
        return [line for line in lines if " WARNING " in line or " ERROR " in line]


def run(*arguments: object, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """The blobfs command, as a person runs it, but that its modules are imported already."""
    return command_server().run([*map(str, arguments)], timeout_s)


def run_anew(*arguments: object, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """The blobfs command in a new interpreter, whose command line has *arguments*."""
    return subprocess.run(
        [*BLOBFS, *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
        timeout=timeout_s,
    )


@contextmanager
def mounted(
    storage: Path | str, tmp_path: Path, *options: str, start: Command = run
) -> Iterator[MountedRegistry]:
    """Mount *storage* below *tmp_path*; a daemon that does not end well fails the test."""
    number = sum(1 for _ in tmp_path.glob("mnt*"))
    mount = MountedRegistry(storage, tmp_path / f"mnt{number}", tmp_path / f"log{number}")
    mount.path.mkdir()
    done = start("mount", storage, mount.path, "--log-file", mount.log, *options)
    assert done.returncode == 0, done.stderr
    try:
        yield mount
    except BaseException:
        subprocess.run(["umount", "-l", str(mount.path)], check=False)
        raise
    _unmount(mount.path)
    assert mount_at(mount.path) is None
    assert "Traceback" not in mount.log.read_text()


def _unmount(path: Path) -> None:
    """What ``blobfs umount`` does, without the half second in which a command starts."""
    try:
        unmount(path)
    except MountRefused as exc:
        copied = re.search(r"also shows at .*the daemon \(pid (\d+)\)", str(exc))
        if copied is None:
            subprocess.run(["umount", "-l", str(path)], check=False)
            raise
        # A test of another worker has a mount namespace, for a moment.
        eventually(lambda: not Path("/proc", copied[1]).exists(), within_s=60)


@contextmanager
def failing_with(number: int) -> Iterator[None]:
    """What is done inside fails, with this errno and no other."""
    with pytest.raises(OSError) as caught:  # noqa: PT011  (the errno says which)
        yield
    assert caught.value.errno == number, caught.value


def eventually(holds: Callable[[], bool], *, within_s: float = 10.0) -> None:
    """Wait until *holds* does; fails after *within_s*."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {within_s:g} s"
        time.sleep(0.01)


def has_ended(process: int) -> bool:
    """Whether a process has ended, but for threads that the kernel keeps in a call that hangs."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return True

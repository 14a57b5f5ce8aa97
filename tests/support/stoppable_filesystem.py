"""A file system that is not this machine's: it may hang, die and come back."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

from tests.support.mounts import eventually

RCLONE = Path(sys.executable).with_name("rclone")


class Remote:
    """What ``rclone mount`` shows of *origin* at *path*, caching nothing."""

    def __init__(self, origin: Path, path: Path) -> None:
        self.origin = origin
        self.path = path
        path.mkdir()
        self.connect()

    def connect(self) -> None:
        self.process = subprocess.Popen(
            [RCLONE, "mount", self.origin, self.path, "--config", "/dev/null",
             "--dir-cache-time", "0", "--attr-timeout", "0"],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        eventually(self.path.is_mount)

    def die(self) -> None:
        self.process.kill()
        self.process.wait()

    def disconnect(self) -> None:
        subprocess.run(["umount", "-l", self.path], check=True)


class Stoppable:
    """*origin*, which is made if it is missing, on a FUSE file system at *path* that can hang."""

    def __init__(self, origin: Path, path: Path) -> None:
        origin.mkdir(exist_ok=True)
        path.mkdir(exist_ok=True)
        self.path = path
        self._process = subprocess.Popen(["bindfs", "-f", origin, path])
        eventually(path.is_mount)

    def stop(self) -> None:
        """Let it answer nobody."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it answer."""
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        subprocess.run(["umount", "-l", self.path], check=True)

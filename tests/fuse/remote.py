"""A file system that is not this machine's: it may hang, die and come back."""

import subprocess
import sys
from pathlib import Path

from tests.fuse.mounts import eventually

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

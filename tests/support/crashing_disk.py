"""A disk that forgets what was not synced, and a mount on it whose daemon is killed."""

import fcntl
import os
import signal
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from tests.support.command_server import command_server
from tests.support.mounts import eventually
from tests.support.services import cannot

_EXT4_IOC_SHUTDOWN: Final = 0x8004587D  # linux/include/uapi/linux/ext4.h
_NOLOGFLUSH: Final = 2


class Disk:
    """A file system of its own at *path*."""

    def __init__(self, image: Path, path: Path) -> None:
        self._image = image
        self.path = path

    @classmethod
    @contextmanager
    def made(cls, tmp_path: Path, size: int) -> Iterator[Self]:
        """A disk of *size* bytes, which takes room only for what is in it."""
        if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
            cannot("a disk that can crash needs root and loop devices")
        disk = cls(tmp_path / "image", tmp_path / "disk")
        disk.path.mkdir()
        with disk._image.open("wb") as image:
            image.truncate(size)
        try:
            subprocess.run(["mkfs.ext4", "-q", disk._image], check=True)
            disk.attach()
            yield disk
        finally:
            subprocess.run(["umount", "-l", disk.path], check=False, stderr=subprocess.DEVNULL)
            disk._image.unlink()

    def attach(self) -> None:
        """Mount it, which brings its journal to the end."""
        # The loop device goes with the mount.
        subprocess.run(["mount", "-o", "loop", self._image, self.path], check=True)

    def lose_power(self) -> None:
        """Lose what was not synced; from now on whatever is asked of it fails."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NOLOGFLUSH))
        finally:
            os.close(fd)

    def detach(self) -> None:
        """Unmount it, once nobody uses it any more."""
        command = ["umount", str(self.path)]
        eventually(lambda: subprocess.run(command, check=False, stderr=-3).returncode == 0)
        # The mount namespace of another test may keep it mounted. Attached again before that ends,
        # a crashed disk would be as it was left, without a look at its journal.
        devices = ["losetup", "--noheadings", "--associated", str(self._image)]

        def is_free() -> bool:
            return not subprocess.run(devices, check=True, capture_output=True).stdout

        eventually(is_free, within_s=60)


class Daemon:
    """A mount of *storage* at *path*, of a process that can be killed."""

    def __init__(self, storage: Path | str, path: Path, log: Path) -> None:
        self.path = path
        with log.open("ab") as output:
            command = ["mount", "--create", "--foreground", str(storage), str(path)]
            self._process = command_server().start(command, output, output)

    @classmethod
    @contextmanager
    def serving(cls, storage: Path | str, tmp_path: Path) -> Iterator[Self]:
        """The mount, which is killed in the end if it was not before."""
        path = tmp_path / "mount"
        path.mkdir(exist_ok=True)
        daemon = cls(storage, path, tmp_path / "log")
        try:
            eventually((path / ".blobfs").exists)
            yield daemon
        finally:
            daemon.kill()
            subprocess.run(["umount", "-l", path], check=False, stderr=subprocess.DEVNULL)

    def end(self) -> None:
        """End it as a person would."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()

    def kill(self) -> None:
        """End it at once."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

"""Taking a mount away, alive or dead."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from blobfs.errors import MountRefused
from blobfs.mountinfo import Mount, mount_at

_FSTYPE: Final = "fuse.blobfs"


def unmount(mountpoint: Path, *, timeout_s: float = 60.0) -> None:
    """Unmount *mountpoint*, alive or dead, and wait until its daemon has ended.

    Raises MountRefused if it is no mount of ours, is in use, or the daemon does not end.
    """
    mount = _our_mount(mountpoint)
    pid = _daemon_of(mount)
    try:
        daemon = os.pidfd_open(pid) if pid is not None else None
    except ProcessLookupError:
        daemon = None
    helper = (
        ["umount", "--no-canonicalize"]
        if os.getuid() == 0
        else [shutil.which("fusermount3") or "fusermount", "-u"]
    )
    done = subprocess.run(  # noqa: S603  (our own words, and a path after them)
        [*helper, str(mount.mountpoint)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise MountRefused(_why_not(mount, done.stderr.strip()))
    if daemon is not None and not select.select([daemon], [], [], timeout_s)[0]:
        raise MountRefused(
            f"unmounted, but the daemon (pid {pid}) still runs after {timeout_s:g} s"
        )


def _our_mount(mountpoint: Path) -> Mount:
    absolute = mountpoint.absolute()
    mount = mount_at(absolute) or mount_at(Path(os.path.realpath(absolute)))
    if mount is None or mount.fstype != _FSTYPE:
        raise MountRefused(f"no blobfs is mounted at {mountpoint}; see: findmnt -t {_FSTYPE}")
    return mount


def _daemon_of(mount: Mount) -> int | None:
    """The pid that the mount itself tells; None if it is dead, or says nothing for 5 s."""
    answer: list[int] = []

    def ask() -> None:
        try:
            config = json.loads((mount.mountpoint / ".blobfs/config.json").read_text())
            answer.append(int(config["pid"]))
        except (OSError, ValueError, KeyError):
            pass  # dead

    _in_thread(ask, timeout_s=5.0)
    return answer[0] if answer else None


def _why_not(mount: Mount, said: str) -> str:
    if "busy" not in said:
        return said
    users: list[str] = []
    _in_thread(lambda: users.extend(_users(mount.mountpoint)), timeout_s=2.0)
    who = f" by {', '.join(users)}" if users else ""
    return f"{mount.mountpoint} is in use{who}; end that, or run: umount -l {mount.mountpoint}"


def _users(mountpoint: Path) -> Iterator[str]:
    """Who has something open below *mountpoint*, as ``name (pid)``; readlink(2) only."""
    for process in Path("/proc").iterdir():
        if (
            process.name.isdecimal()
            and int(process.name) != os.getpid()
            and _uses(process, mountpoint)
        ):
            name = (process / "comm").read_text(errors="replace").strip()
            yield f"{name} ({process.name})"


def _uses(process: Path, mountpoint: Path) -> bool:
    try:
        links = [process / "cwd", process / "root", *(process / "fd").iterdir()]
        return any(Path(os.readlink(link)).is_relative_to(mountpoint) for link in links)
    except OSError:
        return False  # it has ended, or is none of our business


def _in_thread(call: Callable[[], object], *, timeout_s: float) -> None:
    """Wait for *call*, which a hung mount may hold for ever, no longer than *timeout_s*."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(timeout_s)

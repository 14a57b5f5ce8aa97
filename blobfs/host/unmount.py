"""Removes a mount whose daemon lives, hangs or is dead."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from blobfs.concurrency import ThreadCall
from blobfs.errors import MountRefused, StorageTimeout
from blobfs.mountinfo import Mount, mount_at, mounts

_FSTYPE: Final = "fuse.blobfs"

_QUIET_S: Final = 2.0
"""The waiting time before a message is shown."""

_MOST_NAMED: Final = 5  # mount points or programs in one message


def unmount(
    mountpoint: Path,
    *,
    timeout_s: float = 60.0,
    lazy: bool = False,
    waiting: Callable[[str], None] = lambda _: None,
) -> None:
    """Unmount *mountpoint* and wait until its daemon has ended.

    *lazy* detaches a mount that is in use, and does not wait. *waiting* is called with a message
    if the daemon takes more than 2 s. Raises MountRefused if the mount is not one of blobfs, is
    in use, is visible elsewhere too, or if its daemon does not end within *timeout_s*.
    """
    mount = _our_mount(mountpoint)
    pid = _daemon_of(mount)
    with _descriptor_of(pid) as daemon:
        _detach(mount, lazy=lazy)
        if daemon is None or lazy:
            return
        if places := _other_places(mount):
            raise MountRefused(
                f"{mount.mountpoint} is unmounted, but its mount also shows at {_some(places)}; "
                f"the daemon (pid {pid}) ends when that is unmounted too"
            )
        if _ends(daemon, _QUIET_S):
            return
        waiting(f"waiting up to {timeout_s:g} s for the daemon (pid {pid}) to finish its uploads")
        if not _ends(daemon, timeout_s - _QUIET_S):
            raise MountRefused(
                f"{mount.mountpoint} is unmounted, but the daemon (pid {pid}) still runs after "
                f"{timeout_s:g} s; its log says what it waits for"
            )


def _detach(mount: Mount, *, lazy: bool) -> None:
    done = subprocess.run(  # noqa: S603  (constant arguments and a path)
        [*_helper(lazy=lazy), str(mount.mountpoint)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise MountRefused(_failure(mount, done.stderr.strip()))


def _helper(*, lazy: bool) -> list[str]:
    if os.getuid() == 0:
        return ["umount", "--no-canonicalize", *(["--lazy"] if lazy else [])]
    return [shutil.which("fusermount3") or "fusermount", "-uz" if lazy else "-u"]


@contextmanager
def _descriptor_of(pid: int | None) -> Iterator[int | None]:
    """Open a pidfd for the ``with`` block; None if the process is unknown or has ended."""
    try:
        descriptor = os.pidfd_open(pid) if pid is not None else None
    except ProcessLookupError:
        descriptor = None
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _ends(daemon: int, timeout_s: float) -> bool:
    """Wait for the process of a pidfd; True if it has ended."""
    poll = select.poll()  # select(2) has a largest descriptor
    poll.register(daemon, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def _our_mount(mountpoint: Path) -> Mount:
    absolute = mountpoint.absolute()
    mount = mount_at(absolute) or mount_at(Path(os.path.realpath(absolute)))
    if mount is None or mount.fstype != _FSTYPE:
        raise MountRefused(f"no blobfs is mounted at {mountpoint}; see: findmnt -t {_FSTYPE}")
    return mount


def _daemon_of(mount: Mount) -> int | None:
    """Read the pid in the mount's ``config.json``; None if the mount gives none within 5 s."""
    config = mount.mountpoint / ".blobfs/config.json"
    try:
        return int(json.loads(ThreadCall("umount", config.read_text).result(5.0))["pid"])
    except (OSError, ValueError, KeyError, StorageTimeout):
        return None  # dead, or hung


def _failure(mount: Mount, message: str) -> str:
    """Explain a failed unmount; *message* is that of the helper program."""
    if "busy" not in message:
        return message
    users = [f"a mount at {below}" for below in _mounts_below(mount.mountpoint)]
    # What it has found at the end of the time is shown.
    ThreadCall("umount", lambda: users.extend(_users(mount.mountpoint))).has_ended(2.0)
    who = f" by {_some(users)}" if users else ""
    return (
        f"{mount.mountpoint} is in use{who}; end that, or detach the mount: "
        f"blobfs umount --lazy {mount.mountpoint}"
    )


def _mounts_below(mountpoint: Path) -> Iterator[Path]:
    for mount in mounts():
        if mount.mountpoint != mountpoint and mount.mountpoint.is_relative_to(mountpoint):
            yield mount.mountpoint


def _other_places(mount: Mount) -> list[str]:
    """List the mount points of the same file system, here and in other mount namespaces.

    Containers have a mount namespace, and so do systemd's services with private directories.
    """
    places = [str(other.mountpoint) for other in mounts() if other.device == mount.device]
    seen = {_namespace(Path("/proc/self"))}
    for process in _processes():
        namespace = _namespace(process)
        if namespace in seen:
            continue
        seen.add(namespace)
        try:
            shown = [m.mountpoint for m in mounts(process.name) if m.device == mount.device]
            name = _name(process)
        except OSError:
            continue  # it has ended
        places += [f"{place} in the mount namespace of {name}" for place in shown]
    return places


def _namespace(process: Path) -> str | None:
    try:
        return os.readlink(process / "ns/mnt")
    except OSError:
        return None  # it has ended, or belongs to another user


def _some(names: Sequence[str]) -> str:
    """Join the first names of a list, with a count of the rest."""
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _users(mountpoint: Path) -> Iterator[str]:
    """Yield the processes that use a path below *mountpoint*, as ``name (pid)``.

    It uses only readlink(2), which sends no request to the mount.
    """
    for process in _processes():
        if int(process.name) != os.getpid() and _uses(process, mountpoint):
            yield _name(process)


def _processes() -> Iterator[Path]:
    return (process for process in Path("/proc").iterdir() if process.name.isdecimal())


def _name(process: Path) -> str:
    return f"{(process / 'comm').read_text(errors='replace').strip()} ({process.name})"


def _uses(process: Path, mountpoint: Path) -> bool:
    try:
        links = [process / "cwd", process / "root", *(process / "fd").iterdir()]
        return any(Path(os.readlink(link)).is_relative_to(mountpoint) for link in links)
    except OSError:
        return False  # it has ended, or this user may not look

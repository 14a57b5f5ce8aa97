"""What the kernel lets one set of a mount only after it is there; as well as may be."""

from __future__ import annotations

import logging
from pathlib import Path

from blobfs.mountinfo import mount_at

log = logging.getLogger(__name__)


def tune(mountpoint: Path, *, readahead_kb: int, max_background: int) -> None:
    """Set how far the kernel reads ahead, and how many such requests it keeps under way.

    What is not allowed (the first needs root) is logged, with the command that does it.
    """
    mount = mount_at(mountpoint)
    if mount is None:
        return
    _, _, minor = mount.device.partition(":")
    if readahead_kb:
        _write(Path(f"/sys/class/bdi/{mount.device}/read_ahead_kb"), readahead_kb)
    _write(Path(f"/sys/fs/fuse/connections/{minor}/max_background"), max_background)


def _write(path: Path, value: int) -> None:
    try:
        path.write_text(f"{value}\n", encoding="ascii")
    except FileNotFoundError:
        log.debug("%s is not there; left as it is", path)  # no fusectl, as in most containers
    except OSError as exc:
        log.info("%s; to set it: echo %d | sudo tee %s", exc.strerror, value, path)

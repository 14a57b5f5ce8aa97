"""What a mount logs, and how that is changed while it is there."""

import errno
import json
import os
import signal
from pathlib import Path

import pytest

from tests.support.layout import APP, Layout
from tests.support.mounts import MountedRegistry, eventually, failing_with, mounted

pytestmark = pytest.mark.fuse


def test_signals_change_how_much_is_logged(mount: MountedRegistry) -> None:
    """[S17.13] SIGUSR1 has more logged, SIGUSR2 less, one level each.
    [S17.12] What programs meet every day, such as ENOENT, is logged at `debug` only.
    """

    def meets_what_is_met_every_day() -> int:
        """How many lines of the log are about that."""
        with failing_with(errno.ENODATA):
            os.getxattr(mount.path, "user.nothing")
        return mount.log.read_text().count("ENODATA")

    assert meets_what_is_met_every_day() == 0
    os.kill(mount.pid, signal.SIGUSR1)
    eventually(lambda: "the log level is debug now" in mount.log.read_text())
    assert meets_what_is_met_every_day() == 1
    os.kill(mount.pid, signal.SIGUSR2)
    eventually(lambda: "the log level is info now" in mount.log.read_text())
    assert meets_what_is_met_every_day() == 1


def test_failure_is_one_object_with_its_fields(
    layout: Layout, storage: Path, tmp_path: Path
) -> None:
    """[S17.11] With `--log-format json` a line is an object with `time`, `level`, `logger`,
    `message`.
    """
    digest = layout.layer(b"x")
    layout.driver.delete(f"/docker/registry/v2/blobs/sha256/{digest.encoded[:2]}")
    with mounted(storage, tmp_path, "--log-format", "json") as mount:
        with failing_with(errno.EIO):
            (mount.path / APP / "_layers/sha256" / digest.encoded).stat()
        lines = [json.loads(line) for line in mount.log.read_text().splitlines()]
    [line] = [line for line in lines if line["level"] == "WARNING"]
    assert line["operation"] == "lookup"
    assert line["errno"] == "EIO"
    assert line["seconds"] > 0

"""What went wrong is told in ``/.blobfs/errors`` and in the log, with what it was about."""

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blobfs import paths
from blobfs.digest import Digest
from tests.support.layout import APP, Layout
from tests.support.mounts import MountedRegistry, failing_with, mounted

pytestmark = pytest.mark.fuse


@pytest.fixture
def mount(storage: Path, tmp_path: Path) -> Iterator[MountedRegistry]:
    options = ("--log-level", "debug", "--log-format", "json", "--negative-timeout", "0")
    with mounted(storage, tmp_path, *options) as mount:
        yield mount


def _errors(mount: MountedRegistry) -> list[str]:
    return (mount.path / ".blobfs/errors").read_text().splitlines()


def _logged(mount: MountedRegistry, number: str) -> dict[str, Any]:
    """The line of the log that has the errno *number*."""
    lines = map(json.loads, mount.log.read_text().splitlines())
    [found] = [line for line in lines if line.get("errno") == number]
    return dict(found)


def _broken(layout: Layout, mount: MountedRegistry, content: bytes) -> Path:
    """Where a layer shows whose link is no digest."""
    digest = layout.link(paths.layers(APP), Digest.of(content), b"no digest")
    return mount.path / APP / "_layers/sha256" / digest.encoded


def test_failure_is_told_with_its_errno_path_and_reason(
    layout: Layout, mount: MountedRegistry
) -> None:
    """[S18.3] `errors` has a line for each of the last 100 warnings and errors of the log, with
    time, operation, errno, what it was about, and the reason.
    """
    broken = _broken(layout, mount, b"x")
    with failing_with(errno.EIO):
        broken.stat()
    [line] = _errors(mount)
    assert " WARNING " in line
    assert "lookup: EIO: " in line
    assert broken.name in line
    assert "no digest" in line


def test_last_hundred_failures_are_told(layout: Layout, mount: MountedRegistry) -> None:
    """[S18.3] `errors` has a line for each of the last 100 warnings and errors of the log."""
    broken = [_broken(layout, mount, str(number).encode()) for number in range(105)]
    for path in broken:
        with failing_with(errno.EIO):
            path.stat()
    told = _errors(mount)
    assert len(told) == 100
    assert all(path.name in line for path, line in zip(broken[5:], told, strict=True))


def test_what_programs_meet_every_day_is_not_told(mount: MountedRegistry) -> None:
    """[S18.3] What programs meet every day, such as ENOENT, is not among them."""
    with failing_with(errno.ENOENT):
        (mount.path / "nowhere").stat()
    with failing_with(errno.EPERM):
        (mount.path / ".blobfs/file").touch()
    assert _errors(mount) == []


def test_failed_lookup_is_logged_with_its_path(layout: Layout, mount: MountedRegistry) -> None:
    broken = _broken(layout, mount, b"x")
    with failing_with(errno.EIO):
        broken.stat()
    line = _logged(mount, "EIO")
    assert line["operation"] == "lookup"
    assert line["path"] == f"/{broken.relative_to(mount.path)}"
    assert line["repository"] == APP
    assert 0 < line["seconds"] < 10


def test_failed_open_is_logged_with_its_digest(layout: Layout, mount: MountedRegistry) -> None:
    digest = layout.layer(b"x")
    with failing_with(errno.EROFS):
        (mount.path / APP / "_layers/sha256" / digest.encoded).open("wb")
    line = _logged(mount, "EROFS")
    assert (line["digest"], line["repository"]) == (str(digest), APP)


def test_failed_rename_is_logged_with_both_names(layout: Layout, mount: MountedRegistry) -> None:
    layout.layer(b"x")
    upload = mount.path / APP / "_uploads/one"
    upload.touch()
    with failing_with(errno.EXDEV):
        os.rename(upload, mount.path / APP / "_manifests/_uploads/two")
    line = _logged(mount, "EXDEV")
    assert (line["path"], line["target"]) == (
        f"/{APP}/_uploads/one", f"/{APP}/_manifests/_uploads/two",
    )  # fmt: skip

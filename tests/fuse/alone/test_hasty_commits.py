"""A mount whose commits may not take long."""

import errno
import itertools
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from blobfs import paths
from tests.support.mounts import MountedRegistry, eventually, failing_with, mounted
from tests.support.repositories import layers, upload
from tests.support.writers import state

pytestmark = [pytest.mark.fuse, pytest.mark.alone]


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedRegistry]:
    """A mount whose commits may not take long."""
    directory = tmp_path_factory.mktemp("hasty")
    (directory / "storage").mkdir()
    options = ("--create", "--upload-deadline", "0.2", "--max-upload", "8G")
    with mounted(directory / "storage", directory, *options) as mount:
        (mount.path / "slow").mkdir()
        yield mount


def test_commit_that_takes_too_long_is_stopped_and_can_be_gone_on_with(
    hasty: MountedRegistry,
) -> None:
    """[S7.15] A commit that takes longer than `--upload-deadline` (5 min) answers EIO, and stops if
    it hashes or copies. Zeros are hashed for several seconds; each close gets further.
    """
    file = upload(hasty.path / "slow", "layer.tar")
    with failing_with(errno.EIO), file.open("wb", buffering=0) as opened:
        opened.truncate(4 * 2**30)
    eventually(lambda: "--upload-deadline" in state(file))
    assert layers(hasty.path / "slow") == {}
    stored = Path(f"{hasty.storage}{paths.REPOSITORIES}/slow/_uploads")

    def hashed() -> list[int]:
        names = [file.name for file in stored.glob("*/hashstates/sha256/*")]
        return sorted(int(name) for name in names if name.isdecimal())

    [first] = hashed()

    others = (f"sha256:{number:064x}" for number in itertools.count())

    def gets_further() -> bool:
        with suppress(OSError):  # EIO at the deadline
            os.setxattr(file, "user.blobfs.digest", next(others).encode())
        return hashed()[-1] > first

    eventually(gets_further)
    file.unlink()


def test_upload_that_is_too_large_and_not_declared_is_refused(hasty: MountedRegistry) -> None:
    """[S7.24] An upload with neither digest nor size declared has at most `--max-upload` bytes (64
    GiB): a write or a truncation beyond that is EFBIG, and so is each close after it.
    """
    file = upload(hasty.path / "slow", "too-large")
    with failing_with(errno.EFBIG), file.open("wb", buffering=0) as opened:
        with failing_with(errno.EFBIG):
            opened.truncate(8 * 2**30 + 1)
        with failing_with(errno.EFBIG):
            os.pwrite(opened.fileno(), b"x", 8 * 2**30)
    assert "--max-upload" in state(file)
    with failing_with(errno.EFBIG):
        os.truncate(file, 8 * 2**30 + 1)
    file.unlink()

"""What a crash leaves: whatever was promised, and of the rest nothing that is wrong."""

import json
import logging
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from tests.support import upload_stream
from tests.support.crashing_disk import Daemon, Disk
from tests.support.upload_promises import Promises, check_promises, check_storage, check_uploads
from tests.support.upload_stream import MIB, content_of
from tests.support.writers import blob_in, digest_of, state

pytestmark = pytest.mark.fuse

log = logging.getLogger(__name__)

ROUNDS: Final = 20


def _crash_during_uploads(disk: Disk, tmp_path: Path, promises: Promises, seed: int) -> None:
    """Have a program upload, and everything end at some point of it."""
    chance = random.Random(seed)
    with Daemon.serving(disk.path, tmp_path) as daemon:
        command = [sys.executable, upload_stream.__file__, str(daemon.path), str(seed)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
            assert program.stdout is not None
            for _ in range(chance.randrange(1, 60)):
                line = program.stdout.readline()
                assert line, program.stderr and program.stderr.read().decode()
                promises.handle(json.loads(line))
            time.sleep(chance.random() * 0.01)  # some point between two reports
            if chance.random() < 0.7:
                disk.lose_power()
            daemon.kill()
            for line in program.stdout:
                promises.handle(json.loads(line))
    disk.detach()
    disk.attach()


def _finish_some(mount: Path, promises: Promises, seed: int) -> None:
    """Go on with some of the uploads where they stopped, and give others up."""
    chance = random.Random(seed)
    for path, plan in list(promises.uploads.items()):
        what = chance.choice(["leave", "remove", "finish", "finish", "finish"])
        if what == "leave":
            continue
        upload, digest = mount / path, digest_of(plan.content)
        layer = upload.parent.with_name("_layers") / "sha256" / digest[7:]
        if what == "remove":
            upload.unlink()
        elif (content := upload.read_bytes()) == plan.content:
            upload.rename(layer)
            assert not upload.exists()
        else:
            as_it_should = plan.content.startswith(content)
            with upload.open("ab" if as_it_should else "wb") as file:
                file.write(plan.content[len(content) if as_it_should else 0 :])
            assert state(upload) == "committed", upload
        if what != "remove":
            promises.layers.setdefault(path.rpartition("/_uploads/")[0], set()).add(digest)
        promises.uploads.pop(path)


def _crash_again_and_again(tmp_path: Path, seed: int, rounds: int) -> None:
    promises = Promises()
    with Disk.made(tmp_path, 4096 * MIB) as disk:
        (disk.path / "docker/registry/v2").mkdir(parents=True)
        os.sync()
        for number in range(rounds):
            log.info("seed %d, round %d", seed, number)
            _crash_during_uploads(disk, tmp_path, promises, seed * 1000 + number)
            check_storage(disk.path, promises)
            with Daemon.serving(disk.path, tmp_path) as daemon:
                check_promises(daemon.path, promises)
                check_uploads(daemon.path, disk.path, promises)
                _finish_some(daemon.path, promises, seed)
        promises.verified.clear()
        check_storage(disk.path, promises)


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 10))]
)
def test_crash_leaves_what_was_promised_and_nothing_wrong(tmp_path: Path, seed: int) -> None:
    """[S10.1] A crash of the daemon or the machine, at any moment, leaves of each upload the
    committed blob, or the upload with what was last synced, or, if it was never synced, perhaps
    nothing.
    """
    _crash_again_and_again(tmp_path, seed, ROUNDS)


@pytest.mark.parametrize("size", [1000, 2 * MIB])
def test_blob_that_another_has_just_stored_is_durable_once_it_is_promised(
    tmp_path: Path, size: int
) -> None:
    """[S7.1] A close that returns 0 to whoever has the last descriptor means: verified, durable,
    linked. A registry beside us syncs nothing of what it stores.
    """
    content = content_of(1, size)
    digest = digest_of(content)
    with Disk.made(tmp_path, 64 * MIB) as disk:
        (disk.path / "docker/registry/v2").mkdir(parents=True)
        with Daemon.serving(disk.path, tmp_path) as daemon:
            blob = blob_in(disk.path, digest)
            blob.parent.mkdir(parents=True)
            blob.write_bytes(content)
            (daemon.path / "team").mkdir()
            (daemon.path / "team/_uploads" / digest).write_bytes(content)
            disk.lose_power()
        disk.detach()
        disk.attach()
        assert blob_in(disk.path, digest).read_bytes() == content

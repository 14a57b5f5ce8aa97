"""Uploads to a bucket that the end of a program or a daemon cut off, and what goes on with them."""

import errno
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import pytest

from blobfs.digest import Digest
from tests.support.buckets import CHUNK, Bucket
from tests.support.crashing_disk import Daemon
from tests.support.mounts import eventually, failing_with
from tests.support.repositories import layers, shell, upload
from tests.support.s3_faults import EXPIRED_TOKEN, Fault, Kind, Request
from tests.support.s3_proxy import S3Proxy
from tests.support.writers import KILLED, fed, state

pytestmark = [pytest.mark.fuse, pytest.mark.s3]

SIZES = [3000, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3000]
SIZE = 2 * CHUNK + CHUNK // 2


@cache
def _bytes() -> bytes:
    return random.Random(10).randbytes(SIZE)


@dataclass(frozen=True, slots=True)
class Begun:
    """An upload that has the first *size* bytes of *content*."""

    name: str
    content: bytes
    size: int

    @classmethod
    def of_every_kind(cls) -> Iterator["Begun"]:
        """With and without a declared digest, cut at, beside and between the bounds of parts."""
        for number, size in enumerate(SIZES):
            content = random.Random(size).randbytes(SIZE)
            if number % 2:
                yield cls(f"layer{size}.tar", content, size)
            else:
                yield cls(str(Digest.of(content)), content, size)

    @property
    def first(self) -> bytes:
        return self.content[: self.size]

    @property
    def rest(self) -> bytes:
        return self.content[self.size :]


@contextmanager
def _all_open(repository: Path, begun: list[Begun]) -> Iterator[list[int]]:
    """Descriptors of uploads that have been written so far; the daemon may end inside."""
    files = [os.open(upload(repository, each.name), os.O_WRONLY | os.O_CREAT) for each in begun]
    try:
        for file, each in zip(files, begun, strict=True):
            os.write(file, each.first)
        yield files
    finally:
        for file in files:
            with failing_with(errno.ENOTCONN):
                os.close(file)


def _finish(repository: Path, begun: list[Begun], source: Path) -> None:
    """Go on with each by >> or rsync, and see that it is what it should be."""
    for number, each in enumerate(begun):
        file = upload(repository, each.name)
        assert file.stat().st_size == each.size
        source.write_bytes(each.content)
        if number % 3:
            done = shell("bash", "-c", f"tail -c +{each.size + 1} {source} >> {file}")
        else:
            done = shell("rsync", "--append", source, file)
        assert (done.returncode, done.stderr) == (0, "")
        assert state(file) == "committed"
    assert layers(repository) == {Digest.of(each.content).encoded: each.content for each in begun}


@pytest.fixture
def begun(bucket: Bucket) -> Iterator[list[Begun]]:
    """What a test begins and goes on with; afterwards the bucket has that, whole, and no more."""
    begun = list(Begun.of_every_kind())
    yield begun
    assert bucket.leftovers() == []
    assert bucket.blobs() == {Digest.of(each.content).encoded: each.content for each in begun}
    bucket.empty()


@pytest.mark.parametrize("end", ["killed", "told"])
def test_daemon_ends_while_programs_write(
    bucket: Bucket, tmp_path: Path, begun: list[Begun], end: str
) -> None:
    """[S7.5] An open upload is gone on with by `>>`, `dd oflag=append conv=notrunc`, `rsync
    --append` and the like, in this mount or after a crash or a remount.
    [S7.8] `fsync` makes what was written durable, resumable by anybody, after a crash too.
    [S10.1] A crash of the daemon or the machine, at any moment, leaves of each upload the committed
    blob, or the upload with what was last synced.
    [S13.8] A crash of the daemon leaves each upload as it was at its last close or `fsync`, or 30 s
    before its last write, whichever is later. Killed after a sync, or by SIGTERM without one.
    """
    with Daemon.serving(bucket.url, tmp_path) as daemon:
        app = daemon.path / "app"
        app.mkdir()
        with _all_open(app, begun) as files:
            if end == "killed":
                for file in files:
                    os.fsync(file)
                daemon.kill()
            else:
                daemon.end()
            with failing_with(errno.ENOTCONN):
                os.write(files[0], b"x")
    assert bucket.blobs() == {}
    with Daemon.serving(bucket.url, tmp_path) as daemon:
        _finish(daemon.path / "app", begun, tmp_path / "source")
        daemon.end()


def test_another_mount_goes_on_with_what_was_closed(
    repository: Path, bucket: Bucket, tmp_path: Path, begun: list[Begun]
) -> None:
    """[S7.5] In this mount or after a crash or a remount.
    [S7.12] Uploads of registries and of other mounts are listed, the former under their uuid, and
    can be gone on with.
    [S13.9] An upload that another mount has closed or synced shows with its size, and can be gone
    on with.
    """
    for each in begun:
        file = upload(repository, each.name)
        file.touch()
        os.setxattr(file, "user.blobfs.size", str(SIZE).encode())
        with failing_with(errno.EBADMSG):
            file.write_bytes(each.first)
    assert bucket.blobs() == {}
    with Daemon.serving(bucket.url, tmp_path) as daemon:
        there = daemon.path / repository.name
        assert sorted(os.listdir(there / "_uploads")) == sorted(each.name for each in begun)
        _finish(there, begun, tmp_path / "source")
        daemon.end()
    eventually(lambda: len(os.listdir(repository / "_layers/sha256")) == len(begun))
    assert layers(repository) == {Digest.of(each.content).encoded: each.content for each in begun}


def _is_killed(file: Path) -> bool:
    return state(file) == KILLED


def _cp(target: Path, source: Path) -> list[str | Path]:
    return ["cp", source, target]


def test_killed_cp_publishes_nothing_and_is_gone_on_with(
    repository: Path, bucket: Bucket, tmp_path: Path, begun: list[Begun]
) -> None:
    """[S7.4] A program that is killed publishes nothing but what it had declared and completed.
    [S7.5] An open upload is gone on with by `>>`, `dd oflag=append conv=notrunc`, `rsync --append`
    and the like.
    """
    for number, each in enumerate(begun):
        file = upload(repository, each.name)
        copies = partial(_cp, file)
        with fed(copies, file, each.first, tmp_path / f"fifo{number}") as cp:
            cp.kill()
            cp.wait()
        eventually(partial(_is_killed, file))
    assert bucket.blobs() == {}
    assert layers(repository) == {}
    _finish(repository, begun, tmp_path / "source")


def test_upload_that_the_storage_forgot_begins_anew(repository: Path, bucket: Bucket) -> None:
    """[S10.1] Or, if it was never synced, perhaps nothing. As a rule of the bucket that aborts old
    multipart uploads has it.
    """
    content = random.Random(9).randbytes(SIZE)
    file = upload(repository, Digest.of(content))
    with failing_with(errno.EBADMSG):
        file.write_bytes(content[:-1])
    bucket.abort_multipart_uploads()
    eventually(lambda: file.stat().st_size == 0)
    file.write_bytes(content)
    assert layers(repository) == {Digest.of(content).encoded: content}
    bucket.empty()


@pytest.mark.parametrize(
    "name", [str(Digest.of(_bytes())), "layer.tar"], ids=["declared", "undeclared"]
)
@pytest.mark.parametrize("more", [3000, CHUNK + 100])
def test_sync_that_fails_halfway_takes_nothing_of_the_last_one(
    bucket: Bucket, tmp_path: Path, name: str, more: int
) -> None:
    """[S13.8] A crash of the daemon leaves each upload as it was at its last close or `fsync`, or
    30 s before its last write, whichever is later. Neither do parts that went after it.
    """
    synced = CHUNK + 2_000_000

    def refuse_states(request: Request) -> Fault | None:
        is_state = "/hashstates/" in request.path and request.kind is Kind.PUT
        return EXPIRED_TOKEN if is_state else None

    with (
        S3Proxy.before(bucket.server.endpoint) as proxy,
        Daemon.serving(bucket.url_at(proxy.url), tmp_path) as daemon,
    ):
        (daemon.path / "app").mkdir()
        with _all_open(daemon.path / "app", [Begun(name, _bytes(), synced)]) as [file]:
            os.fsync(file)
            os.write(file, _bytes()[synced : synced + more])
            proxy.faults = refuse_states
            with failing_with(errno.EACCES):
                os.fsync(file)
            daemon.kill()
    with Daemon.serving(bucket.url, tmp_path) as daemon:
        size = upload(daemon.path / "app", name).stat().st_size
        assert size >= synced
        _finish(daemon.path / "app", [Begun(name, _bytes(), size)], tmp_path / "source")
        daemon.end()
    bucket.empty()


@pytest.mark.long
def test_upload_that_nobody_syncs_keeps_all_but_thirty_seconds(
    bucket: Bucket, tmp_path: Path
) -> None:
    """[S13.8] A crash of the daemon leaves each upload as it was at its last close or `fsync`, or
    30 s before its last write, whichever is later.
    """
    begun = Begun("layer.tar", _bytes(), 6 * 2**20)
    with Daemon.serving(bucket.url, tmp_path) as daemon:
        (daemon.path / "app").mkdir()
        with _all_open(daemon.path / "app", [begun]) as [file]:
            time.sleep(31)
            os.write(file, begun.rest[:1000])
            daemon.kill()
    with Daemon.serving(bucket.url, tmp_path) as daemon:
        size = upload(daemon.path / "app", begun.name).stat().st_size
        assert size >= begun.size
        _finish(daemon.path / "app", [replace(begun, size=size)], tmp_path / "source")
        daemon.end()
    bucket.empty()

"""What remains of an upload after its commit, and what an upload says of itself."""

import errno
import os
import random
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from blobfs.digest import Digest
from tests.support.layout import Layout
from tests.support.mounts import BLOBFS, MountedRegistry, eventually, failing_with, mounted
from tests.support.repositories import layer, layers, put_layer, shell, upload
from tests.support.writers import state

pytestmark = pytest.mark.fuse

CONTENT = random.Random(2).randbytes(2**20 + 17)
DIGEST = Digest.of(CONTENT)


@pytest.fixture
def receipt(repository: Path) -> Path:
    file = upload(repository, "layer.tar")
    file.write_bytes(CONTENT)
    return file


def test_receipt_has_the_bytes_of_the_blob(receipt: Path) -> None:
    """[S7.9] A hard link of the blob, with its inode, size, times and link count."""
    assert receipt.read_bytes() == CONTENT
    assert receipt.stat().st_size == len(CONTENT)


def test_receipt_tells_what_it_has_become(receipt: Path) -> None:
    """[S7.13] `user.blobfs.digest` and `user.blobfs.size` are what was declared, and what it has
    once it is committed.
    """
    found = {name: os.getxattr(receipt, name).decode() for name in os.listxattr(receipt)}
    assert {"user.blobfs.media_type", "user.blobfs.repository"} < found.keys()
    del found["user.blobfs.media_type"], found["user.blobfs.repository"]
    assert found == {
        "user.blobfs.state": "committed",
        "user.blobfs.digest": str(DIGEST),
        "user.blobfs.size": str(len(CONTENT)),
    }


def test_receipt_is_changed_without_changing_the_blob(repository: Path, receipt: Path) -> None:
    """[S7.9] `chmod`, `chown` and `touch` succeed and change nothing; `mv` in the directory and
    `rm` leave the blob alone.
    """
    blob = layer(repository, DIGEST)
    before = blob.stat()
    receipt.chmod(0o600)
    os.chown(receipt, 1, 1)
    os.utime(receipt, ns=(1, 1_234_567_890))
    assert _but_mode(receipt) == before[1:]
    renamed = receipt.rename(upload(repository, "renamed"))
    assert renamed.read_bytes() == CONTENT
    renamed.unlink()
    assert os.listdir(repository / "_uploads") == []
    assert (blob.stat(), blob.read_bytes()) == (before, CONTENT)


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_WRONLY | os.O_APPEND, os.O_RDWR])
def test_receipt_cannot_be_written(receipt: Path, flags: int) -> None:
    """[S7.9] To append to it, or to write through a descriptor that outlived the commit, is
    EROFS.
    """
    with failing_with(errno.EROFS):
        os.open(receipt, flags)
    with failing_with(errno.EROFS):
        os.truncate(receipt, 0)


def test_descriptor_that_outlives_the_commit_cannot_write(repository: Path) -> None:
    """[S7.9] To append to it, or to write through a descriptor that outlived the commit, is
    EROFS.
    """
    with upload(repository, DIGEST).open("wb", buffering=0) as file:
        file.write(CONTENT)
        os.fsync(file.fileno())
        for _ in range(2):
            with failing_with(errno.EROFS):
                file.write(b"more")
        with failing_with(errno.EROFS):
            file.truncate(1)
    assert layers(repository) == {DIGEST.encoded: CONTENT}


def test_receipt_is_replaced_by_a_new_upload(repository: Path, receipt: Path) -> None:
    """[S7.9] `>` begins a new upload."""
    receipt.write_bytes(b"another")
    assert os.getxattr(receipt, "user.blobfs.digest").decode() == str(Digest.of(b"another"))
    assert set(layers(repository).values()) == {CONTENT, b"another"}


def test_receipt_is_not_renamed_to_another_digest(repository: Path, receipt: Path) -> None:
    """[S7.2] Other bytes are EBADMSG at the last close, or at the rename, and nothing appears in
    `_layers`.
    """
    with failing_with(errno.EBADMSG):
        os.rename(receipt, upload(repository, Digest.of(b"another")))
    assert receipt.exists()


def test_receipt_goes_after_its_time(storage: Path, tmp_path: Path) -> None:
    """[S7.9] After the commit the name stays for `--receipt-ttl` (1 h)."""
    with mounted(storage, tmp_path, "--receipt-ttl", "0.2") as mount:
        (mount.path / "app").mkdir()
        put = upload(mount.path / "app", "layer.tar")
        put.write_bytes(CONTENT)
        eventually(lambda: not put.exists())
        assert os.listdir(put.parent) == []
        assert layers(mount.path / "app") == {DIGEST.encoded: CONTENT}


def test_receipts_end_with_the_mount(storage: Path, tmp_path: Path) -> None:
    """[S7.9] After the commit the name stays for `--receipt-ttl` (1 h). They are this mount's, not
    the storage's.
    """
    with mounted(storage, tmp_path) as mount:
        (mount.path / "app").mkdir()
        upload(mount.path / "app", "layer.tar").write_bytes(CONTENT)
    with mounted(storage, tmp_path) as mount:
        assert os.listdir(mount.path / "app/_uploads") == []
        assert layers(mount.path / "app") == {DIGEST.encoded: CONTENT}


def test_upload_tells_what_was_declared_and_how_it_goes(repository: Path) -> None:
    """[S7.13] `user.blobfs.state` is `open`, `committed` or `failed: <reason>`;
    `user.blobfs.digest` and `user.blobfs.size` are what was declared.
    """
    file = upload(repository, DIGEST)
    with file.open("wb", buffering=0) as opened:
        os.setxattr(file, "user.blobfs.size", b"5000000")
        opened.write(CONTENT)
        assert {name: os.getxattr(file, name).decode() for name in os.listxattr(file)} == {
            "user.blobfs.state": "open",
            "user.blobfs.digest": str(DIGEST),
            "user.blobfs.size": "5000000",
        }
        with failing_with(errno.EBADMSG):
            opened.close()
    assert state(file).startswith("failed: ")


def _uploads(mount: MountedRegistry, repository: Path) -> list[dict[str, object]]:
    name = str(repository.relative_to(mount.path))
    found: list[dict[str, object]] = mount.control("uploads.json")  # type: ignore[assignment]
    return [upload for upload in found if upload["repository"] == name]


def test_uploads_are_told_until_they_end(shared: MountedRegistry, repository: Path) -> None:
    """[S7.13] `.blobfs/uploads.json` lists every upload that has not ended."""
    with upload(repository, "layer.tar").open("wb", buffering=0) as opened:
        opened.write(CONTENT)
        [told] = _uploads(shared, repository)
        assert (told["name"], told["offset"], told["state"]) == ("layer.tar", len(CONTENT), "open")
        assert datetime.fromisoformat(str(told["started"])).timestamp() > 0
        assert isinstance(told["age"], float)
    eventually(lambda: _uploads(shared, repository) == [])  # it is kept for up to a second


def test_uploads_of_others_are_told(layout: Layout, storage: Path, mount: MountedRegistry) -> None:
    """[S7.13] `.blobfs/uploads.json` lists every upload that has not ended."""
    place = "/docker/registry/v2/repositories/team/app/_uploads/1-2-3"
    layout.put(f"{place}/data", b"begun")
    layout.put(f"{place}/startedat", b"2024-02-29T12:00:00Z")
    [told] = _uploads(mount, mount.path / "team/app")
    assert told.pop("age")
    assert told == {
        "repository": "team/app",
        "name": "1-2-3",
        "uuid": "1-2-3",
        "offset": 5,
        "started": "2024-02-29T12:00:00Z",
        "state": "open",
    }


@pytest.mark.parametrize("below", ["_uploads", "_manifests/tags", "_layers", "_layers/sha256", ""])
def test_directories_take_what_copying_programs_set(
    shared: MountedRegistry, repository: Path, below: str
) -> None:
    """[S7.14] Owner, mode and times can be set on uploads, receipts, tags and directories, as
    copying programs do.
    """
    put_layer(repository, CONTENT)  # so that the storage has the repository, and its times
    directory = repository / below
    directory.chmod(0o700)
    os.chown(directory, 1, 1)
    os.utime(directory, ns=(1, 1))
    after = directory.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (0o40755, os.getuid(), os.getgid())
    assert after.st_mtime_ns != 1


def test_upload_shows_its_mtime_alone(repository: Path) -> None:
    """[S7.14] Only an upload's mtime shows."""
    with upload(repository, "layer.tar").open("wb", buffering=0) as opened:
        opened.write(CONTENT)
        os.fchmod(opened.fileno(), 0o600)
        os.fchown(opened.fileno(), 1, 1)
        os.utime(opened.fileno(), ns=(1, 1_234_567_890))
        found = os.fstat(opened.fileno())
    assert (found.st_mode, found.st_uid, found.st_mtime_ns) == (
        0o100644,
        os.getuid(),
        1_234_567_890,
    )


def _but_mode(path: Path) -> tuple[float, ...]:
    return path.stat()[1:]


def test_receipt_is_a_hard_link_of_the_blob(repository: Path, receipt: Path) -> None:
    """[S7.9] A hard link of the blob, with its inode, size, times and link count, so that `du`,
    `tar` and `rsync -aH` count and copy it once. It is counted and copied once.
    """
    blob = layer(repository, DIGEST)
    assert _but_mode(receipt) == _but_mode(blob)
    assert receipt.stat().st_nlink > 1
    sizes = shell("du", "--apparent-size", "--block-size=1", "-s", repository).stdout.split()
    assert int(sizes[0]) < 2 * len(CONTENT)


def test_rsync_copies_a_receipt_as_a_hard_link(
    repository: Path, receipt: Path, tmp_path: Path
) -> None:
    """[S7.9] A hard link of the blob, with its inode, size, times and link count."""
    done = shell("rsync", "-aH", f"{repository}/", tmp_path / "copy")
    assert (done.returncode, done.stderr) == (0, "")
    copies = [layer(tmp_path / "copy", DIGEST), upload(tmp_path / "copy", receipt.name)]
    assert os.path.samefile(*copies)


def test_descriptor_that_outlives_the_commit_reads_the_blob(repository: Path) -> None:
    """[S7.9] A descriptor that outlived the commit shows the inode number that the upload had."""
    file = upload(repository, DIGEST)
    with file.open("w+b", buffering=0) as opened:
        opened.write(CONTENT)
        os.fsync(opened.fileno())
        assert os.pread(opened.fileno(), 100, 1000) == CONTENT[1000:1100]
        os.fchmod(opened.fileno(), 0o600)
        assert os.fstat(opened.fileno()).st_ino != file.stat().st_ino


def test_blob_is_not_changed_once_its_receipt_is_gone(repository: Path, receipt: Path) -> None:
    """[S2.2] Blobs and manifests never change: to open one for writing is EROFS, and so is to
    change its mode or owner (but for the time that a receipt is a name of it: see S7.9).
    """
    receipt.unlink()
    blob = layer(repository, DIGEST)
    assert (blob.stat().st_mode, blob.stat().st_nlink) == (0o100444, 2)
    with failing_with(errno.EROFS):
        blob.chmod(0o600)


def test_write_to_the_layer_of_a_receipt_leaves_both(repository: Path, receipt: Path) -> None:
    """[S2.2] Blobs and manifests never change: to open one for writing is EROFS."""
    with failing_with(errno.EROFS):
        layer(repository, DIGEST).open("wb")
    assert receipt.read_bytes() == CONTENT


def test_receipt_goes_with_the_link_of_its_layer(storage: Path, tmp_path: Path) -> None:
    """[S7.9] Or until the layer is removed."""
    with mounted(storage, tmp_path, "--allow-delete") as mount:
        (mount.path / "app").mkdir()
        put = upload(mount.path / "app", "layer.tar")
        put.write_bytes(CONTENT)
        layer(mount.path / "app", DIGEST).unlink()
        assert not put.exists()
        assert os.listdir(put.parent) == []


def test_reason_of_a_failed_upload_outlives_the_mount(storage: Path, tmp_path: Path) -> None:
    """[S7.13] The reason is stored with the upload, and a later mount shows it."""
    with mounted(storage, tmp_path) as mount:
        (mount.path / "app").mkdir()
        file = upload(mount.path / "app", DIGEST)
        with failing_with(errno.EBADMSG):
            file.write_bytes(b"other bytes")
        reason = state(file)
    with mounted(storage, tmp_path) as mount:
        file = upload(mount.path / "app", DIGEST)
        assert state(file) == reason
        assert reason.startswith("failed: ")
        [told] = mount.control("uploads.json")
        assert told["state"] == reason  # type: ignore[index]


def test_daemon_that_is_told_to_end_seals_what_is_open(storage: Path, tmp_path: Path) -> None:
    """[S7.5] An open upload is gone on with by `>>`, `dd oflag=append conv=notrunc`, `rsync
    --append` and the like, in this mount or after a crash or a remount.
    [S6.3] SIGTERM and SIGINT unmount.
    """
    place = tmp_path / "place"
    place.mkdir()
    with subprocess.Popen([*BLOBFS, "mount", "--foreground", storage, place]) as process:
        eventually((place / ".blobfs").exists)
        (place / "app").mkdir()
        opened = os.open(upload(place / "app", DIGEST), os.O_WRONLY | os.O_CREAT)
        os.write(opened, CONTENT[:1000])
        process.terminate()
        assert process.wait(10) == 0
    with failing_with(errno.ENOTCONN):
        os.close(opened)
    with mounted(storage, tmp_path) as mount:
        file = upload(mount.path / "app", DIGEST)
        assert file.read_bytes() == CONTENT[:1000]
        with file.open("ab") as more:
            more.write(CONTENT[1000:])
        assert layers(mount.path / "app") == {DIGEST.encoded: CONTENT}


def test_every_close_after_a_failed_one_fails_alike(repository: Path) -> None:
    """[S7.2] Other bytes are EBADMSG at the last close, or at the rename, and nothing appears in
    `_layers`. Whoever closes last is told.
    """
    file = upload(repository, DIGEST)
    opened = os.open(file, os.O_WRONLY | os.O_CREAT)
    duplicate = os.dup(opened)
    os.write(opened, b"other bytes")
    os.close(opened)
    with failing_with(errno.EBADMSG):
        os.close(duplicate)


def test_copying_programs_find_nothing_to_complain_of(repository: Path, tmp_path: Path) -> None:
    """[S7.9] `mv` in the directory and `rm` leave the blob alone, so that `rsync`, `install` and
    `mv` work.
    [S7.14] Owner, mode and times can be set on uploads, receipts, tags and directories, as copying
    programs do.
    """
    source = tmp_path / "layer.tar"
    source.write_bytes(CONTENT)
    target = repository / "_uploads"
    commands: list[list[str | Path]] = [
        ["cp", "--preserve=all", source, target],
        ["rsync", "-aHS", source, target],
        ["rsync", "-rlptgoD", f"{tmp_path}/", target],
        ["install", "-p", "-m", "600", "-o", "0", source, target],
        ["mv", source, target],
    ]
    for command in commands:
        done = shell(*command)
        assert (done.returncode, done.stderr) == (0, ""), command
    assert layers(repository) == {DIGEST.encoded: CONTENT}

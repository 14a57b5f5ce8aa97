"""One file that two writers of a machine have open, and files that move away under a writer."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from operator import methodcaller
from pathlib import Path

import pytest

from blobfs.drivers.base import FileWriter, StorageDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.drivers.resumable import uploads_of
from blobfs.errors import AccessDenied, Busy, Stale
from tests.support.files import content_of
from tests.support.services import cannot

each_change = pytest.mark.parametrize(
    "change",
    [
        methodcaller("write", b"!"),
        methodcaller("rewrite", 0, b"!"),
        methodcaller("truncate", 0),
        methodcaller("flush"),
        methodcaller("commit"),
        methodcaller("move_to", "/blobs/b"),
    ],
    ids=["write", "rewrite", "truncate", "flush", "commit", "move_to"],
)
Change = Callable[[FileWriter], object]


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[FilesystemDriver]:
    tmp_path.chmod(0o755)
    driver = FilesystemDriver.below(tmp_path)
    yield driver
    driver.close()


@pytest.fixture
def writer(driver: StorageDriver) -> FileWriter:
    writer = driver.create("/uploads/data")
    writer.write(b"content")
    return writer


@each_change
def test_file_that_another_has_moved_is_never_changed(
    driver: StorageDriver, writer: FileWriter, tmp_path: Path, change: Change
) -> None:
    """[S7.20] An upload that another mount or a registry has committed or removed is ESTALE for
    whoever has it open here.
    """
    (tmp_path / "uploads/data").rename(tmp_path / "blob")
    with pytest.raises(Stale):
        change(writer)
    writer.close()
    assert content_of(driver, "/blob") == b"content"


@each_change
def test_file_that_another_has_replaced_is_never_changed(
    driver: StorageDriver, writer: FileWriter, tmp_path: Path, change: Change
) -> None:
    """[S7.20] An upload that another mount or a registry has committed or removed is ESTALE for
    whoever has it open here.
    """
    (tmp_path / "uploads/data").rename(tmp_path / "blob")
    (tmp_path / "uploads/data").write_bytes(b"content")
    with pytest.raises(Stale):
        change(writer)
    assert content_of(driver, "/uploads/data") == b"content"


@pytest.mark.parametrize("change", ["write", "rewrite", "truncate", "move_to"])
def test_file_that_another_has_written_is_not_changed(
    driver: StorageDriver, writer: FileWriter, tmp_path: Path, change: str
) -> None:
    """[S7.12] Where another mount or a registry has written since the file was opened here, a
    write, an fsync and a close are EBUSY.
    """
    with (tmp_path / "uploads/data").open("ab") as other:
        other.write(b" of another")
    act = {"write": (b"!",), "rewrite": (0, b"!"), "truncate": (0,), "move_to": ("/b",)}[change]
    with pytest.raises(Busy):
        getattr(writer, change)(*act)
    assert content_of(driver, "/uploads/data") == b"content of another"


def test_fingerprint_is_kept_by_a_writer_that_changes_nothing(
    driver: StorageDriver, writer: FileWriter
) -> None:
    before = writer.fingerprint
    writer.close()
    with driver.append("/uploads/data") as again:
        assert before
        assert again.fingerprint == before


def test_fingerprint_is_another_after_a_change_that_hides_its_time(
    driver: StorageDriver, writer: FileWriter, tmp_path: Path
) -> None:
    before = writer.fingerprint
    writer.close()
    data = tmp_path / "uploads/data"
    st = data.stat()
    data.write_bytes(b"CONTENT")
    os.utime(data, ns=(st.st_atime_ns, st.st_mtime_ns))
    with driver.append("/uploads/data") as again:
        assert again.fingerprint != before


def test_file_that_another_writer_has_open_is_not_moved(
    driver: StorageDriver, writer: FileWriter, tmp_path: Path
) -> None:
    """[S7.20] It copies what another mount has open, and what a registry has begun, into the blob
    instead of moving it there.
    """
    with driver.append("/uploads/data"):
        assert not writer.move_to("/blob")
    assert not (tmp_path / "blob").exists()
    writer.write(b" and more")  # it is as it was
    assert writer.move_to("/blob")
    assert content_of(driver, "/blob") == b"content and more"


def test_moved_file_is_for_nobody_to_write(writer: FileWriter, tmp_path: Path) -> None:
    """[S5.5] Blobs what it allows to read."""
    writer.move_to("/d/blob")
    assert (tmp_path / "d/blob").stat().st_mode & 0o777 == 0o444


def test_put_immutable_file_is_for_nobody_to_write(driver: StorageDriver, tmp_path: Path) -> None:
    """[S5.5] Blobs what it allows to read."""
    driver.put_immutable("/d/blob", [b"con", b"tent"])
    assert (tmp_path / "d/blob").stat().st_mode & 0o777 == 0o444
    driver.put_immutable("/d/blob", [b"other"])
    assert content_of(driver, "/d/blob") == b"other"


def test_file_that_cannot_be_moved_stays_writable(
    driver: StorageDriver, writer: FileWriter, tmp_path: Path
) -> None:
    (tmp_path / "blob/below").mkdir(parents=True)
    with pytest.raises(Exception, match="not a file"):
        writer.move_to("/blob")
    assert (tmp_path / "uploads/data").stat().st_mode & 0o222
    with driver.append("/uploads/data") as another:
        another.write(b"!")


def test_file_that_is_being_committed_cannot_be_opened(
    driver: StorageDriver, writer: FileWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S7.20] A mount locks what it writes (`F_OFD_SETLK`)."""
    refused: list[bool] = []
    fsync = os.fsync

    def open_it(fd: int) -> None:
        if not refused:
            refused.append(True)
            with pytest.raises(Busy):
                driver.append("/uploads/data")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", open_it)
    assert writer.move_to("/blob")
    assert refused


@pytest.fixture
def another_disk(driver: StorageDriver, tmp_path: Path) -> Iterator[Path]:
    """The directory /blobs, which is on another file system."""
    if os.geteuid() != 0:
        cannot("mount(8) needs root")
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", blobs], check=True)
    yield blobs
    subprocess.run(["umount", blobs], check=True)


@pytest.mark.usefixtures("another_disk")
def test_writer_does_not_move_to_another_disk(driver: StorageDriver, writer: FileWriter) -> None:
    """[S7.21] What cannot be moved is copied, with room for a second copy until that is done, and
    is as durable.
    """
    assert not writer.move_to("/blobs/b")
    writer.write(b" and more")
    writer.commit()
    assert content_of(driver, "/uploads/data") == b"content and more"


def test_move_to_another_disk_copies(
    driver: StorageDriver, writer: FileWriter, another_disk: Path
) -> None:
    """[S7.21] What cannot be moved is copied, with room for a second copy until that is done, and
    is as durable.
    """
    writer.commit()
    driver.move("/uploads/data", "/blobs/d/b")
    assert (another_disk / "d/b").read_bytes() == b"content"
    assert list(driver.listdir("/uploads")) == []


def test_symlink_and_way_out_are_told_apart(driver: StorageDriver, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(AccessDenied, match="a symlink"):
        driver.open("/link/passwd")
    with pytest.raises(AccessDenied, match="leads out of the storage"):
        driver.open("/../etc")


def _left_by_a_crash(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    left = directory / "data.01234567-89ab-cdef-0123-456789abcdef.tmp"
    left.write_bytes(b"half")
    return left


def test_what_a_crash_has_left_is_found_and_removed(driver: StorageDriver, tmp_path: Path) -> None:
    """[S10.2] `blobfs uploads` lists them, without a repository, and `--abort` removes them."""
    left = _left_by_a_crash(tmp_path / "d/e")
    driver.put_content("/d/e/data", b"content")
    [found] = uploads_of(driver).unfinished("/d")
    assert found.path == "/d/e/" + left.name
    uploads_of(driver).abandon(found)
    uploads_of(driver).abandon(found)
    assert os.listdir(tmp_path / "d/e") == ["data"]


def test_temporary_file_of_a_writer_at_work_is_not_removed(
    driver: StorageDriver, tmp_path: Path
) -> None:
    """[S10.2] `--abort` removes them, but none that a mount is about to put in place."""

    def chunks() -> Iterator[bytes]:
        yield b"con"
        [found] = uploads_of(driver).unfinished("/")
        uploads_of(driver).abandon(found)
        yield b"tent"

    driver.put_immutable("/d/b", chunks())
    assert content_of(driver, "/d/b") == b"content"


def test_old_temporary_file_keeps_no_directory_from_being_pruned(
    driver: StorageDriver, tmp_path: Path
) -> None:
    """[S10.2] `rmdir` of a repository removes those that are older than an hour."""
    left = _left_by_a_crash(tmp_path / "d/e")
    driver.prune("/d")
    assert left.exists()
    os.utime(left, (0, 0))
    driver.prune("/d")
    assert not (tmp_path / "d").exists()


@pytest.fixture
def owned(tmp_path: Path) -> Path:
    """A directory of a registry's user, in a test that runs as root."""
    if os.geteuid() != 0:
        cannot("chown(2) needs root")
    shutil.chown(tmp_path, 4321, 4322)
    return tmp_path


def test_what_root_makes_belongs_to_the_owner_of_the_directory(
    driver: StorageDriver, owned: Path
) -> None:
    """[S5.5] What the mount stores has the owner, the group and the mode of the directory that it
    is put in, whoever runs the mount.
    """
    driver.put_content("/d/e/link", b"")
    driver.put_immutable("/d/f/data", [b""])
    with driver.create("/u/data") as writer:
        writer.write(b"content")
        writer.move_to("/v/data")
    found = list(owned.rglob("*"))
    assert {(path.stat().st_uid, path.stat().st_gid) for path in found} == {(4321, 4322)}


def test_directory_that_somebody_has_put_in_place_of_ours_is_not_given_away(
    driver: StorageDriver, owned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def replace(name: str, *, dir_fd: int) -> None:
        mkdir(name, dir_fd=dir_fd)
        mkdir("d/secret", dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", replace)
    driver.put_content("/d/a", b"")
    assert (owned / "d").stat().st_uid == 0

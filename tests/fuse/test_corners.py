"""Corners of uploads: odd programs and names, two mounts, bad leftovers."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from tests.support.layout import APP, Layout
from tests.support.mounts import MountedRegistry, eventually, failing_with, mounted
from tests.support.repositories import layers, put_layer, shell, upload
from tests.support.writers import state

pytestmark = pytest.mark.fuse

HANDS_OVER = """
import os, sys, time
file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
os.write(file, b"A")
if os.fork():
    os._exit(0)
if os.fork():
    os._exit(0)
time.sleep(0.15)
os.write(file, b"B")
os.close(file)
os.kill(int(sys.argv[2]), 0)
print("done", flush=True)
"""

ENDS_FROM_A_THREAD = """
import os, sys, threading
sys.stdout.write("all of it")
sys.stdout.flush()
threading.Thread(target=lambda: os._exit(0)).start()
threading.Event().wait()
"""


def test_file_that_is_handed_to_grandchildren_is_committed_when_the_last_has_closed_it(
    repository: Path,
) -> None:
    for number in range(10):
        file = upload(repository, f"handed{number}")
        done = subprocess.run(
            [sys.executable, "-c", HANDS_OVER, file, str(os.getpid())],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert (done.stdout, done.stderr) == ("done\n", "")
        assert file.read_bytes() == b"AB"
        assert state(file) == "committed"


def test_program_that_ends_from_another_thread_was_not_killed(repository: Path) -> None:
    file = upload(repository, "threads")
    with file.open("wb") as output:
        subprocess.run([sys.executable, "-c", ENDS_FROM_A_THREAD], stdout=output, check=True)
    assert state(file) == "committed"


def test_program_of_many_threads_publishes_its_redirected_output(repository: Path) -> None:
    script = f'"$0" -c \'{ENDS_FROM_A_THREAD}\' > "$1"'
    file = upload(repository, "redirected")
    subprocess.run(["bash", "-c", script, sys.executable, file], check=True)
    assert state(file) == "committed"


def test_another_open_file_of_the_same_name_is_no_holder(repository: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "_manifests/_uploads/v1"
    elsewhere.parent.mkdir(parents=True)
    source = tmp_path / "junk"
    source.write_text("junk")
    with elsewhere.open("w"):
        done = shell("cp", source, repository / "_manifests/_uploads/v1")
    assert "Invalid argument" in done.stderr


def test_name_that_ends_like_a_deleted_file_is_one_like_others(repository: Path) -> None:
    file = upload(repository, "x (deleted)")
    done = shell("bash", "-c", '(echo A; echo B) > "$0"', file)
    assert (done.returncode, file.read_text()) == (0, "A\nB\n")


def test_receipt_cannot_be_moved_onto_a_digest_that_it_does_not_have(repository: Path) -> None:
    file = upload(repository, "content")
    file.write_bytes(b"content")
    put_layer(repository, b"another", "sha512")
    with failing_with(errno.EBADMSG):
        file.rename(repository / "_layers/sha512" / ("0" * 128))
    digest = Digest.of(b"content", "sha512")
    file.rename(repository / "_layers/sha512" / digest.encoded)
    assert (repository / "_layers/sha512" / digest.encoded).read_bytes() == b"content"


def test_descriptor_that_was_opened_before_the_commit_reads_on(repository: Path) -> None:
    file = upload(repository, Digest.of(b"content"))
    fd = os.open(file, os.O_CREAT | os.O_RDWR)
    os.write(fd, b"content")
    os.fsync(fd)
    assert state(file) == "committed"
    assert os.pread(fd, 100, 0) == b"content"
    os.close(fd)


def test_two_mounts_that_write_one_upload_publish_nothing_wrong(
    storage: Path, tmp_path: Path
) -> None:
    """[S7.12] Where another mount or a registry has written since the file was opened here, a
    write, an fsync and a close are EBUSY. The one that another has written after gets EBUSY, and
    the other commits.
    """
    with mounted(storage, tmp_path) as one, mounted(storage, tmp_path) as two:
        (one.path / "a").mkdir()
        first = os.open(one.path / "a/_uploads/both", os.O_CREAT | os.O_WRONLY)
        os.write(first, b"x" * 100)
        os.fsync(first)
        second = os.open(two.path / "a/_uploads/both", os.O_WRONLY | os.O_APPEND)
        os.write(second, b"y" * 1000)
        with failing_with(errno.EBUSY):
            os.write(first, b"z" * 1000)
        os.close(second)
        with failing_with(errno.EBUSY):
            os.close(first)
        content = b"x" * 100 + b"y" * 1000
        # This process has both open, so the second close leaves the commit to the release.
        eventually(lambda: layers(one.path / "a") == {Digest.of(content).encoded: content})


@pytest.mark.parametrize("leftover", ["startedat", "blobfs.json"])
def test_upload_that_is_damaged_hides_no_other(
    layout: Layout, storage: Path, mount: MountedRegistry, leftover: str
) -> None:
    layout.layer(b"x")
    damaged = Path(f"{storage}{paths.upload(APP, 'damaged')}")
    (damaged / leftover).mkdir(parents=True)
    good = upload(mount.path / APP, "good")
    good.write_text("good")
    assert "good" in os.listdir(mount.path / APP / "_uploads")
    assert state(good) == "committed"


@pytest.mark.parametrize("data", [b"123", None], ids=["data", "no data"])
def test_upload_that_began_at_any_time_is_told_of(
    layout: Layout, storage: Path, mount: MountedRegistry, data: bytes | None
) -> None:
    """[S7.19] What is no time, or one that is not from 1971 to 9999 in UTC, counts as the time of
    its file.
    """
    layout.layer(b"x")
    starts = {
        "before-time": "0001-01-01T00:00:00+14:00",
        "in-the-future": "9999-12-31T23:59:59Z",
        "year-10000": "9999-12-31T23:59:59-01:00",
        "leap-second": "2016-12-31T23:59:60Z",
    }
    for name, start in starts.items():
        begun = Path(f"{storage}{paths.upload(APP, name)}")
        begun.mkdir(parents=True)
        (begun / "startedat").write_text(start)
        if data is not None:
            (begun / "data").write_bytes(data)
    told = json.loads((mount.path / ".blobfs/uploads.json").read_text())
    assert {upload["uuid"] for upload in told} == set(starts)
    assert all(upload["age"] >= 0 for upload in told)
    with os.scandir(mount.path / APP / "_uploads") as uploads:
        assert {upload.name: upload.stat().st_size for upload in uploads} == dict.fromkeys(
            starts, len(data or b"")
        )
    assert mount.warnings() == []


def test_refused_manifests_do_not_fill_the_memory(repository: Path) -> None:
    """[S8.4] Of one repository the latest 8 MiB of such files stay."""
    uploads = repository / "_manifests/_uploads"
    for number in range(20):
        with failing_with(errno.EINVAL):
            (uploads / f"v{number}").write_bytes(bytes(4 * 2**20))
    assert sorted(os.listdir(uploads)) == ["v18", "v19"]


def test_directory_above_repositories_becomes_one_by_mkdir_of_its_uploads(
    layout: Layout, mount: MountedRegistry
) -> None:
    """[S8.1] What is only above repositories becomes one by `mkdir` of its `_uploads`."""
    layout.layer(b"x")
    above = mount.path / APP.rpartition("/")[0]
    assert os.listdir(above) == [APP.rpartition("/")[2]]
    (above / "_uploads").mkdir()
    put_layer(above, b"content")
    assert list(layers(above).values()) == [b"content"]
    (above / "_layers").mkdir()

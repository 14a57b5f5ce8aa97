"""What proc(5) tells of those who have an upload open; a real close may not hold anybody up."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import pytest

from blobfs.fuse.holders import process_of, survey
from blobfs.vfs.openupload import Survey
from tests.fuse.mounts import MountedRegistry, eventually, failing_with
from tests.services import cannot

NOBODY = 65534


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    """A file where the survey takes a mount to be."""
    path = tmp_path / "mount/team/app/_uploads/x"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


@contextmanager
def holding(path: Path, mode: str = "ab") -> Iterator[int]:
    """A process that has *path* open, by its id."""
    with path.open(mode) as file, subprocess.Popen(["sleep", "60"], stdout=file) as process:
        file.close()
        try:
            yield process.pid
        finally:
            process.kill()


@contextmanager
def ended(*command: str, by: signal.Signals | None = None) -> Iterator[int]:
    """The id of a process that has ended, and that its parent has not asked after yet."""
    with subprocess.Popen(command) as process:
        if by is not None:
            process.send_signal(by)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        yield process.pid


@contextmanager
def idle() -> Iterator[int]:
    """A process that has nothing open."""
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def _asked(opener: int, upload: Path) -> Survey:
    return survey(opener, upload.name, upload.stat().st_ino, everybody=False)


def _asked_by_nobody(opener: int, upload: Path, *, everybody: bool) -> Survey:
    """What a daemon that is not root is told."""
    if os.geteuid() != 0:
        cannot("only root can become somebody else")
    forking = multiprocessing.get_context("fork")
    answers: SimpleQueue[Survey] = forking.SimpleQueue()

    inode = upload.stat().st_ino

    def ask() -> None:
        os.setuid(NOBODY)
        answers.put(survey(opener, upload.name, inode, everybody=everybody))

    process = forking.Process(target=ask)
    process.start()
    found: Survey = answers.get()
    process.join()
    return found


def test_file_that_nobody_has_open_is_not_held(upload: Path) -> None:
    with idle() as opener:
        assert _asked(opener, upload) == Survey(opener_killed=False, held_elsewhere=False)


def test_opener_that_has_another_descriptor_holds_it(upload: Path) -> None:
    with holding(upload) as opener:
        assert _asked(opener, upload).held_elsewhere


def test_any_other_process_may_hold_it(upload: Path) -> None:
    with idle() as opener, holding(upload):
        assert _asked(opener, upload).held_elsewhere


def test_process_of_an_opener_that_has_ended_may_hold_it(upload: Path) -> None:
    with ended("true") as opener, holding(upload):
        assert _asked(opener, upload).held_elsewhere


def test_who_only_reads_it_does_not_hold_it(upload: Path) -> None:
    with holding(upload, "rb") as opener:
        assert not _asked(opener, upload).held_elsewhere


def test_removed_file_is_held_by_who_has_it_open(upload: Path) -> None:
    inode = upload.stat().st_ino
    with holding(upload) as opener:
        upload.unlink()
        assert survey(opener, upload.name, inode, everybody=False).held_elsewhere


def test_file_of_that_name_in_another_repository_is_not_meant(upload: Path, tmp_path: Path) -> None:
    other = tmp_path / "mount/team/web/_uploads/x"
    other.parent.mkdir(parents=True)
    with holding(other) as opener:
        assert not _asked(opener, upload).held_elsewhere


def test_file_of_another_name_is_not_meant(upload: Path) -> None:
    with holding(upload.with_name("axe")) as opener:
        assert not _asked(opener, upload).held_elsewhere


def test_name_that_is_no_text_is_found(upload: Path) -> None:
    odd = upload.with_name(os.fsdecode(b"\xff\n x"))
    with holding(odd) as opener:
        assert _asked(opener, odd).held_elsewhere


def test_name_that_ends_like_a_removed_one_is_found(upload: Path) -> None:
    odd = upload.with_name("x (deleted)")
    with holding(odd) as opener:
        assert _asked(opener, odd).held_elsewhere


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_opener_that_a_signal_has_ended_is_killed(upload: Path, number: signal.Signals) -> None:
    with ended("sleep", "60", by=number) as opener:
        assert _asked(opener, upload).opener_killed


@pytest.mark.parametrize("command", ["true", "false"])
def test_opener_that_has_ended_by_itself_is_not_killed(upload: Path, command: str) -> None:
    with ended(command) as opener:
        assert not _asked(opener, upload).opener_killed


def test_opener_that_goes_on_is_not_killed(upload: Path) -> None:
    with idle() as opener:
        assert not _asked(opener, upload).opener_killed


def test_opener_of_which_nothing_is_left_is_not_killed(upload: Path) -> None:
    with ended("true") as opener:
        pass
    assert _asked(opener, upload) == Survey(opener_killed=False, held_elsewhere=False)


def test_process_that_may_not_be_looked_into_counts_where_everybody_may_use_the_mount(
    upload: Path,
) -> None:
    with holding(upload) as opener:
        assert _asked_by_nobody(opener, upload, everybody=True).held_elsewhere
        assert not _asked_by_nobody(opener, upload, everybody=False).held_elsewhere


def test_no_answer_in_time_is_another_holder(upload: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    monkeypatch.setattr(os, "listdir", lambda path: answer.wait() and [])
    with idle() as opener:
        began = time.monotonic()
        found = _asked(opener, upload)
        took_s = time.monotonic() - began
    answer.set()
    assert found == Survey(opener_killed=False, held_elsewhere=True)
    assert took_s < 2


def test_slow_answer_is_waited_for(upload: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a busy machine, where the errno of the last close would be lost otherwise."""
    at_once = os.listdir

    def slowly(path: str) -> list[str]:
        threading.Event().wait(0.2 * path.startswith("/proc"))
        return at_once(path) if path != "/proc" else []

    monkeypatch.setattr(os, "listdir", slowly)
    with idle() as opener:
        assert not _asked(opener, upload).held_elsewhere


def test_process_of_a_thread_is_the_one_that_stays() -> None:
    threads: list[int] = []
    thread = threading.Thread(target=lambda: threads.append(process_of(threading.get_native_id())))
    thread.start()
    thread.join()
    assert threads == [os.getpid()]


def test_process_of_a_thread_that_has_ended_is_not_known() -> None:
    with ended("true") as process:
        pass
    assert process_of(process) == process


@pytest.mark.fuse
def test_close_by_execve_is_answered_at_once(mount: MountedRegistry) -> None:
    """Until it is, the program's /proc/<pid>/fd cannot be read, nor its stat."""
    (mount.path / "team").mkdir()
    upload = mount.path / "team/_uploads/x"
    program = """if True:
        import os, sys
        fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
        os.write(fd, b"whole")
        os.execv("/bin/true", ["true"])"""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", program, upload], check=True, timeout=5)
    assert time.monotonic() - began < 1
    eventually(lambda: os.getxattr(upload, "user.blobfs.state") == b"committed")


@pytest.mark.fuse
def test_descriptor_in_another_process_is_known_by_its_inode(mount: MountedRegistry) -> None:
    """[S7.1] So the last close of one tells what is wrong, whoever has its namesake open."""
    wrong = f"sha256:{'0' * 64}"
    for name in ("app", "web"):
        (mount.path / name).mkdir()
    with holding(mount.path / "app/_uploads" / wrong):
        file = (mount.path / "web/_uploads" / wrong).open("wb", buffering=0)
        file.write(b"x")
        with failing_with(errno.EBADMSG):
            file.close()


@pytest.mark.fuse
@pytest.mark.parametrize("close_fds", [True, False])
def test_close_by_a_child_that_was_started_meanwhile_leaves_it_open(
    mount: MountedRegistry, close_fds: bool
) -> None:
    """One of them closes its copy before execve(2), and one in it."""
    (mount.path / "team").mkdir()
    upload = mount.path / "team/_uploads/x"
    with upload.open("wb", buffering=0) as file:
        file.write(b"begun, ")
        subprocess.run(["true"], check=True, timeout=5, close_fds=close_fds)
        assert os.getxattr(upload, "user.blobfs.state") == b"open"
        file.write(b"and ended")
    assert upload.read_bytes() == b"begun, and ended"
    assert os.getxattr(upload, "user.blobfs.state") == b"committed"

"""Searches of proc(5) for other holders of an upload; a real close may not hold anybody up."""

import errno
import multiprocessing
import os
import shutil
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

from blobfs.errors import StorageUnavailable
from blobfs.fuse.open_file_scanner import Opener, OpenFileScanner, process_of
from blobfs.vfs.upload_handle import OpenersReport
from tests.support.mounts import MountedRegistry, eventually, failing_with
from tests.support.services import cannot

NOBODY = 65534


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    """A file that stands for an upload of a mount."""
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


def _ticks_now() -> int:
    return Opener.of_thread(0).opened_at


@pytest.fixture
def opened_at() -> int:
    """The moment at which the upload is opened: before all that the test starts."""
    return _ticks_now()


def _report(
    opener: int, upload: Path, opened_at: int = 0, scanner: OpenFileScanner | None = None
) -> OpenersReport:
    scanner = scanner or OpenFileScanner()
    return scanner.report(Opener(opener, opened_at), upload.name, upload.stat().st_ino)


def _report_to_nobody(opener: int, upload: Path, opened_at: int) -> OpenersReport:
    """The report that a daemon gets that is not root."""
    if os.geteuid() != 0:
        cannot("only root can become somebody else")
    forking = multiprocessing.get_context("fork")
    reports: SimpleQueue[OpenersReport] = forking.SimpleQueue()
    inode = upload.stat().st_ino

    def ask() -> None:
        os.setuid(NOBODY)
        reports.put(OpenFileScanner().report(Opener(opener, opened_at), upload.name, inode))

    process = forking.Process(target=ask)
    process.start()
    found = reports.get()
    process.join()
    return found


def test_file_that_nobody_has_open_is_not_held(upload: Path) -> None:
    with idle() as opener:
        assert _report(opener, upload) == OpenersReport(opener_killed=False, held_elsewhere=False)


def test_opener_that_has_another_descriptor_holds_it(upload: Path) -> None:
    with holding(upload) as opener:
        assert _report(opener, upload).held_elsewhere


def test_any_other_process_may_hold_it(upload: Path) -> None:
    with idle() as opener, holding(upload):
        assert _report(opener, upload).held_elsewhere


def test_process_of_an_opener_that_has_ended_may_hold_it(upload: Path) -> None:
    with ended("true") as opener, holding(upload):
        assert _report(opener, upload).held_elsewhere


def test_who_only_reads_it_does_not_hold_it(upload: Path) -> None:
    with holding(upload, "rb") as opener:
        assert not _report(opener, upload).held_elsewhere


def test_removed_file_is_held_by_who_has_it_open(upload: Path) -> None:
    inode = upload.stat().st_ino
    with holding(upload) as opener:
        upload.unlink()
        found = OpenFileScanner().report(Opener(opener, 0), upload.name, inode)
        assert found.held_elsewhere


def test_file_of_that_name_in_another_repository_is_not_meant(upload: Path, tmp_path: Path) -> None:
    other = tmp_path / "mount/team/web/_uploads/x"
    other.parent.mkdir(parents=True)
    with holding(other) as opener:
        assert not _report(opener, upload).held_elsewhere


def test_file_is_known_by_its_inode_alone(upload: Path) -> None:
    """It is renamed while it is open."""
    with holding(upload) as opener:
        assert _report(opener, upload.rename(upload.with_name("axe"))).held_elsewhere


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_opener_that_a_signal_has_ended_is_killed(upload: Path, number: signal.Signals) -> None:
    with ended("sleep", "60", by=number) as opener:
        assert _report(opener, upload).opener_killed


def test_opener_that_is_killed_during_the_search_is_killed(
    upload: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S7.4] A program that is killed publishes nothing but what it had declared and completed. A
    child that was killed with it closes the file first; the search finds no descriptor any more.
    """
    at_once = os.listdir

    def kill_first(path: str) -> list[str]:
        if path == f"/proc/{opener}/fd":
            os.kill(opener, signal.SIGTERM)
            os.waitid(os.P_PID, opener, os.WEXITED | os.WNOWAIT)
        return at_once(path)

    with holding(upload) as opener:
        monkeypatch.setattr(os, "listdir", kill_first)
        found = _report(opener, upload)
    assert found == OpenersReport(opener_killed=True, held_elsewhere=False)


@pytest.mark.parametrize("command", ["true", "false"])
def test_opener_that_has_ended_by_itself_is_not_killed(upload: Path, command: str) -> None:
    with ended(command) as opener:
        assert not _report(opener, upload).opener_killed


def test_opener_that_goes_on_is_not_killed(upload: Path) -> None:
    with idle() as opener:
        assert not _report(opener, upload).opener_killed


def test_opener_of_which_nothing_is_left_is_not_killed(upload: Path) -> None:
    with ended("true") as opener:
        pass
    assert _report(opener, upload) == OpenersReport(opener_killed=False, held_elsewhere=False)


def test_process_that_is_older_than_the_opening_is_not_looked_at(upload: Path) -> None:
    """A descriptor that went through a socket is not seen."""
    with idle() as opener, holding(upload):
        assert not _report(opener, upload, _ticks_now() + 1).held_elsewhere


def test_process_of_the_same_clock_tick_is_looked_at(upload: Path) -> None:
    with idle() as opener, holding(upload) as holder:
        assert _report(opener, upload, _start_of(holder)).held_elsewhere


def test_process_whose_first_thread_has_ended_holds_it(upload: Path, opened_at: int) -> None:
    program = """if True:
        import ctypes, threading, time
        threading.Thread(target=time.sleep, args=[60]).start()
        ctypes.CDLL(None).syscall(60, 0)  # exit(2), of one thread"""
    with upload.open("ab") as file:
        process = subprocess.Popen([sys.executable, "-c", program], stdout=file)
    with idle() as opener, process:
        first = Path(f"/proc/{process.pid}/status")
        eventually(lambda: "State:\tZ" in first.read_text())
        found = _report(opener, upload, opened_at)
        process.kill()
    assert found.held_elsewhere


def test_descendant_of_a_child_that_goes_on_is_looked_at(upload: Path, opened_at: int) -> None:
    command = ["sh", "-c", "exec 3>&1 >/dev/null; sleep 60 & exec 3>&-; wait", "sh"]
    with upload.open("ab") as file:
        shell = subprocess.Popen(command, stdout=file, process_group=0)
    with shell:
        eventually(lambda: not _has_open(shell.pid, upload))
        found = _report(shell.pid, upload, opened_at)
        os.killpg(shell.pid, signal.SIGKILL)
    assert found.held_elsewhere


def _has_open(process: int, path: Path) -> bool:
    links = Path(f"/proc/{process}/fd").iterdir()
    return any(os.readlink(link) == str(path) for link in links)


def test_others_that_may_not_be_looked_into_are_no_holders(upload: Path, opened_at: int) -> None:
    """[S7.22] Another process does not. There always are some."""
    with holding(upload) as opener, idle():
        assert not _report_to_nobody(opener, upload, opened_at).held_elsewhere


def test_younger_descendant_that_may_not_be_looked_into_is_a_holder(
    upload: Path, opened_at: int
) -> None:
    """[S7.22] A younger descendant that the daemon may not look into counts as a holder, another
    process does not. A shell of another user that a child has returned to.
    """
    with idle():
        assert _report_to_nobody(os.getpid(), upload, opened_at).held_elsewhere
        assert not _report_to_nobody(os.getpid(), upload, _ticks_now() + 100).held_elsewhere


@contextmanager
def many_descriptors(count: int) -> Iterator[int]:
    """A process that has *count* pipes open for writing, by its id."""
    program = """if True:
        import os, resource, sys, time
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]) + 100,) * 2)
        end = os.pipe()[1]
        for _ in range(int(sys.argv[1])): os.dup(end)
        print(flush=True)
        time.sleep(60)"""
    command = [sys.executable, "-c", program, str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.fixture(scope="module")
def crowded() -> Iterator[int]:
    """A process with so many descriptors that none can look at all of them in 50 ms."""
    with many_descriptors(50_000) as process:
        yield process


@pytest.mark.parametrize("opener", ["its parent", "another process"])
def test_many_descriptors_that_are_older_hide_no_holder(
    upload: Path, crowded: int, opener: str
) -> None:
    """[S7.22] Another descriptor is looked for in the process that opened the file, in its
    descendants, and in processes that were started after the opening. One of the opener's family is
    listed, and no more.
    """
    eventually(lambda: _ticks_now() > _start_of(crowded))
    opened_at = _ticks_now()
    scanner = OpenFileScanner(deadline_s=0.5)
    with idle() as other:
        process = os.getpid() if opener == "its parent" else other
        assert not _report(process, upload, opened_at, scanner).held_elsewhere
        with holding(upload):
            assert _report(process, upload, opened_at, scanner).held_elsewhere


def _start_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])


def test_more_descriptors_than_time_are_no_other_holder(upload: Path, crowded: int) -> None:
    """[S7.22] Without an answer there is no other holder."""
    scanner = OpenFileScanner(deadline_s=0.05)
    with idle() as opener:
        began = time.monotonic()
        assert not _report(opener, upload, 0, scanner).held_elsewhere
        assert time.monotonic() - began < 1


def test_no_answer_in_time_is_no_other_holder(
    upload: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[S7.22] Without an answer there is no other holder."""
    answer = threading.Event()
    monkeypatch.setattr(os, "listdir", lambda path: answer.wait() and [])
    with idle() as opener:
        began = time.monotonic()
        found = _report(opener, upload)
        took_s = time.monotonic() - began
    answer.set()
    assert found == OpenersReport(opener_killed=False, held_elsewhere=False)
    assert took_s < 2


def _searches() -> set[threading.Thread]:
    """The threads that search."""
    return {thread for thread in threading.enumerate() if thread.name == "blobfs-scanner"}


def test_searches_that_hang_are_bounded(upload: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[S7.22] Up to 8 run at a time. Who finds no thread for a search has no answer; each hangs at
    another process.
    """
    answer, at_once = threading.Event(), os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: answer.wait() and at_once(path))
    scanner = OpenFileScanner(max_threads=2, deadline_s=0.05)
    before = _searches()  # of earlier tests
    with idle() as one, idle() as two, idle() as three:
        for opener in (one, two, three):
            assert not _report(opener, upload, 0, scanner).held_elsewhere
        ours = _searches() - before
        assert len(ours) == 2
        answer.set()
        eventually(lambda: not ours & _searches())
        with holding(upload) as opener:
            assert _report(opener, upload, 0, scanner).held_elsewhere


@contextmanager
def hung_in_execve(tmp_path: Path) -> Iterator[int]:
    """A process that waits in execve(2) for a file system that does not answer, by its id."""
    if shutil.which("bindfs") is None:
        cannot("bindfs is not installed")
    near, far = tmp_path / "near", tmp_path / "far"
    near.mkdir()
    far.mkdir()
    program = """if True:
        import os, sys
        fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
        os.write(fd, b"x")
        print(flush=True)
        sys.stdin.readline()
        os.execv("/bin/true", ["true"])"""
    with subprocess.Popen(["bindfs", "-f", near, far]) as bindfs:
        eventually(far.is_mount)
        command = [sys.executable, "-c", program, str(far / "file")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdout.readline()
            bindfs.send_signal(signal.SIGSTOP)
            process.stdin.close()
            # Its new memory has no arguments yet, and its files are still open.
            eventually(lambda: not Path(f"/proc/{process.pid}/cmdline").read_bytes())
            try:
                yield process.pid
            finally:
                bindfs.send_signal(signal.SIGCONT)
                process.wait(10)
                subprocess.run(["umount", "-l", far], check=True)


@pytest.mark.fuse
def test_process_that_hangs_in_execve_hides_no_holder(upload: Path, tmp_path: Path) -> None:
    """[S7.22] A process that hangs in execve(2) is passed by. One search waits there, where Linux
    makes it; later ones pass the process by.
    """
    scanner = OpenFileScanner()
    before = threading.active_count()
    with hung_in_execve(tmp_path), idle() as opener:
        for _ in range(10):
            assert not _report(opener, upload, 0, scanner).held_elsewhere
        assert threading.active_count() <= before + 1
        with holding(upload):
            assert _report(opener, upload, 0, scanner).held_elsewhere
    eventually(lambda: threading.active_count() == before)


def test_search_that_cannot_start_takes_no_place_of_later_ones(
    upload: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    scanner = OpenFileScanner(max_threads=1)
    with idle() as opener, holding(upload):
        with monkeypatch.context() as context:
            context.setattr(threading.Thread, "start", refuse)
            with pytest.raises(StorageUnavailable, match="can't start"):
                _report(opener, upload, 0, scanner)
        assert _report(opener, upload, 0, scanner).held_elsewhere


def test_slow_answer_is_waited_for(upload: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a busy machine, where the errno of the last close would be lost otherwise."""
    at_once = os.listdir

    def slowly(path: str) -> list[str]:
        threading.Event().wait(0.2 * path.startswith("/proc"))
        return at_once(path) if path != "/proc" else []

    monkeypatch.setattr(os, "listdir", slowly)
    with idle() as opener:
        assert not _report(opener, upload).held_elsewhere


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
    """[S7.1] What goes wrong is an errno of the call that can carry it. So the last close of one
    tells what is wrong, whoever has its namesake open.
    """
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

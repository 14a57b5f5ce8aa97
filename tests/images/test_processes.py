"""Calls in child processes: what they get, how they fail, and how their processes end."""

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from blobfs import errors
from blobfs.concurrency import stop_check
from blobfs.errors import Interrupted, LayerInvalid, StorageUnavailable
from blobfs.images.processes import ChildProcesses
from tests.support import child_calls
from tests.support.child_calls import LIMITS
from tests.support.mounts import eventually

PARENT = """
import sys
from pathlib import Path
from blobfs.images.processes import ChildProcesses
from tests.support import child_calls
ChildProcesses().run(child_calls.hang, lambda *_: b"", Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def processes() -> ChildProcesses:
    return ChildProcesses()


def no_answer(offset: int, size: int) -> bytes:
    return b""


def pid_of_a_call(processes: ChildProcesses, path: Path) -> int:
    processes.run(child_calls.write_answers, no_answer, path)
    return int(json.loads(path.read_text())[0])


def is_over(pid: int) -> bool:
    return not Path("/proc", str(pid)).exists()


def test_call_gets_answers_in_another_process(processes: ChildProcesses, tmp_path: Path) -> None:
    def answer(offset: int, size: int) -> bytes:
        return b"%d" % offset + b"x" * size

    path = tmp_path / "file"
    processes.run(child_calls.write_answers, answer, path, (1, 2**21), (2, 0))
    pid, *found = json.loads(path.read_text())
    assert found == ["1" + "x" * 2**21, "2"]
    assert pid != os.getpid()


def test_warning_of_a_call_is_logged(
    processes: ChildProcesses, caplog: pytest.LogCaptureFixture
) -> None:
    processes.run(child_calls.warn, no_answer)
    assert caplog.messages == ["100%d is bad"]


ERRORS = {
    "LayerInvalid": ("no tar archive",),
    "DigestMismatch": ("another digest",),
    "StorageFull": ("no room",),
    "StorageUnavailable": ("\udcff" * 10**5,),
    "OSError": (errno.ENOSPC, "No space left on device"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_error_of_a_call_has_its_class_and_the_process_stays(
    processes: ChildProcesses, tmp_path: Path, kind: str
) -> None:
    before = pid_of_a_call(processes, tmp_path / "file")
    expected = getattr(errors, kind, OSError)
    with pytest.raises(expected) as caught:
        processes.run(child_calls.fail, no_answer, kind, *ERRORS[kind])
    assert type(caught.value) is expected
    assert str(expected(*ERRORS[kind])).startswith(str(caught.value))
    assert pid_of_a_call(processes, tmp_path / "file") == before


def test_process_that_is_killed_is_an_error_and_another_makes_the_next_call(
    processes: ChildProcesses, tmp_path: Path
) -> None:
    before = pid_of_a_call(processes, tmp_path / "file")
    with pytest.raises(LayerInvalid, match="process that indexes it was ended by SIGKILL"):
        processes.run(child_calls.be_killed, no_answer)
    assert pid_of_a_call(processes, tmp_path / "file") != before


def test_fault_of_the_program_is_an_error_with_its_reason(processes: ChildProcesses) -> None:
    with pytest.raises(LayerInvalid, match=r"ended with 1: RuntimeError: .* after 3 bytes"):
        processes.run(child_calls.fail_unexpectedly, lambda *_: b"123")


OTHER_REPLIES = {
    "no JSON": b"\xff{",
    "deep": b"[" * 60_000,
    "an object": b"{}",
    "no error": b'["error","os","x"]',
    "a text as a number": b'["ask","0",1]',
    "a negative number": b'["ask",0,-1]',
    "a huge number": b'["ask",0,9223372036854775808]',
    "a format": b'["log",30,"%s","x"]',
    "too large": b" " * 65_537,
}


@pytest.mark.parametrize("kind", OTHER_REPLIES)
def test_reply_in_another_form_is_an_error_and_ends_the_process(
    processes: ChildProcesses, kind: str
) -> None:
    with pytest.raises(LayerInvalid, match="process that indexes it replies in another form"):
        processes.run(child_calls.reply, no_answer, OTHER_REPLIES[kind])


def test_records_of_a_call_are_bounded(
    processes: ChildProcesses, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(LayerInvalid, match="replies in another form"):
        processes.run(child_calls.reply_often, no_answer, b'["log",30,"again"]')
    assert len(caplog.messages) == 64


@pytest.mark.parametrize("is_whole", [True, False])
def test_process_that_hangs_is_ended(is_whole: bool) -> None:
    processes = ChildProcesses(hangs_s=1)
    with pytest.raises(LayerInvalid, match="process that indexes it hangs"):
        processes.run(child_calls.reply, no_answer, b'["log",30,"once"]', is_whole=is_whole)


def test_process_that_takes_no_answer_is_ended() -> None:
    processes = ChildProcesses(hangs_s=1)
    with pytest.raises(LayerInvalid, match="process that indexes it hangs"):
        processes.run(child_calls.stop_itself, lambda *_: bytes(2**22))


def test_process_that_computes_does_not_hang() -> None:
    ChildProcesses(hangs_s=1).run(child_calls.work_long, no_answer, 1.5)


def test_process_that_cannot_start_is_no_fault_of_the_layer() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(StorageUnavailable, match="cannot start a process: Too many open"):
            ChildProcesses().run(child_calls.warn, no_answer)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_process_of_another_version_makes_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blobfs.images.processes._VERSION", "0.0.1")
    with pytest.raises(StorageUnavailable, match="another version; restart this one"):
        ChildProcesses().run(child_calls.warn, no_answer)


def test_memory_of_a_process_is_bounded(processes: ChildProcesses) -> None:
    with pytest.raises(LayerInvalid, match="more than 1073741824 bytes of memory"):
        processes.run(child_calls.use_memory, no_answer)


def test_error_of_an_answer_is_raised_and_ends_the_process(
    processes: ChildProcesses, tmp_path: Path
) -> None:
    def answer(offset: int, size: int) -> bytes:
        raise StorageUnavailable("the storage does not answer")

    before = pid_of_a_call(processes, tmp_path / "file")
    with pytest.raises(StorageUnavailable, match="does not answer"):
        processes.run(child_calls.write_answers, answer, tmp_path / "file", (0, 1))
    eventually(lambda: is_over(before))
    assert pid_of_a_call(processes, tmp_path / "file") != before


def test_call_that_is_stopped_ends_its_process(processes: ChildProcesses, tmp_path: Path) -> None:
    def stop() -> None:
        if (tmp_path / "pid").exists():
            raise Interrupted("stopped")

    outer = stop_check.set(stop)
    try:
        with pytest.raises(Interrupted):
            processes.run(child_calls.hang, no_answer, tmp_path / "pid")
    finally:
        stop_check.reset(outer)
    eventually(lambda: is_over(int((tmp_path / "pid").read_text())))


def test_process_without_a_call_ends_and_another_makes_the_next_call(tmp_path: Path) -> None:
    processes = ChildProcesses(idle_s=0.01)
    before = pid_of_a_call(processes, tmp_path / "file")
    eventually(lambda: is_over(before))
    assert pid_of_a_call(processes, tmp_path / "file") != before


def test_process_ends_with_its_parent_that_is_killed(tmp_path: Path) -> None:
    """[S21.14] They end with the mount, also if it is killed."""
    with subprocess.Popen([sys.executable, "-c", PARENT, tmp_path / "pid"]) as parent:
        eventually((tmp_path / "pid").exists)
        parent.kill()
    eventually(lambda: is_over(int((tmp_path / "pid").read_text())))


def test_process_has_limits_and_no_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    with (tmp_path / "open").open("wb"):
        ChildProcesses().run(child_calls.write_surroundings, no_answer, tmp_path / "file")
    environment, limits, nice, files = json.loads((tmp_path / "file").read_text())
    assert "AWS_SECRET_ACCESS_KEY" not in environment
    assert environment["TMPDIR"] == "/var/tmp"
    assert limits == [2**30, 0, 2**40, 64]
    assert len(LIMITS) == len(limits)
    assert nice > os.nice(0)
    opened = [
        file for file in files if not file.startswith(("/dev/null", "pipe:", "socket:", "/proc/"))
    ]
    assert opened == []

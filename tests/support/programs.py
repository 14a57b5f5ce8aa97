"""What a shell cannot do, for the table in SEMANTICS.md: ``programs.py NAME SOURCE TARGET``.

Each function is a program that copies the bytes of *source* to *target* in its own way.
"""

import contextlib
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

Program = Callable[[bytes, Path], None]


def forked_child_closes(content: bytes, target: Path) -> None:
    """A child ends in the middle, and with it its copy of the descriptor."""
    with target.open("wb", buffering=0) as file:
        _write(file.fileno(), _first(content))
        _in_a_child(file.close)
        _write(file.fileno(), _second(content))


def forked_child_writes(content: bytes, target: Path) -> None:
    """The child writes the second half, and the parent only closes."""
    with target.open("wb", buffering=0) as file:
        _write(file.fileno(), _first(content))
        _in_a_child(lambda: _write(file.fileno(), _second(content)))


def executed_child_closes(content: bytes, target: Path) -> None:
    """The child's copy is closed by execve(2), as subprocess leaves it to."""
    with target.open("wb", buffering=0) as file:
        for part in (_first(content), _second(content)):
            _write(file.fileno(), part)
            subprocess.run(["true"], close_fds=False, check=True)


def child_is_run_and_waited_for(content: bytes, target: Path) -> None:
    """The child closes what it does not need itself before execve(2)."""
    with target.open("wb", buffering=0) as file:
        for part in (_first(content), _second(content)):
            _write(file.fileno(), part)
            subprocess.run(["true"], close_fds=True, check=True)


def duplicate_is_closed(content: bytes, target: Path) -> None:
    """One descriptor is closed, and the other goes on."""
    with target.open("wb", buffering=0) as file:
        duplicate = os.dup(file.fileno())
        _write(duplicate, _first(content))
        os.close(duplicate)
        _write(file.fileno(), _second(content))


def exception_in_with(content: bytes, target: Path) -> None:
    """It fails halfway, and Python closes the file."""
    with target.open("wb") as file:
        file.write(_first(content))
        raise ValueError("the second half cannot be computed")


def kills_itself_halfway(content: bytes, target: Path) -> None:
    with target.open("wb", buffering=0) as file:
        _write(file.fileno(), _first(content))
        os.kill(os.getpid(), signal.SIGKILL)


def kills_itself_when_done(content: bytes, target: Path) -> None:
    with target.open("wb", buffering=0) as file:
        _write(file.fileno(), content)
        os.kill(os.getpid(), signal.SIGKILL)


def cat_is_interrupted(content: bytes, target: Path) -> None:
    """Ctrl-C, while cat(1) waits for the second half."""
    with subprocess.Popen(
        ["sh", "-c", 'exec cat > "$1"', "sh", target], stdin=subprocess.PIPE
    ) as cat:
        assert cat.stdin is not None
        cat.stdin.write(_first(content))
        cat.stdin.flush()
        _wait_for(lambda: _size(target) == len(_first(content)))
        cat.send_signal(signal.SIGINT)
        cat.wait()
    raise SystemExit(1)


def rsync_is_interrupted(content: bytes, target: Path) -> None:
    """Ctrl-C; rsync --partial keeps what it has, under the file's own name."""
    source = target.name + ".source"
    scratch = Path(os.environ["TMPDIR"]) / source
    scratch.write_bytes(content)
    with subprocess.Popen(
        ["rsync", "--partial", "--whole-file", "--bwlimit=256", scratch, target],
        start_new_session=True,
    ) as rsync:
        _wait_for(
            lambda: (
                rsync.poll() is not None  # a small file is there before it is seen to grow
                or any(map(_size, target.parent.glob(f".{target.name}.*")))
            )
        )
        with contextlib.suppress(ProcessLookupError):
            os.killpg(rsync.pid, signal.SIGINT)
        rsync.wait()
    # Its receiver outlives it, and gives the file its name at last.
    _wait_for(lambda: not any(target.parent.glob(f".{target.name}.*")))
    raise SystemExit(1)


def sendfile(content: bytes, target: Path) -> None:
    source = os.memfd_create("source")
    _write(source, content)
    with target.open("wb", buffering=0) as file:
        sent = 0
        while sent < len(content):
            sent += os.sendfile(file.fileno(), source, sent, len(content) - sent)


def truncated_down(content: bytes, target: Path) -> None:
    """More is written than is wanted, and cut off."""
    with target.open("wb", buffering=0) as file:
        _write(file.fileno(), content + b"to be cut off")
        file.truncate(len(content))


def truncated_up(content: bytes, target: Path) -> None:
    """Twice the size is asked for, and one half never written."""
    with target.open("wb", buffering=0) as file:
        _write(file.fileno(), content)
        file.truncate(2 * len(content))


def backwards(content: bytes, target: Path) -> None:
    """The second half is written before the first."""
    with target.open("wb", buffering=0) as file:
        file.seek(len(_first(content)))
        _write(file.fileno(), _second(content))
        file.seek(0)
        _write(file.fileno(), _first(content))


def fallocate(content: bytes, target: Path) -> None:
    """posix_fallocate(3), which the C library does by itself where the mount cannot."""
    with target.open("w+b", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, len(content))
        _write(file.fileno(), content)


def mapped_shared(content: bytes, target: Path) -> None:
    with target.open("w+b", buffering=0) as file:
        _write(file.fileno(), content)
        mmap.mmap(file.fileno(), len(content))


def mapped_private(content: bytes, target: Path) -> None:
    """What is changed in such a mapping stays in the program."""
    with target.open("w+b", buffering=0) as file:
        _write(file.fileno(), content)
        with mmap.mmap(file.fileno(), len(content), access=mmap.ACCESS_COPY) as mapped:
            assert mapped[:] == content
            mapped[0] = 0


def synced_halfway(content: bytes, target: Path) -> None:
    with target.open("wb", buffering=0) as file:
        for part in (_first(content), _second(content)):
            _write(file.fileno(), part)
            os.fsync(file.fileno())


def _first(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _second(content: bytes) -> bytes:
    return content[len(content) // 2 :]


def _write(fd: int, content: bytes) -> None:
    while content:
        content = content[os.write(fd, content) :]


def _in_a_child(act: Callable[[], object]) -> None:
    pid = os.fork()
    if pid == 0:
        act()
        os._exit(0)
    os.waitpid(pid, 0)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


if __name__ == "__main__":
    program: Program = globals()[sys.argv[1]]
    program(Path(sys.argv[2]).read_bytes(), Path(sys.argv[3]))

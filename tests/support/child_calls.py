"""Calls for child processes, which import this module."""

import json
import logging
import os
import resource
import signal
import time
from pathlib import Path

from blobfs import errors
from blobfs.images.readers import Ask

LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)


def write_answers(ask: Ask, path: Path, *questions: tuple[int, int]) -> None:
    """Write the process, and the answers to *questions*, to *path*."""
    path.write_text(json.dumps([os.getpid(), *(ask(*each).decode() for each in questions)]))


def warn(ask: Ask) -> None:
    """Log a warning, which has a percent sign."""
    logging.getLogger("child").warning("%s is bad", "100%d")


def fail(ask: Ask, kind: str, *args: object) -> None:
    """Raise an error after an answer."""
    ask(0, 1)
    raise getattr(errors, kind, OSError)(*args)


def fail_unexpectedly(ask: Ask) -> None:
    raise RuntimeError(f"a fault of the program, after {len(ask(0, 3))} bytes")


def use_memory(ask: Ask) -> None:
    bytearray(2**31)


def be_killed(ask: Ask) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang(ask: Ask, path: Path) -> None:
    """Write the process to *path*, and wait without reading."""
    (path.parent / "new").write_text(str(os.getpid()))
    (path.parent / "new").rename(path)
    time.sleep(600)


def reply(ask: Ask, message: bytes, *, is_whole: bool = True) -> None:
    """Send *message* as a reply, or only half of it, and do not return."""
    connection = ask.args[0]  # type: ignore[attr-defined]
    if is_whole:
        connection.send_bytes(message)
    else:
        os.write(connection.fileno(), len(message).to_bytes(4, "big") + message[:1])
    time.sleep(600)


def reply_often(ask: Ask, message: bytes) -> None:
    """Send *message* as a reply again and again."""
    while True:
        ask.args[0].send_bytes(message)  # type: ignore[attr-defined]


def stop_itself(ask: Ask) -> None:
    """Ask for something, and do not run any more, as if the machine did not run it."""
    os.write(ask.args[0].fileno(), b"\0\0\0\x0c" + b'["ask",0,99]')  # type: ignore[attr-defined]
    os.kill(os.getpid(), signal.SIGSTOP)


def work_long(ask: Ask, seconds: float) -> None:
    """Use the CPU without a reply."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def write_surroundings(ask: Ask, path: Path) -> None:
    """Write the environment, the limits, the nice value and the open files to *path*."""
    files = [os.readlink(f"/proc/self/fd/{fd}") for fd in map(int, os.listdir("/proc/self/fd"))
             if os.path.lexists(f"/proc/self/fd/{fd}")]  # fmt: skip
    limits = [resource.getrlimit(name)[0] for name in LIMITS]
    path.write_text(json.dumps([dict(os.environ), limits, os.nice(0), files]))

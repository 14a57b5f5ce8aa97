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


def write_surroundings(ask: Ask, path: Path) -> None:
    """Write the environment, the limits, the nice value and the open files to *path*."""
    files = [os.readlink(f"/proc/self/fd/{fd}") for fd in map(int, os.listdir("/proc/self/fd"))
             if os.path.lexists(f"/proc/self/fd/{fd}")]  # fmt: skip
    limits = [resource.getrlimit(name)[0] for name in LIMITS]
    path.write_text(json.dumps([dict(os.environ), limits, os.nice(0), files]))

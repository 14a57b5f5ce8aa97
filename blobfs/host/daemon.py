"""A daemon process whose parent waits until it is ready.

The child reports through a pipe: a zero byte means ready, other bytes are the text of an error.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from threading import Event
from typing import Final, NoReturn

from blobfs.concurrency import start_thread
from blobfs.errors import BlobfsError, MountRefused

log = logging.getLogger(__name__)

END_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that end a daemon in order."""

_READY: Final = b"\0"
_STANDARD_STREAMS: Final = (0, 1, 2)

_END_S: Final = 3.0
"""The time limit for closing the storage, the cache and the services."""


@contextmanager
def ending_in_time() -> Iterator[Callable[[], object]]:
    """Yield a function that starts a deadline: the process exits if the block is not left in time.

    A file system or a server that hangs can block any thread for ever.
    """
    ended = Event()

    def watch() -> None:
        if not ended.wait(_END_S):
            log.error("the storage, the cache or a service does not answer: the process exits now")
            logging.shutdown()
            os._exit(1)

    try:
        yield lambda: start_thread("ending", watch)
    finally:
        ended.set()


def daemonize(work: Callable[[Callable[[], None]], None], *, timeout_s: float = 30.0) -> int:
    """Run ``work(ready)`` in a child process, and return its pid once it calls *ready*.

    Call it before any thread starts, and shortly before the caller ends: ``END_SIGNALS`` stay
    blocked, so that a signal either comes before the child is ready and ends it, or has no effect.
    Raises MountRefused with the child's reason if the child ends before it is ready, and
    after *timeout_s*, when it ends the child. A signal meanwhile ends both processes.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    # The child handles signals later: one that ended it now could leave half a mount.
    signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _run_child(work, writing)
    os.close(writing)
    reply = _read_within(reading, timeout_s)
    if reply == _READY:
        return pid
    if reply is None:
        os.kill(pid, signal.SIGTERM)  # the child unmounts on SIGTERM
        os.waitpid(pid, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)
        raise MountRefused(f"the mount did not answer within {timeout_s:g} s; see its log")
    _, status = os.waitpid(pid, 0)
    raise MountRefused(os.fsdecode(reply) or _unexplained_end(os.waitstatus_to_exitcode(status)))


def _unexplained_end(code: int) -> str:
    """Describe the end of a daemon that reported no reason."""
    if code < 0:
        return f"{signal.Signals(-code).name} ended the daemon before it answered; see dmesg"
    return f"the daemon ended with {code} before it answered; see its log"


def _read_within(fd: int, timeout_s: float) -> bytes | None:
    """Read the pipe to its end; None after *timeout_s*, or if a signal is pending."""
    deadline = time.monotonic() + timeout_s
    with os.fdopen(fd, "rb") as pipe:
        poll = select.poll()  # select(2) has a largest descriptor
        poll.register(pipe, select.POLLIN)
        while not poll.poll(100):
            if time.monotonic() > deadline or signal.sigpending() & set(END_SIGNALS):
                return None
        return pipe.read()


def _run_child(work: Callable[[Callable[[], None]], None], fd: int) -> NoReturn:
    code = 1
    pipe = FileIO(fd, "wb")  # after its close the number belongs to another file

    def ready() -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in _STANDARD_STREAMS:
            os.dup2(null, stream)
        os.close(null)
        pipe.write(_READY)
        pipe.close()

    try:
        os.setsid()
        os.chdir("/")
        work(ready)
        code = 0
    except BlobfsError as exc:
        if not _report(pipe, str(exc)):
            log.error("%s", exc)  # noqa: TRY400  (the log's only line)
    except BaseException as exc:
        log.exception("unexpected: the daemon ends")
        [*_, line] = traceback.format_exception_only(exc)
        _report(pipe, f"unexpected: {line.strip()}; the log has the traceback")
    finally:
        logging.shutdown()
        os._exit(code)  # the child must not return into the caller of fork


def _report(pipe: FileIO, reason: str) -> bool:
    """Send the parent a reason; returns False if the parent has stopped waiting."""
    if pipe.closed:
        return False
    try:
        pipe.write(os.fsencode(reason))
    except OSError:
        return False
    return True

"""A process that leaves its terminal, once what it is for works.

The parent waits on a pipe: a zero byte says that all is well, anything else why not.
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
from threading import Event, Thread
from typing import Final, NoReturn

from blobfs.errors import BlobfsError, MountRefused

log = logging.getLogger(__name__)

END_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What ends a daemon well."""

_READY: Final = b"\0"
_STANDARD_STREAMS: Final = (0, 1, 2)


_END_S: Final = 3.0
"""How long the storage, the cache and the like may take to be closed."""


@contextmanager
def ending_in_time() -> Iterator[Callable[[], None]]:
    """Yield what to call once the end has begun: the process ends if the block then does not.

    A file system or a server that hangs may hold up any thread for ever.
    """
    ended = Event()

    def watch() -> None:
        if not ended.wait(_END_S):
            log.error("the storage, or what is beside it, does not answer: ending all the same")
            logging.shutdown()
            os._exit(1)

    try:
        yield Thread(target=watch, name="blobfs-ending", daemon=True).start
    finally:
        ended.set()


def daemonize(work: Callable[[Callable[[], None]], None], *, timeout_s: float = 30.0) -> int:
    """Run ``work(ready)`` in a child of its own, and return its pid once it calls *ready*.

    To be called before there is any thread, and shortly before the caller ends: it leaves
    ``END_SIGNALS`` blocked, so that the child either stays and is told of, or is ended.
    Raises MountRefused with the child's reason if it ends before it is ready, or after
    *timeout_s*, when it is ended; a signal meanwhile ends it too, and takes its course then.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    # Until the child is ready for signals, they wait: it may have half a mount by then.
    signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _be_child(work, writing)
    os.close(writing)
    said = _read_within(reading, timeout_s)
    if said == _READY:
        return pid
    if said is None:
        os.kill(pid, signal.SIGTERM)  # it unmounts, and ends
        os.waitpid(pid, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)
        raise MountRefused(f"the mount did not answer within {timeout_s:g} s; see its log")
    _, status = os.waitpid(pid, 0)
    raise MountRefused(os.fsdecode(said) or _end(os.waitstatus_to_exitcode(status)))


def _end(code: int) -> str:
    """The end of a daemon that could not say why."""
    if code < 0:
        return f"{signal.Signals(-code).name} ended the daemon before it answered; see dmesg"
    return f"the daemon ended with {code} before it answered; see its log"


def _read_within(fd: int, timeout_s: float) -> bytes | None:
    """All that comes through the pipe; None after *timeout_s*, or if a signal waits."""
    deadline = time.monotonic() + timeout_s
    with os.fdopen(fd, "rb") as pipe:
        while not select.select([pipe], [], [], 0.1)[0]:
            if time.monotonic() > deadline or signal.sigpending() & set(END_SIGNALS):
                return None
        return pipe.read()


def _be_child(work: Callable[[Callable[[], None]], None], pipe: int) -> NoReturn:
    code = 1

    def ready() -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in _STANDARD_STREAMS:
            os.dup2(null, stream)
        os.close(null)
        os.write(pipe, _READY)
        os.close(pipe)

    try:
        os.setsid()
        os.chdir("/")
        work(ready)
        code = 0
    except BlobfsError as exc:
        if not _is_told(pipe, str(exc)):
            log.error("%s", exc)  # noqa: TRY400  (the log's only line)
    except BaseException as exc:
        log.exception("unexpected: the daemon ends")
        [*_, line] = traceback.format_exception_only(exc)
        _is_told(pipe, f"unexpected: {line.strip()}; the log has the traceback")
    finally:
        logging.shutdown()
        os._exit(code)  # never back into what was forked


def _is_told(pipe: int, reason: str) -> bool:
    """Send the parent a reason; False once the daemon was ready, as nobody waits for it then."""
    try:
        os.write(pipe, os.fsencode(reason))
    except OSError:
        return False
    return True

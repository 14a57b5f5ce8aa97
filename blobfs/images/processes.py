"""Child processes that make indexes and trees.

Decompression, headers and SQLite hold the interpreter lock of their process, so they would delay
the requests of a mount. A child has a lock of its own. It asks its parent for what it reads, one
part at a time. So the parent alone uses the storage, with its credentials and caches, and the child
needs only the files of the IndexStore.

A child reads hostile archives. It has limits, a short environment, and a low priority, and the
kernel ends it first if memory is short. Its parent takes no objects from it, only text. It ends
with its parent, however that ends, and after a minute without a call.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import resource
import select
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from signal import SIG_IGN, SIGTERM, Signals, signal
from subprocess import DEVNULL, PIPE, Popen
from typing import IO, Any, Concatenate, Final, ParamSpec, cast

from blobfs import errors
from blobfs.concurrency import ThreadCall, guard, start_thread, stop_check
from blobfs.errors import BlobfsError, LayerInvalid, StorageTimeout, StorageUnavailable
from blobfs.images.readers import Ask

log = logging.getLogger(__name__)

P = ParamSpec("P")

_LOOK_S: Final = 0.1
"""Interval at which a call looks at ``stop_check``."""

_END_S: Final = 5.0
"""Time for the end of a child that has closed its connection."""

_NICE: Final = 5
_MEMORY: Final = 2**30
_LIMITS: Final = {
    resource.RLIMIT_AS: _MEMORY,
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_FSIZE: 2**34,
    resource.RLIMIT_NOFILE: 64,
}

_ENVIRONMENT: Final = ("LANG", "LC_", "LD_", "PYTHON", "SQLITE_TMPDIR", "TMPDIR")
"""Beginnings of the names that a child inherits; others may have credentials."""

_MAX_REPLY: Final = 2**16
_MAX_TEXT: Final = 2**12  # characters of an error; JSON has up to 12 bytes for one
_ASK: Final = "ask"
_LOG: Final = "log"
_DONE: Final = "done"


class ChildProcesses:
    """Child processes, each for one call at a time. Thread-safe: the guard protects the list.

    A call starts a child if none is idle, so the callers limit their number. A child ends after
    *idle_s* without a call.
    """

    def __init__(self, idle_s: float = 60.0) -> None:
        self._idle_s = idle_s
        self._lock = guard()
        self._idle: list[_Child] = []

    def run(
        self,
        call: Callable[Concatenate[Ask, P], None],
        answer: Ask,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Make the call ``call(ask, *args, **kwargs)``; raises its BlobfsError or OSError.

        ``ask`` returns what *answer* returns here. Raises LayerInvalid if the child dies; it is
        ended if *answer* or ``stop_check`` raises an error. Log records of the call are logged.
        """
        child = self._take()
        name, *reason = child.run(pickle.dumps((call, args, kwargs)), answer)
        with self._lock:
            self._idle.append(child)
        if name != _DONE:
            raise OSError(*reason) if name == OSError.__name__ else getattr(errors, name)(*reason)

    def _take(self) -> _Child:
        while True:
            with self._lock:
                child = self._idle.pop() if self._idle else None
            if child is None:
                return _Child(self._idle_s)
            if child.is_ready:
                return child


class _Child:
    """A child process, and the connection to it. Used by one thread at a time."""

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self._connection, theirs = Pipe()
        with theirs:
            fd = theirs.fileno()
            inherited = {k: v for k, v in os.environ.items() if k.startswith(_ENVIRONMENT)}
            try:
                self._process = Popen(  # noqa: S603  (constant arguments)
                    [sys.executable, "-P", "-m", __name__, str(fd), str(idle_s)],
                    env={**inherited, "PYTHONPATH": os.pathsep.join(sys.path)},
                    stdin=DEVNULL,
                    stdout=DEVNULL,
                    stderr=PIPE,
                    pass_fds=(fd,),
                    start_new_session=True,
                )
            except OSError as exc:
                raise StorageUnavailable(f"cannot start a process: {exc.strerror}") from None
        self._end = ThreadCall("child", partial(_end_of, self._process))
        self._used = time.monotonic()

    @property
    def is_ready(self) -> bool:
        """True if the child waits for a call, and is not about to end."""
        return time.monotonic() - self._used < self._idle_s / 2 and not self._end.has_ended(0)

    def run(self, message: bytes, answer: Ask) -> list[Any]:
        """Send a call and the answers that it asks for, and return the last reply."""
        try:
            while (reply := self._reply_to(message))[0] == _ASK:
                message = answer(*reply[1:])
        except BaseException:
            self._process.kill()
            raise
        self._used = time.monotonic()
        return reply

    def _reply_to(self, message: bytes) -> list[Any]:
        try:
            self._connection.send_bytes(message)
            while (reply := self._receive())[0] == _LOG:
                log.log(*reply[1:])
            return reply
        except (EOFError, ConnectionError):
            raise LayerInvalid(f"the process that indexes it {self._reason()}") from None

    def _receive(self) -> list[Any]:
        while not self._connection.poll(_LOOK_S):
            stop_check.get()()
        return list(json.loads(self._connection.recv_bytes(_MAX_REPLY)))

    def _reason(self) -> str:
        try:
            return self._end.result(_END_S)
        except StorageTimeout:
            return "does not answer"


def _end_of(child: Popen[bytes]) -> str:
    """Wait for the end of a child, and describe it."""
    with child:
        text = cast("IO[bytes]", child.stderr).read(_MAX_REPLY).decode("utf-8", "replace")
    if child.returncode < 0:
        return f"was ended by {Signals(-child.returncode).name}; see dmesg"
    return f"ended with {child.returncode}: {''.join(text.splitlines()[-1:])}"


def _restrict() -> None:
    signal(SIGTERM, SIG_IGN)  # systemd sends it to all processes of a mount
    os.nice(_NICE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    for name, limit in _LIMITS.items():
        _, hard = resource.getrlimit(name)
        value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(name, (value, value))


def _serve(fd: int, idle_s: float) -> None:
    """Make the calls of the parent until there is none for a while, or the parent ends."""
    with Connection(fd) as parent:
        start_thread("parent", partial(_end_with, fd))
        logging.root.addHandler(_ParentLog(parent))
        while parent.poll(idle_s):
            call, args, kwargs = parent.recv()
            _send(parent, *_reply(partial(call, partial(_ask, parent), *args, **kwargs)))


def _end_with(fd: int) -> None:
    """End this process when its parent closes the connection."""
    parent = select.poll()
    parent.register(fd, 0)  # only the end
    parent.poll()
    os._exit(1)


def _send(parent: Connection, *reply: object) -> None:
    parent.send_bytes(json.dumps(reply).encode())


def _ask(parent: Connection, offset: int, size: int) -> bytes:
    _send(parent, _ASK, offset, size)
    return parent.recv_bytes()


class _ParentLog(logging.Handler):
    """Handler that sends records to the parent."""

    def __init__(self, parent: Connection) -> None:
        super().__init__(logging.WARNING)
        self._parent = parent

    def emit(self, record: logging.LogRecord) -> None:
        _send(self._parent, _LOG, record.levelno, "%s", record.getMessage()[:_MAX_TEXT])


def _reply(call: Callable[[], None]) -> list[object]:
    try:
        call()
    except BlobfsError as exc:
        return [type(exc).__name__, str(exc)[:_MAX_TEXT]]
    except OSError as exc:
        return [OSError.__name__, exc.errno, exc.strerror]
    except MemoryError:
        return [LayerInvalid.__name__, f"it needs more than {_MEMORY} bytes of memory"]
    return [_DONE]


if __name__ == "__main__":
    _restrict()
    _serve(int(sys.argv[1]), float(sys.argv[2]))

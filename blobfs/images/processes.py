"""Child processes that make indexes and trees.

Decompression, headers and SQLite hold the interpreter lock of their process, so they would delay
the requests of a mount. A child has a lock of its own. It asks its parent for what it reads, one
part at a time. So the parent alone uses the storage, with its credentials and caches, and the child
needs only the files of the IndexStore.

A child reads hostile archives. It has limits, a short environment, and a low priority, and the
kernel ends it first if memory is short. Its parent takes no objects from it, only text, and ends a
child that hangs, or whose replies have another form. A child ends with its parent, however that
ends, and after some seconds without a call: it holds 35 MiB, and starts in 0.1 s.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import resource
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from signal import SIG_IGN, SIGTERM, Signals, signal
from subprocess import DEVNULL, PIPE, Popen
from typing import IO, Concatenate, Final, ParamSpec, cast

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

_SILENT_S: Final = 3600.0
"""The longest time between two replies: the merge of millions of names takes minutes."""

_NICE: Final = 5
_MEMORY: Final = 2**30
_LIMITS: Final = {
    resource.RLIMIT_AS: _MEMORY,
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_FSIZE: 2**40,
    resource.RLIMIT_NOFILE: 64,
}

_ENVIRONMENT: Final = ("LANG", "LC_", "LD_", "PYTHON", "SQLITE_TMPDIR", "TMPDIR")
"""Beginnings of the names that a child inherits; others may have credentials."""

_VERSION: Final = version("blobfs")
_OTHER_VERSION: Final = os.EX_CONFIG
"""Exit code of a child that was installed after its parent began."""

_MAX_REPLY: Final = 2**16
_MAX_REPLIES: Final = 2**20  # a terabyte in parts of 1 MiB
_MAX_RECORDS: Final = 64
_MAX_TEXT: Final = 2**12  # characters of an error; JSON has up to 12 bytes for one
_MAX_NUMBER: Final = 2**63 - 1

_ERRORS: Final[Mapping[str, type[BlobfsError]]] = {
    name: error
    for name, error in vars(errors).items()
    if isinstance(error, type) and issubclass(error, BlobfsError)
}


class ChildProcesses:
    """Child processes, each for one call at a time. Thread-safe: the guard protects the list.

    A call starts a child if none is idle, so the callers limit their number. A child ends after
    *idle_s* without a call. It hangs after *hangs_s* without a reply and without CPU time.
    """

    def __init__(self, idle_s: float = 5.0, hangs_s: int = 120) -> None:
        self._idle_s = idle_s
        self._hangs_s = hangs_s
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

        ``ask`` returns what *answer* returns here. Raises LayerInvalid if the child dies, hangs, or
        replies in another form; StorageUnavailable if it is of another version. It is ended if
        *answer* or ``stop_check`` raises an error. Log records of the call are logged.
        """
        child = self._take()
        error = child.run(pickle.dumps((call, args, kwargs)), answer)
        with self._lock:
            self._idle.append(child)
        if error is not None:
            raise error

    def _take(self) -> _Child:
        while True:
            with self._lock:
                child = self._idle.pop() if self._idle else None
            if child is None:
                return _Child(self._idle_s, self._hangs_s)
            if child.is_ready:
                return child


class _Child:
    """A child process, and the connection to it. Used by one thread at a time."""

    def __init__(self, idle_s: float, hangs_s: int) -> None:
        self._idle_s = idle_s
        self._hangs_s = hangs_s
        try:
            self._connection, theirs = Pipe()
            with theirs:
                _limit_waits(self._connection.fileno(), hangs_s)
                self._process = _started(theirs.fileno(), idle_s)
        except OSError as exc:
            raise StorageUnavailable(f"cannot start a process: {exc.strerror}") from None
        self._end = ThreadCall("child", partial(_end_of, self._process))
        self._used = time.monotonic()

    @property
    def is_ready(self) -> bool:
        """True if the child waits for a call, and is not about to end."""
        return time.monotonic() - self._used < self._idle_s / 2 and not self._end.has_ended(0)

    def run(self, call: bytes, answer: Ask) -> BlobfsError | OSError | None:
        """Make a call, with the answers that it asks for, and return its error."""
        try:
            self._send(call)
            error = self._answer_until_done(answer)
        except BaseException:
            self._process.kill()
            raise
        self._used = time.monotonic()
        return error

    def _answer_until_done(self, answer: Ask) -> BlobfsError | OSError | None:
        records = _MAX_RECORDS
        for _ in range(_MAX_REPLIES):
            match self._receive():
                case ["ask", int(at), int(size)] if 0 <= at <= _MAX_NUMBER >= size >= 0:
                    self._send(answer(at, size))
                case ["log", int(level), str(text)] if records:
                    records -= 1
                    log.log(level, "%s", text)
                case ["done"]:
                    return None
                case ["error", str(name), str(text)] if name in _ERRORS:
                    return _ERRORS[name](text)
                case ["OSError", int(number), str(text)]:
                    return OSError(number, text)
                case _:
                    break
        raise _lost("replies in another form")

    def _send(self, message: bytes) -> None:
        with self._errors():
            self._connection.send_bytes(message)

    def _receive(self) -> object:
        deadline = time.monotonic() + _SILENT_S
        used, hangs_at = -1.0, deadline
        while not self._connection.poll(_LOOK_S):
            stop_check.get()()
            now = time.monotonic()
            if (now_used := _cpu_time(self._process.pid)) != used:
                used, hangs_at = now_used, min(deadline, now + self._hangs_s)
            if now >= hangs_at:
                raise _lost("hangs")
        with self._errors():
            return json.loads(self._connection.recv_bytes(_MAX_REPLY))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:  # see _limit_waits
            raise _lost("hangs") from None
        except (EOFError, ConnectionError):
            raise _lost(self._reason()) from None
        except (OSError, ValueError, RecursionError):
            raise _lost("replies in another form") from None

    def _reason(self) -> str:
        try:
            return self._end.result(_END_S)
        except StorageTimeout:
            return "does not answer"


def _started(fd: int, idle_s: float) -> Popen[bytes]:
    """Start a child whose connection is its descriptor *fd*."""
    inherited = {k: v for k, v in os.environ.items() if k.startswith(_ENVIRONMENT)}
    return Popen(  # noqa: S603  (constant arguments)
        [sys.executable, "-P", "-m", __name__, str(fd), str(idle_s), _VERSION],
        env={**inherited, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=PIPE,
        pass_fds=(fd,),
        start_new_session=True,
    )


def _lost(reason: str) -> LayerInvalid:
    return LayerInvalid(f"the process that indexes it {reason}")


def _limit_waits(fd: int, seconds: int) -> None:
    """Let reads and writes of the socket *fd* fail with EAGAIN after *seconds*."""
    with socket.socket(fileno=os.dup(fd)) as connection:
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", seconds, 0))


def _cpu_time(pid: int) -> float:
    """Return the CPU time of a process in seconds; the time of the system if it is unknown."""
    try:
        return time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3)
    except OSError:  # the process has ended, or the system lacks that clock
        return time.monotonic()


def _end_of(child: Popen[bytes]) -> str:
    """Wait for the end of a child, and describe it."""
    with child:
        text = cast("IO[bytes]", child.stderr).read(_MAX_REPLY).decode("utf-8", "replace")
    if child.returncode == _OTHER_VERSION:
        raise StorageUnavailable("blobfs was replaced by another version; restart this one")
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
    _send(parent, "ask", offset, size)
    return parent.recv_bytes()


class _ParentLog(logging.Handler):
    """Handler that sends records to the parent."""

    def __init__(self, parent: Connection) -> None:
        super().__init__(logging.WARNING)
        self._parent = parent

    def emit(self, record: logging.LogRecord) -> None:
        _send(self._parent, "log", record.levelno, record.getMessage()[:_MAX_TEXT])


def _reply(call: Callable[[], None]) -> list[object]:
    try:
        call()
    except BlobfsError as exc:
        return ["error", type(exc).__name__, str(exc)[:_MAX_TEXT]]
    except OSError as exc:
        return ["OSError", exc.errno, exc.strerror]
    except MemoryError:
        return ["error", LayerInvalid.__name__, f"it needs more than {_MEMORY} bytes of memory"]
    return ["done"]


if __name__ == "__main__":
    if sys.argv[3] != _VERSION:
        sys.exit(_OTHER_VERSION)
    _restrict()
    _serve(int(sys.argv[1]), float(sys.argv[2]))

"""Commands of blobfs that start by fork, in a process that has imported their modules already.

A new interpreter takes half a second of CPU time to import them, and tests start many hundred
commands. Run as a program, this module is the process that forks.
"""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from io import FileIO
from pkgutil import walk_packages
from tempfile import TemporaryFile
from typing import IO, Final

_NUMBER: Final = struct.Struct("i")
_LONGEST: Final = 2**17


class Command:
    """A command that was started; *answer* tells its exit status."""

    def __init__(self, arguments: Sequence[str], answer: FileIO) -> None:
        self.arguments = arguments
        [self.pid] = _NUMBER.unpack(answer.read(_NUMBER.size))
        self._answer = answer
        self._status: int | None = None

    def send_signal(self, number: int) -> None:
        if self._status is None:
            os.kill(self.pid, number)

    def wait(self, timeout_s: float | None = None) -> int:
        """The exit status, as ``subprocess`` has it."""
        if self._status is None:
            polling = select.poll()
            polling.register(self._answer, select.POLLIN)
            if not polling.poll(timeout_s and timeout_s * 1000):
                raise subprocess.TimeoutExpired(self.arguments, timeout_s or 0)
            [status] = _NUMBER.unpack(self._answer.read(_NUMBER.size))
            self._status = os.waitstatus_to_exitcode(status)
            self._answer.close()
        return self._status


class CommandServer:
    """The client of the process that forks, which ends with its client."""

    def __init__(self) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            command = [sys.executable, "-m", __name__, str(other.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[other.fileno()])
        atexit.register(self._end)

    def start(self, arguments: Sequence[str], out: IO[bytes], err: IO[bytes]) -> Command:
        """Start blobfs as ``subprocess.Popen`` does."""
        request = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
        answer, writing = os.pipe()
        try:
            streams = [0, out.fileno(), err.fileno(), writing]
            socket.send_fds(self._socket, [request], streams)
        finally:
            os.close(writing)
        return Command(arguments, FileIO(answer))

    def run(self, arguments: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Run blobfs as ``subprocess.run`` does, and capture what it prints."""
        with TemporaryFile() as out, TemporaryFile() as err:
            command = self.start(arguments, out, err)
            try:
                status = command.wait(timeout_s)
            except subprocess.TimeoutExpired:
                command.send_signal(signal.SIGKILL)
                raise
            printed = [_text(file.fileno()) for file in (out, err)]
        return subprocess.CompletedProcess(arguments, status, *printed)

    def _end(self) -> None:
        self._socket.close()
        self._process.wait()


@functools.cache
def command_server() -> CommandServer:
    """The server of this process's commands."""
    return CommandServer()


def _text(descriptor: int) -> str:
    with open(descriptor, errors="surrogateescape", newline="", closefd=False) as file:
        file.seek(0)
        return file.read()


def _serve(requests: socket.socket) -> Sequence[str]:
    """Fork for each request; return its arguments in the child. Ends with the client."""
    children: dict[int, tuple[int, int]] = {}  # by a descriptor that tells of the end
    polling = select.poll()
    polling.register(requests, select.POLLIN)
    while True:
        for ready, _ in polling.poll():
            if ready in children:
                polling.unregister(ready)
                pid, answer = children.pop(ready)
                os.write(answer, _NUMBER.pack(os.waitpid(pid, 0)[1]))
                os.close(answer)
                os.close(ready)
                continue
            request, descriptors, _, _ = socket.recv_fds(requests, _LONGEST, 4)
            if not request:
                sys.exit()
            pid = os.fork()
            if pid == 0:
                requests.detach()
                return _become(request, descriptors)
            *streams, answer = descriptors
            os.write(answer, _NUMBER.pack(pid))
            for stream in streams:
                os.close(stream)
            watching = os.pidfd_open(pid)
            children[watching] = (pid, answer)
            polling.register(watching, select.POLLIN)


def _become(request: bytes, descriptors: list[int]) -> Sequence[str]:
    """Make this child the process that a request describes; return its arguments."""
    arguments, directory, environment = json.loads(request)
    for stream in range(3):
        os.dup2(descriptors[stream], stream)
    os.closerange(3, 1024)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    return [str(argument) for argument in arguments]


def _import_all() -> None:
    """Import all modules of blobfs, and watch its guards, as ``tests.support.guards`` does."""
    guards = import_module("tests.support.guards")
    guards.watch()
    for module in walk_packages(import_module("blobfs").__path__, "blobfs."):
        if module.name != "blobfs.__main__":
            import_module(module.name)
    gc.freeze()


if __name__ == "__main__":
    _import_all()
    sys.argv[1:] = _serve(socket.socket(fileno=int(sys.argv[1])))
    import_module("blobfs.cli").main(prog_name="blobfs")

"""A real redis-server for tests: one that can be paused, killed and started again."""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, Self

from redis import Redis
from redis.exceptions import RedisError

from tests.services import ServiceFailed, free_port

_START_S: Final = 15.0


class RedisServer:
    """A server on a loopback port and a socket, which keeps nothing when it ends."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.socket = directory / "redis.sock"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def serving(cls, directory: Path, *options: str) -> Iterator[Self]:
        """Serve inside the ``with`` block; its log lies in *directory*."""
        server = cls(directory)
        try:
            server.start(*options)
            yield server
        finally:
            server.kill()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self, password: str | None = None) -> Redis:
        """A client of its own, which knows nothing of the cache; to be closed."""
        return Redis(host="127.0.0.1", port=self.port, password=password, protocol=2)

    def start(self, *options: str) -> None:
        """Begin to serve, on the same port as ever; raises ServiceFailed."""
        log_path = self._directory / "redis.log"
        command = ["redis-server", "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]
        command += ["--port", str(self.port), "--unixsocket", str(self.socket)]
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *options],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if not self._answers():
            printed = log_path.read_text(errors="replace").strip()
            raise ServiceFailed(f"redis-server at port {self.port} does not serve:\n{printed}")

    def _answers(self) -> bool:
        deadline = time.monotonic() + _START_S
        with closing(self.client()) as client:
            while self._running().poll() is None and time.monotonic() < deadline:
                try:
                    return bool(client.ping())
                except RedisError as exc:
                    if "uthentication" in str(exc):
                        return True
                    time.sleep(0.01)
        return False

    def pause(self) -> None:
        """Have it accept connections, and answer nobody."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._running().send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it, also if it is paused or has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the server was killed"
        return self._process

"""Real Redis for tests: a server that can be paused, killed and started again, and several."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final, Self

from redis import Redis
from redis.exceptions import RedisError

from tests.support.services import ServiceFailed, free_port, run

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
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"redis://{self.address}/0"

    def client(self, password: str | None = None) -> Redis:
        """A client of its own, which knows nothing of the cache; to be closed."""
        return Redis(host="127.0.0.1", port=self.port, password=password, protocol=2)

    def start(self, *options: str) -> None:
        """Begin to serve, on the same port as ever; raises ServiceFailed."""
        log_path = self._directory / "redis.log"
        config = [option for option in options[:1] if not option.startswith("-")]  # has to be first
        command = ["redis-server", *config]
        if "--sentinel" not in options:
            command += ["--save", "", "--appendonly", "no"]
        command += ["--bind", "127.0.0.1", "--port", str(self.port)]
        command += ["--unixsocket", str(self.socket), *options[len(config) :]]
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
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

    def wait_until(self, holds: Callable[[Redis], bool]) -> None:
        """Wait until something *holds*, of which the client knows; raises ServiceFailed."""
        deadline = time.monotonic() + _START_S
        with closing(self.client()) as client:
            while not holds(client):
                if time.monotonic() > deadline:
                    raise ServiceFailed(f"redis-server at port {self.port} is not ready")
                time.sleep(0.01)

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


Trouble = Callable[[RedisServer], Callable[[], None]]
"""Gets a server into trouble, and gives what ends that."""


def paused(server: RedisServer) -> Callable[[], None]:
    """It accepts connections, and answers nobody."""
    server.pause()
    return server.resume


def stopped(server: RedisServer) -> Callable[[], None]:
    """It is gone, with all that it kept."""
    server.kill()
    return server.start


def locked(server: RedisServer) -> Callable[[], None]:
    """It answers errors: it wants a password that nobody knows."""
    with closing(server.client()) as client:
        client.config_set("requirepass", "changed")
        client.client_kill_filter(_type="normal", skipme=True)

    def unlock() -> None:
        with closing(server.client("changed")) as client:
            client.config_set("requirepass", "")

    return unlock


@contextmanager
def serving_cluster(directory: Path) -> Iterator[list[RedisServer]]:
    """Three servers that share the keys among them, inside the ``with`` block."""
    with ExitStack() as stack:
        servers = []
        for number in range(3):
            place = directory / f"node{number}"
            place.mkdir()
            options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
            servers.append(stack.enter_context(RedisServer.serving(place, *options)))
        addresses = [server.address for server in servers]
        run("redis-cli", "--cluster", "create", *addresses, "--cluster-yes")
        for server in servers:
            server.wait_until(lambda client: client.cluster("info")["cluster_state"] == "ok")
        yield servers


@contextmanager
def serving_sentinel(master: RedisServer, directory: Path) -> Iterator[RedisServer]:
    """What calls a server "master", and another once that fails, inside the ``with`` block."""
    config = directory / "sentinel.conf"
    config.write_text(
        f"sentinel monitor master 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds master 200\n"
        "sentinel failover-timeout master 1000\n"
    )
    with RedisServer.serving(directory, str(config), "--sentinel") as sentinel:
        yield sentinel

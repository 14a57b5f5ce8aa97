"""A mount whose Redis is in trouble while it is looked into: nothing fails, nothing is slow."""

import itertools
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from threading import Event
from typing import Final

import pytest

from blobfs.digest import Digest
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.filesystem import FilesystemDriver
from tests.support.layout import APP, Layout
from tests.support.mounts import MountedRegistry, mounted
from tests.support.redis_server import RedisServer, Trouble, locked, paused, stopped
from tests.support.repositories import layer

pytestmark = [pytest.mark.fuse, pytest.mark.redis, pytest.mark.alone]

BLOBS: Final = 200
CONTENTS: Final = [b"%d" % number for number in range(BLOBS)]
DIGESTS: Final = [Digest.of(content) for content in CONTENTS]
MORE_S: Final = 0.1
TROUBLE_S: Final = 0.5
RECOVERY_S: Final = 5.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer.serving(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def mount(
    server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MountedRegistry]:
    """A mount of ``DIGESTS``, of which the kernel remembers nothing."""
    place = tmp_path_factory.mktemp("mount")
    (place / "storage").mkdir()
    with closing(BaseDriver(FilesystemDriver.below(place / "storage"))) as driver:
        assert [Layout(driver).layer(content) for content in CONTENTS] == DIGESTS
    timeouts = ("--entry-timeout", "0", "--attr-timeout", "0")
    with mounted(place / "storage", place, "--cache", server.url, *timeouts) as mount:
        yield mount


def _empty(server: RedisServer) -> Callable[[], None]:
    with closing(server.client()) as client:
        client.flushall()
    return lambda: None


def _fill(server: RedisServer) -> Callable[[], None]:
    with closing(server.client()) as client:
        client.config_set("maxmemory", "1mb")

    def make_room() -> None:
        with closing(server.client()) as client:
            client.config_set("maxmemory", "0")

    return make_room


class Watchers:
    """Four readers and a find(1) in a mount, one request after the other."""

    def __init__(self, mount: MountedRegistry) -> None:
        self._files = [layer(mount.path / APP, digest) for digest in DIGESTS]
        self._directory = mount.path / APP
        self._slowest_s = 0.0
        self._over = Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside the ``with`` block; raises what one of them ran into."""
        with ThreadPoolExecutor(5) as threads:
            running = [threads.submit(self._read, start) for start in range(0, BLOBS, BLOBS // 4)]
            running.append(threads.submit(self._find))
            try:
                yield
            finally:
                self._over.set()
            for watcher in running:
                watcher.result()

    def _read(self, start: int) -> None:
        for file in itertools.islice(itertools.cycle(self._files), start, None):
            if self._over.is_set():
                return
            began = time.monotonic()
            assert file.read_bytes().isdigit()
            self._slowest_s = max(self._slowest_s, time.monotonic() - began)

    def _find(self) -> None:
        while not self._over.is_set():
            found = subprocess.run(
                ["find", self._directory, "-type", "f", "-ls"], check=True, capture_output=True
            )
            assert len(found.stdout.splitlines()) == BLOBS
            assert found.stderr == b""

    def slowest_in(self, seconds: float) -> float:
        """How long the slowest read takes of those that end in so many seconds."""
        self._slowest_s = 0.0
        time.sleep(seconds)
        return self._slowest_s


def _hits(mount: MountedRegistry) -> int:
    hits: int = mount.control("stats.json")["cache"]["redis"]["hits"]
    return hits


@pytest.mark.parametrize("trouble", [paused, stopped, _empty, _fill, locked])
def test_redis_in_trouble_fails_and_slows_nothing(
    server: RedisServer, mount: MountedRegistry, trouble: Trouble
) -> None:
    """[S14.7] A Redis that is stopped, paused, emptied, full or in error fails nothing and delays
    no request by more than 50 ms for each hundred digests.
    """
    watchers = Watchers(mount)
    with watchers.watching():
        usual_s = watchers.slowest_in(TROUBLE_S)
        end = trouble(server)
        assert watchers.slowest_in(TROUBLE_S) < usual_s + MORE_S
        end()
        before = _hits(mount)
        deadline = time.monotonic() + RECOVERY_S
        while _hits(mount) == before:
            assert time.monotonic() < deadline, "it is not used again"
            time.sleep(0.05)

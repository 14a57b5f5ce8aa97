"""What is in memory is answered in time wherever the storage hangs, and a signal ends the daemon.

Each set-up is one mount. At each place where its storage can hang, 64 programs wait there while
another one reads ``.blobfs/version`` and a cached blob; then the daemon is told to end.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.reference import RepositoryName, Tag
from tests.support.buckets import Bucket
from tests.support.files import content_of, walk
from tests.support.layout import Layout, image
from tests.support.mounts import MountedRegistry, eventually, has_ended, run
from tests.support.redis_server import RedisServer
from tests.support.s3_faults import Delay, Kind, Request, no_faults
from tests.support.s3_proxy import S3Proxy
from tests.support.s3_servers import S3Server
from tests.support.stoppable_filesystem import Stoppable

pytestmark = [pytest.mark.fuse, pytest.mark.alone]

CLIENTS = 64
PERIOD_S = 0.002
WATCHED_S = 1.0
WATCHED_LONG_S = 5.0
P99_S = 0.05
PAGE_READS = 12
"""The reads that the kernel sends at once, where ``max_background`` of the mount cannot be set."""

END_S = 10.0

CACHED = b"in the page cache"
REPOSITORIES = [RepositoryName(f"hung{number}") for number in range(CLIENTS)]

NO_CACHES = ("--entry-timeout", "0", "--tag-timeout", "0", "--negative-timeout", "0")

# A call may be answered from a cache of the daemon a few times before one waits. O_DIRECT: the
# kernel's pages answer no read.
_WAITING = """
import hashlib, mmap, os, random, sys, threading, time
def read(path):
    file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        os.preadv(file, [mmap.mmap(-1, 2**17)], 0)
    finally:
        os.close(file)
def wait(path):
    while True:
        try:
            {call}
        except OSError:
            pass
        time.sleep(random.uniform(0.5, 1.5))
threads = [threading.Thread(target=wait, args=(path,), daemon=True) for path in sys.argv[1:]]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""

_WATCHING = """
import os, sys, time
version, period_s, watched_s = sys.argv[1], *map(float, sys.argv[2:])
took, until = [], time.monotonic() + watched_s
while time.monotonic() < until:
    began = time.monotonic()
    assert open(version).read() and os.pread(0, 100, 0)
    took.append(time.monotonic() - began)
    time.sleep(period_s)
took.sort()
print(took[int(len(took) * 0.99)], took[-1])
"""

BLOB = "'/_layers/sha256/' + hashlib.sha256(os.path.basename(path).encode()).hexdigest()"

CALLS = {
    "stat": "os.stat(path + '/_layers')",
    "list": "os.listdir(path + '/_manifests/tags')",
    "readlink": "os.readlink(path + '/_manifests/tags/v1')",
    "look up": f"os.stat(path + {BLOB})",
    "type": f"os.getxattr(path + {BLOB}, 'user.blobfs.media_type')",
    "read": f"read(path + {BLOB})",
    "read once": f"read(path + {BLOB}), time.sleep(60)",
    "upload": "open(path + '/_uploads/x', 'wb').write(bytes(3 * 2**20))",
    "tag": "os.unlink(path + '/_manifests/tags/v1')",
}


def lay_out(driver: StorageDriver) -> None:
    """A repository with a blob that is to be cached, and one with its own blob for each client."""
    layout = Layout(driver)
    layout.layer(CACHED)
    for name in REPOSITORIES:
        digest = layout.layer(str(name).encode(), name)
        layout.tag(layout.revision(image(digest, digest), name), Tag("v1"), name)


def lay_out_below(storage: Path) -> None:
    """Do the same in a directory."""
    with closing(BaseDriver(FilesystemDriver.below(storage))) as driver:
        lay_out(driver)


class Measured(NamedTuple):
    """The durations of many reads, in seconds, and the load of the machine."""

    p99_s: float
    longest_s: float
    load: float

    def __str__(self) -> str:
        return f"p99 {self.p99_s:.4f} s, at most {self.longest_s:.4f} s (load {self.load:.1f})"


CLIENTS_LEFT: list[subprocess.Popen[bytes]] = []


@pytest.fixture(autouse=True)
def _no_clients_left() -> Iterator[None]:
    yield
    while CLIENTS_LEFT:  # they end when nothing hangs any more
        CLIENTS_LEFT.pop().wait(10)


class Watched:
    """A mount whose storage is made to hang."""

    def __init__(self, mount: MountedRegistry, watched_s: float) -> None:
        self.mount = mount
        self._watched_s = watched_s
        self._cached = mount.path / f"team/app/_layers/sha256/{Digest.of(CACHED).encoded}"
        self._pid = mount.pid
        self._file = self._cached.open("rb", buffering=0)
        assert os.pread(self._file.fileno(), 100, 0) == CACHED
        # The kernel looks up one new name of a directory at a time, so these are known already.
        for name in REPOSITORIES:
            for directory in "_layers/sha256", "_manifests/tags", "_uploads":
                os.stat(mount.path / name / directory)
        self._quiet = self._measure()

    @contextmanager
    def clients(self, call: str) -> Iterator[None]:
        """Programs that wait, inside the block, until their storage goes on."""
        paths = [str(self.mount.path / name) for name in REPOSITORIES]
        script = _WAITING.replace("{call}", CALLS[call])
        clients = subprocess.Popen([sys.executable, "-c", script, *paths])
        CLIENTS_LEFT.append(clients)
        try:
            yield
        finally:
            clients.kill()

    def kill(self) -> None:
        """End a daemon that is left after a failure: who waits for the mount ends with it."""
        self._file.close()
        if Path(f"/proc/{self._pid}").exists():
            os.kill(self._pid, signal.SIGKILL)

    def assert_answers(self, place: str, *, waiting: int = CLIENTS // 2) -> None:
        """Read what is in memory again and again; fails if that takes long.

        At least *waiting* requests wait meanwhile. It is done in a process that does nothing
        else: here are the threads of the test.
        """
        eventually(lambda: self.waiting() >= waiting and not self._more_come(), within_s=30)
        measured = self._measure()
        result = f"{place}: {self.waiting()} wait: {measured}; none waits: {self._quiet}"
        sys.stdout.write(f"{result}\n")
        assert measured.p99_s <= P99_S, result

    def _measure(self) -> "Measured":
        version = self.mount.path / ".blobfs/version"
        command = [sys.executable, "-c", _WATCHING, *map(str, (version, PERIOD_S, self._watched_s))]
        done = subprocess.run(
            command, stdin=self._file, stdout=subprocess.PIPE, text=True, check=True, timeout=60
        )
        p99, longest = map(float, done.stdout.split())
        return Measured(p99, longest, os.getloadavg()[0])

    def _more_come(self) -> bool:
        before = self.waiting()
        time.sleep(0.3)
        return self.waiting() > before

    def waiting(self) -> int:
        """The number of requests that wait."""
        waiting = self.mount.control("stats.json")["waiting"]
        return sum(sum(of_user.values()) for of_user in waiting.values())

    def end(self) -> None:
        """Tell the daemon to end; fails if it does not in time."""
        self._file.close()
        os.kill(self._pid, signal.SIGTERM)
        eventually(lambda: has_ended(self._pid), within_s=END_S)


@contextmanager
def watched(
    storage: Path | str, tmp_path: Path, *options: str, for_s: float = WATCHED_LONG_S
) -> Iterator[Watched]:
    """A mount that does not end well; each of its measurements takes *for_s*."""
    path, log = tmp_path / "mnt", tmp_path / "log"
    path.mkdir()
    done = run("mount", storage, path, "--log-file", log, *options)
    assert done.returncode == 0, done.stderr
    mount = Watched(MountedRegistry(storage, path, log), for_s)
    try:
        yield mount
    finally:
        mount.kill()
        subprocess.run(["umount", "-l", str(path)], check=False, capture_output=True)


@pytest.mark.parametrize("for_s", [WATCHED_S, pytest.param(WATCHED_LONG_S, marks=pytest.mark.long)])
def test_file_system_that_hangs(storage: Path, tmp_path: Path, for_s: float) -> None:
    """[S4.3] One that does not answer holds up nothing that does not need it.
    [S4.7] One more is EIO at once, and the log names its user and operation.
    [S4.10] Who asks for another new name of a directory in which a lookup hangs waits with it,
    until that ends at its deadline.
    [S6.13] A signal ends the daemon within 10 s, also while the storage does not answer.
    [S18.1] All but `uploads.json` and the first read of `health.json` answer at once, also while
    the storage does not.
    """
    lay_out_below(storage)
    with (
        Stoppable(storage, tmp_path / "far") as far,
        watched(far.path, tmp_path, *NO_CACHES, for_s=for_s) as mount,
    ):
        for place in "stat", "list", "readlink", "read", "upload":
            far.stop()
            with mount.clients(place):
                mount.assert_answers(place)
                far.go_on()
            eventually(lambda: mount.waiting() == 0)
        far.stop()
        with mount.clients("stat"):
            mount.end()


@pytest.mark.parametrize("for_s", [WATCHED_S, pytest.param(WATCHED_LONG_S, marks=pytest.mark.long)])
def test_part_of_the_storage_that_hangs(storage: Path, tmp_path: Path, for_s: float) -> None:
    """[S4.9] If that one does not answer, the mount goes on with everything else.
    [S6.13] A signal ends the daemon within 10 s, also while the storage does not answer.
    """
    lay_out_below(storage)
    blobs = storage / "docker/registry/v2/blobs"
    blobs.rename(tmp_path / "blobs")
    blobs.mkdir()
    with (
        Stoppable(tmp_path / "blobs", blobs) as far,
        watched(storage, tmp_path, *NO_CACHES, for_s=for_s) as mount,
    ):
        far.stop()
        with mount.clients("read"):
            mount.assert_answers("blobs")
            assert os.readlink(mount.mount.path / "hung0/_manifests/tags/v1")
            mount.end()


def _delaying(kind: Kind) -> Callable[[Request], Delay | None]:
    return lambda request: Delay(60) if request.kind is kind else None


@pytest.mark.long
@pytest.mark.s3
def test_bucket_and_its_disk_cache_that_hang(ceph: S3Server, tmp_path: Path) -> None:
    """[S4.3] One that does not answer holds up nothing that does not need it.
    [S4.7] The requests that wait for the storage are bounded.
    [S6.13] A signal ends the daemon within 10 s, also while the storage does not answer.
    [S14.7] A Redis that is stopped, paused, emptied, full or in error fails nothing and delays no
    request by more than 50 ms for each hundred digests.
    """
    driver = InMemoryDriver()
    lay_out(driver)
    with ExitStack() as opened:
        bucket = opened.enter_context(Bucket.made(ceph))
        for info in walk(driver, "/"):
            if not info.is_dir:
                bucket.put(info.path, content_of(driver, info.path))
        cache = opened.enter_context(Stoppable(tmp_path / "disk", tmp_path / "cache"))
        proxy = opened.enter_context(S3Proxy.before(ceph.endpoint))
        options = ("--cache-dir", str(cache.path))
        mount = opened.enter_context(watched(bucket.url_at(proxy.url), tmp_path, *options))
        places = (
            (Kind.LIST, "list", CLIENTS // 2),
            (Kind.HEAD, "look up", CLIENTS // 2),
            (Kind.GET, "type", CLIENTS // 2),
            (Kind.GET, "read", PAGE_READS),
        )
        for kind, call, waiting in places:
            proxy.faults = _delaying(kind)
            with mount.clients(call):
                mount.assert_answers(f"{kind}, {call}", waiting=waiting)
                proxy.faults = no_faults
                with proxy.down():
                    pass  # what hangs ends
            eventually(lambda: mount.waiting() == 0)
        cache.stop()
        with mount.clients("read"):
            mount.assert_answers("the disk of the cache", waiting=PAGE_READS)
            cache.go_on()
        eventually(lambda: mount.waiting() == 0)
        proxy.faults = _delaying(Kind.PUT)
        with mount.clients("upload"):
            mount.assert_answers(Kind.PUT)
            mount.end()


@pytest.mark.long
def test_cache_and_notification_queue_that_hang(storage: Path, tmp_path: Path) -> None:
    """[S4.3] One that does not answer holds up nothing that does not need it.
    [S6.13] A signal ends the daemon within 10 s, also while the storage does not answer.
    [S14.7] A Redis that is stopped, paused, emptied, full or in error fails nothing and delays no
    request by more than 50 ms for each hundred digests.
    """
    lay_out_below(storage)
    config = tmp_path / "config.yml"
    endpoint = {"name": "nobody", "url": "http://127.0.0.1:9/", "timeout": "1s", "threshold": 1}
    config.write_text(
        json.dumps(
            {"version": "0.1", "notifications": {"endpoints": [{**endpoint, "backoff": "1s"}]}}
        )
    )
    (tmp_path / "redis").mkdir()
    with ExitStack() as opened:
        redis = opened.enter_context(RedisServer.serving(tmp_path / "redis"))
        state = opened.enter_context(Stoppable(tmp_path / "disk", tmp_path / "state"))
        options = (
            *NO_CACHES,
            "--cache",
            redis.url,
            "--config",
            str(config),
            "--state-dir",
            str(state.path),
        )
        mount = opened.enter_context(watched(storage, tmp_path, *options))
        redis.pause()
        with mount.clients("read once"):
            mount.assert_answers("Redis", waiting=0)  # nobody waits for it for long
        redis.resume()
        state.stop()
        with mount.clients("tag"):
            mount.assert_answers("the notification queue's disk")
            mount.end()


def test_mount_without_trouble_ends_at_once(storage: Path, tmp_path: Path) -> None:
    """[S6.3] SIGTERM and SIGINT unmount."""
    lay_out_below(storage)
    with watched(storage, tmp_path, for_s=WATCHED_S) as mount:
        began = time.monotonic()
        mount.end()
        assert time.monotonic() - began < 2

"""Collections beside a registry, and clients that push, pull, retag, mount, refer and delete."""

import json
import logging
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.reference import RepositoryName, Tag
from tests.support.mounts import BLOBFS
from tests.support.services import DockerRegistry, ServiceFailed, delete_manifest, run
from tests.support.tiny_images import TinyImages

pytestmark = pytest.mark.registry

log = logging.getLogger(__name__)

_AGE_S = 3
_SOON_S = 30.0
"""The time within which a pull succeeds: a blob that is linked again may be set aside for long."""


@dataclass(slots=True)
class Pool:
    """Images that clients push over and over: *digests* by tag, *subjects* of referrers."""

    images: TinyImages
    digests: dict[str, str] = field(default_factory=dict)
    subjects: dict[str, str] = field(default_factory=dict)

    @classmethod
    def made(cls, directory: Path) -> "Pool":
        pool = cls(TinyImages(directory))
        for number in range(6):
            layers = (number, number + 1, 100)
            pool.digests[f"image{number}"] = pool.images.add_image(f"image{number}", *layers)
            pool.digests[f"index{number}"] = pool.images.add_index(f"index{number}", *layers)
            subject = pool.digests[f"image{number}"]
            referrer = pool.images.add_referrer(f"referrer{number}", subject, 200 + number)
            pool.digests[f"referrer{number}"] = referrer
            pool.subjects[referrer] = subject
        return pool


class Client:
    """A client with its own repositories. *tags* has what its pushes have stored, by image name.

    A push may fail, if a collection removes a link that it has seen; then nothing is known about
    its tag until the next push.
    """

    def __init__(self, number: int, address: str, pool: Pool, scratch: Path) -> None:
        self.random = random.Random(number)
        self.repositories = (f"client{number}", f"client{number}/copy")
        self.address = address
        self.pool = pool
        self.scratch = scratch / f"client{number}"
        self.tags: dict[tuple[str, str], str] = {}
        self.referrers: set[tuple[str, str]] = set()
        self.done = 0
        self.refused = 0

    def run_until(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            act = self.random.choice(
                [self.push, self.push, self.push, self.pull, self.retag, self.mount, self.refer,
                 self.delete],
            )  # fmt: skip
            act()
            self.done += 1

    def push(self) -> None:
        name = self.random.choice([n for n in self.pool.digests if not n.startswith("referrer")])
        place = (self.repositories[0], f"tag{self.random.randrange(3)}")
        self._copy(f"oci:{self.pool.images.directory}:{name}", place, self.pool.digests[name])

    def retag(self) -> None:
        self._copy_tag((self.repositories[0], f"tag{self.random.randrange(3)}"))

    def mount(self) -> None:
        self._copy_tag((self.repositories[1], f"tag{self.random.randrange(2)}"))

    def _copy_tag(self, place: tuple[str, str]) -> None:
        for (repository, tag), digest in list(self.tags.items())[:1]:
            self._copy(f"docker://{self.address}/{repository}:{tag}", place, digest)

    def refer(self) -> None:
        for (repository, _), digest in list(self.tags.items()):
            referrers = [r for r, subject in self.pool.subjects.items() if subject == digest]
            for referrer in referrers:
                name = next(n for n, d in self.pool.digests.items() if d == referrer)
                source = f"oci:{self.pool.images.directory}:{name}"
                if self._skopeo(source, f"docker://{self.address}/{repository}@{referrer}"):
                    self.referrers.add((repository, referrer))

    def delete(self) -> None:
        for (repository, _), digest in list(self.tags.items())[-1:]:
            delete_manifest(self.address, repository, digest)
            self.tags = {k: d for k, d in self.tags.items() if (k[0], d) != (repository, digest)}
            self._drop_referrers()

    def pull(self) -> None:
        for repository, tag in list(self.tags)[:2]:
            self.pull_soon(repository, f":{tag}")
        for repository, referrer in self.referrers:
            self.pull_soon(repository, f"@{referrer}")

    def pull_soon(self, repository: str, reference: str) -> None:
        deadline = time.monotonic() + _SOON_S
        image = f"docker://{self.address}/{repository}{reference}"
        while True:
            try:
                self._copy_to_directory(image)
            except ServiceFailed:
                if time.monotonic() > deadline:
                    raise
            else:
                return

    def _copy_to_directory(self, image: str) -> None:
        run("rm", "-rf", self.scratch)
        run("skopeo", "--insecure-policy", "copy", "--all", "--quiet", "--src-tls-verify=false",
            image, f"dir:{self.scratch}")  # fmt: skip

    def _copy(self, source: str, place: tuple[str, str], digest: str) -> None:
        self.tags.pop(place, None)
        if self._skopeo(source, f"docker://{self.address}/{':'.join(place)}"):
            self.tags[place] = digest
        self._drop_referrers()

    def _drop_referrers(self) -> None:
        """Forget those whose subject may have been untagged for a moment."""
        tagged = {(repository, digest) for (repository, _), digest in self.tags.items()}
        subjects = self.pool.subjects
        self.referrers = {(r, d) for r, d in self.referrers if (r, subjects[d]) in tagged}

    def _skopeo(self, source: str, target: str) -> bool:
        try:
            run("skopeo", "--insecure-policy", "copy", "--all", "--quiet", "--preserve-digests",
                "--src-tls-verify=false", "--dest-tls-verify=false", source, target)  # fmt: skip
        except ServiceFailed:
            self.refused += 1
            return False
        return True


class Collector:
    """``blobfs gc`` as a process, with the same journal each time."""

    def __init__(self, root: Path, tmp_path: Path, number: int = 0) -> None:
        self.command = [
            *BLOBFS, "gc", str(root), "--layers", "--untagged", "--delete", "--json",
            "--age", f"{_AGE_S}s", "--grace", "2s", "--settle", "2s",
            "--state", str(tmp_path / f"state{number}"),
        ]  # fmt: skip
        self.runs = 0
        self.freed = 0

    def collect(self) -> None:
        done = subprocess.run(
            self.command, capture_output=True, text=True, timeout=120, check=False
        )
        # A registry writes a link in two steps, and may be stopped in between for long.
        assert done.returncode == 0 or "holds nothing" in done.stderr, done.stderr
        self.runs += 1
        self.freed += sum(row["bytes"] for row in json.loads(done.stdout))

    def killed_after(self, seconds: float) -> None:
        with subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()

    def collect_all(self) -> None:
        time.sleep(_AGE_S)
        self.collect()


@contextmanager
def clients(address: str, tmp_path: Path, seconds: float) -> Iterator[list[Client]]:
    """Let four clients work for some seconds, beside the block."""
    pool = Pool.made(tmp_path / "oci")
    found = [Client(number, address, pool, tmp_path) for number in range(4)]
    deadline = time.monotonic() + seconds
    failures: list[BaseException] = []

    def work(client: Client) -> None:
        try:
            client.run_until(deadline)
        except BaseException as exc:  # noqa: BLE001  (raised below)
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(client,)) for client in found]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


def check(root: Path, found: list[Client]) -> None:
    """Check that all images are whole, and that nothing else is stored."""
    pool = found[0].pool
    for client in found:
        for (repository, tag), digest in client.tags.items():
            path = paths.tag_current_link(RepositoryName(repository), Tag(tag))
            assert (root / path[1:]).read_text() == digest
            client.pull_soon(repository, f":{tag}")
        for repository, referrer in client.referrers:
            client.pull_soon(repository, f"@{referrer}")
    expected: set[str] = set()
    repositories = root / paths.REPOSITORIES[1:]
    for current in repositories.rglob("current/link"):
        digest = current.read_text()
        expected |= pool.images.parts(digest)
        revisions = current.parents[3] / "revisions/sha256"
        for referrer, subject in pool.subjects.items():
            if subject == digest and (revisions / referrer[7:] / "link").exists():
                expected |= pool.images.parts(referrer)
    log.info(
        "%d operations, %d refused pushes, %d images, %d referrers, %d blobs",
        sum(client.done for client in found),
        sum(client.refused for client in found),
        sum(len(client.tags) for client in found),
        sum(len(client.referrers) for client in found),
        len(expected),
    )
    stored = [f"sha256:{data.parent.name}" for data in (root / paths.BLOBS[1:]).rglob("data*")]
    assert sorted(stored) == sorted(expected)


@pytest.mark.parametrize("seconds", [10, pytest.param(60, marks=pytest.mark.long)])
def test_nothing_in_use_is_lost_and_all_else_goes(tmp_path: Path, seconds: float) -> None:
    """[S19.29] A blob that a registry or a mount links while `gc` runs stays."""
    root = tmp_path / "storage"
    with DockerRegistry.serving(root) as registry:
        collector = Collector(root, tmp_path)
        with clients(registry.address, tmp_path, seconds) as found:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                collector.collect()
        collector.collect_all()
        check(root, found)
    log.info("%d collections freed %d bytes", collector.runs, collector.freed)
    assert sum(client.done for client in found) > seconds
    assert sum(client.refused for client in found) < sum(client.done for client in found) / 4
    assert collector.freed > 0


@pytest.mark.long
def test_two_collections_with_different_journals_lose_nothing(tmp_path: Path) -> None:
    """[S19.37] Several collections of a storage at the same time lose nothing, also with different
    journals.
    """
    seconds = 60
    root = tmp_path / "storage"
    with DockerRegistry.serving(root) as registry, ThreadPoolExecutor(2) as threads:
        collectors = [Collector(root, tmp_path, number) for number in range(2)]
        with clients(registry.address, tmp_path, seconds) as found:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                list(threads.map(Collector.collect, collectors))
        collectors[0].collect_all()
        check(root, found)
    assert all(collector.freed for collector in collectors)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
def test_ten_kills_lose_nothing(tmp_path: Path, seed: int) -> None:
    """[S19.32] A run can be stopped at any moment, also by SIGKILL."""
    kills = 10
    root = tmp_path / "storage"
    chance = random.Random(seed)
    with DockerRegistry.serving(root) as registry:
        collector = Collector(root, tmp_path)
        with clients(registry.address, tmp_path, kills * 3.0) as found:
            for _ in range(kills):
                collector.killed_after(chance.uniform(0.5, 6))
        collector.collect()  # it continues the pass of the last one, which is out of date
        collector.collect_all()
        check(root, found)

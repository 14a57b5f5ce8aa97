"""Copies that are killed, or lose their target for a while, and then go on."""

import re
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import (
    AbstractContextManager,
    ExitStack,
    closing,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from urllib.parse import unquote

import pytest

from blobfs.drivers.base import StorageDriver
from blobfs.drivers.factory import driver_for
from blobfs.drivers.objectstore import ObjectStore
from tests.support.command import invoke
from tests.support.s3_proxy import S3Proxy
from tests.support.s3_servers import S3Server
from tests.support.services import DockerRegistry
from tests.support.varied_registry import holdings, varied_registry

pytestmark = [pytest.mark.registry, pytest.mark.s3]

Stamps = Mapping[str, object]

_OPTIONS = ("--bwlimit", "1500K", "--jobs", "2")
"""A copy of a small registry takes two seconds then, so that there is time to stop it."""

_ITEMS = 50
"""The blobs and manifests of the registry are a few more."""

_LONGEST_S = 0.2
"""The time between the arrival of an item, and the moment at which a copy is stopped."""


@dataclass(frozen=True)
class Place:
    """A target. *arrived* has a stamp of each complete item, which changes if it is sent again.

    *verify* expects that all that the place shows is whole. A copy does not reach it in *away*, by
    an event.
    """

    name: str
    arrived: Callable[[], Stamps]
    verify: Callable[[], None]
    away: Callable[[str], AbstractContextManager[object]] = nullcontext


@contextmanager
def directory(tmp_path: Path) -> Iterator[Place]:
    root = tmp_path / "target"
    yield Place(str(root), lambda: _inodes(root, "docker/registry/v2/blobs/sha256/*/*/data"),
                lambda: _verified(root))  # fmt: skip


@contextmanager
def layout(tmp_path: Path) -> Iterator[Place]:
    root = tmp_path / "target"

    def verify() -> None:
        if (root / "index.json").exists():
            copied("cp", f"oci:{root}", tmp_path / "checked")
            _verified(tmp_path / "checked")

    yield Place(f"oci:{root}", lambda: _inodes(root, "blobs/sha256/[0-9a-f]*"), verify)


@contextmanager
def archive(tmp_path: Path) -> Iterator[Place]:
    file = tmp_path / "target.tar"

    def arrived() -> Stamps:
        found = next((each for each in (file, Path(f"{file}.partial")) if each.exists()), None)
        return {} if found is None else dict(_members(found))

    def verify() -> None:
        if file.exists():
            copied("cp", f"oci-archive:{file}", tmp_path / "checked")
            _verified(tmp_path / "checked")

    yield Place(f"oci-archive:{file}", arrived, verify)


@contextmanager
def registry(tmp_path: Path) -> Iterator[Place]:
    settings: dict[str, Any] = {
        "log": {"accesslog": {"disabled": False}},
        "validation": {"manifests": {"urls": {"allow": ["^https://example.org/"]}}},
    }
    with (
        DockerRegistry.serving(tmp_path / "target", **settings) as served,
        S3Proxy.before(served.url) as proxy,
    ):
        address = proxy.url.removeprefix("http://")
        printed = served.config.with_suffix(".log")
        yield Place(f"docker://{address}", lambda: _uploads(printed.read_text()),
                    lambda: _verified(served.root),
                    partial(away, proxy, served.killed))  # fmt: skip


@contextmanager
def bucket(ceph: S3Server) -> Iterator[Place]:
    with ceph.bucket() as name, S3Proxy.before(ceph.endpoint) as proxy:
        direct = ceph.storage_url(name, "registry")
        url = direct.replace(ceph.endpoint, proxy.url)
        with closing(driver_for(direct)) as store:
            yield Place(url, lambda: _objects(store), lambda: _verified(direct),
                        partial(away, proxy, ceph.killed))  # fmt: skip


@contextmanager
def away(
    proxy: S3Proxy, killed: Callable[[], AbstractContextManager[None]], event: str
) -> Iterator[None]:
    """Cut the network, after the server was killed if that is the *event*."""
    with ExitStack() as stack:
        with killed() if event == "server" else nullcontext():
            stack.enter_context(proxy.down())
        yield


def _inodes(root: Path, pattern: str) -> Stamps:
    complete = (path for path in root.glob(pattern) if path.suffix != ".tmp")
    return {str(path): path.stat().st_ino for path in complete}


def _members(file: Path) -> Iterator[tuple[str, int]]:
    """Yield the whole blobs of an archive, which may be written meanwhile, with their offsets."""
    size = file.stat().st_size
    with suppress(tarfile.ReadError), tarfile.open(file) as tar:  # at its end
        for member in tar:
            if member.name.startswith("blobs/") and member.offset_data + member.size <= size:
                yield member.name, member.offset_data


def _uploads(log: str) -> Stamps:
    """Count the uploads that a registry has accepted, by their digests."""
    found = re.findall(r'PUT /v2/\S*digest=(\S+?)[& ].*?" 201', log)
    return Counter(map(unquote, found))


def _objects(store: StorageDriver) -> Stamps:
    assert isinstance(store, ObjectStore)
    pages = store.pages("/docker/registry/v2/blobs")
    return {each.path: each.mtime_ns for page in pages for each in page.files}


def _verified(storage: object) -> None:
    """Expect that nothing of a storage is damaged; an empty one is none."""
    done = invoke("verify", "--content", storage)
    is_empty = "is no registry" in done.stderr or "does not exist" in done.stderr
    assert done.exit_code == 0 or is_empty, done.output


def copied(*arguments: object) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 0, done.output


@pytest.fixture
def keys(ceph: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """Ceph, with its keys in the environment of commands, and a state directory of their own."""
    for name, value in ceph.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return ceph


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry of 2.5 MB."""
    root = tmp_path_factory.mktemp("source")
    with varied_registry(root, 100_000) as registry:
        registry.fill(images=6)
    return root


@contextmanager
def place_of(kind: str, tmp_path: Path, ceph: S3Server) -> Iterator[Place]:
    kinds = {"directory": directory, "oci": layout, "oci-archive": archive, "docker": registry}
    with bucket(ceph) if kind == "s3" else kinds[kind](tmp_path) as place:
        yield place


def stopped(
    source: str, place: Place, away: AbstractContextManager[object] | None, random: Random
) -> Stamps:
    """Begin a copy, and kill it, or take one of its places *away*; return what had arrived.

    That is after a random number of items, and a moment more.
    """
    count, after_s = random.randint(0, _ITEMS), random.uniform(0, _LONGEST_S)
    command = [sys.executable, "-m", "blobfs", "sync", *_OPTIONS, source, place.name]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as copy:
        while copy.poll() is None and len(place.arrived()) < count:
            pass
        with suppress(subprocess.TimeoutExpired):
            copy.wait(after_s)
        if away is None:
            copy.kill()
            copy.wait()
        with away or nullcontext():
            before = place.arrived()
            assert len(before) >= count or copy.poll() == 0
            place.verify()
        _, printed = copy.communicate(timeout=120)
        # A place that is not reached at the beginning may have a wrong name.
        assert away is None or not before or copy.returncode == 0, printed.decode()
    expect_still(before, place)
    return place.arrived()


def expect_still(before: Stamps, place: Place) -> None:
    """Expect that the blobs that had arrived were not sent again."""
    after = place.arrived()
    assert {each: after.get(each) for each in before} == before


KINDS = ["directory", "s3", "oci", "oci-archive", "docker"]
OUTAGES = ["outage", "server"]


class Stop(NamedTuple):
    """A kind of target, the reason why the copy stops, and the number of random points."""

    kind: str
    event: str
    points: int

    def __str__(self) -> str:
        return "-".join(map(str, self))


@pytest.mark.parametrize(
    "stop",
    [
        Stop("directory", "client", 1),
        *(pytest.param(Stop(kind, "client", 40), marks=pytest.mark.long) for kind in KINDS),
        *(
            pytest.param(Stop(kind, event, 40), marks=pytest.mark.long)
            for kind in ("s3", "docker")
            for event in OUTAGES
        ),
    ],
    ids=str,
)
def test_a_copy_goes_on_after_it_was_stopped(
    stop: Stop,
    source: Path,
    tmp_path: Path,
    keys: S3Server,
) -> None:
    """The target is whole at each point, and no blob that had arrived is sent again."""
    random = Random(str(stop))
    for point in range(stop.points):
        here = tmp_path / str(point)
        here.mkdir()
        with place_of(stop.kind, here, keys) as place:
            away = None if stop.event == "client" else place.away(stop.event)
            before = stopped(str(source), place, away, random)
            expect_to_go_on(before, source, str(source), place, here)


def expect_to_go_on(
    before: Stamps, source: Path, origin: str, place: Place, directory: Path
) -> None:
    """Expect that a copy of *origin* goes on, which has what *source* has."""
    copied("sync", origin, place.name)
    expect_still(before, place)
    end = directory / "end"
    copied("cp", place.name, end)
    assert _tags(end) == _tags(source)
    _verified(end)


@pytest.mark.long
def test_a_copy_between_any_places_goes_on(source: Path, tmp_path: Path, keys: S3Server) -> None:
    """At 40 random points, and each for a random pair, one of the three ends is away."""
    random = Random("pairs")
    with ExitStack() as stack:
        origins = {}
        for kind in KINDS:
            (tmp_path / kind).mkdir()
            origins[kind] = stack.enter_context(place_of(kind, tmp_path / kind, keys))
            copied("sync", source, origins[kind].name)
        for point in range(40):
            here = tmp_path / str(point)
            here.mkdir()
            origin = random.choice(list(origins.values()))
            with place_of(random.choice(KINDS), here, keys) as place:
                reached = [end for end in (origin, place) if end.away is not nullcontext]
                stops = [None, *(end.away(event) for end in reached for event in OUTAGES)]
                before = stopped(origin.name, place, random.choice(stops), random)
                expect_to_go_on(before, source, origin.name, place, here)


def _tags(root: Path) -> object:
    found = holdings(root)
    return found.tags, found.revisions

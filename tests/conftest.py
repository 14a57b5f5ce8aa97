"""What tests share: the services they need, what a missing one does, and registries with images."""

import gc
import importlib.util
import logging
import os
import shutil
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from blobfs.mountinfo import mounts
from tests.support import guards, images, s3_servers
from tests.support.redis_server import RedisServer
from tests.support.services import DockerRegistry, ServiceFailed, cannot, push, run
from tests.support.turns import Turns

log = logging.getLogger(__name__)

guards.watch()

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
NEXT_IS_ALONE = pytest.StashKey[bool]()


@cache
def _lacking(*programs: str) -> str | None:
    absent = [program for program in programs if shutil.which(program) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


@cache
def _fuse_missing() -> str | None:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as exc:
        return f"/dev/fuse: {exc.strerror}"
    return None if os.geteuid() == 0 else _lacking("fusermount3")


def _registry_missing() -> str | None:
    return _lacking("docker-registry", "skopeo", "umoci")


def _backup_missing() -> str | None:
    return _lacking("tar", "rsync", "borg", "restic")


def _debootstrap_missing() -> str | None:
    return _lacking("debootstrap") if os.geteuid() == 0 else "debootstrap needs root"


def _ceph_missing() -> str | None:
    return _lacking(
        "ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin"
    )


@cache
def _moto_missing() -> str | None:
    absent = [name for name in ("moto", "flask_cors") if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def _s3_missing() -> str | None:
    return _ceph_missing() or _moto_missing()


def _redis_missing() -> str | None:
    return _lacking("redis-server", "openssl")


@cache
def _cluster_missing() -> str | None:
    return None if importlib.util.find_spec("distributed") else "not installed: distributed"


@cache
def _shells_missing() -> str | None:
    return _lacking("man", "bash", "zsh", "fish") or (
        None if importlib.util.find_spec("hatchling") else "not installed: hatchling"
    )


MISSING: dict[str, Callable[[], str | None]] = {
    "fuse": _fuse_missing,
    "registry": _registry_missing,
    "backup": _backup_missing,
    "s3": _s3_missing,
    "redis": _redis_missing,
    "cluster": _cluster_missing,
    "shells": _shells_missing,
}


def _required() -> set[str]:
    """Services that must be there: BLOBFS_REQUIRE, by default all of them in CI, else none."""
    default = ",".join(MISSING) if os.environ.get("CI") else ""
    return set(os.environ.get("BLOBFS_REQUIRE", default).split(",")) - {""}


def _need(service: str, missing: Callable[[], str | None]) -> None:
    """Without *service*, skip the test that is being set up, or fail it where it is required."""
    if reason := missing():
        if service in _required():
            pytest.fail(f"{service} is required here, but {reason}", pytrace=False)
        pytest.skip(reason)


def pytest_configure() -> None:
    # A job in the background ignores SIGINT, and so would all that is started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if unknown := _required() - set(MISSING):
        raise pytest.UsageError(f"BLOBFS_REQUIRE names no service: {', '.join(sorted(unknown))}")


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # else each full collection looks through all modules and tests


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape half characters in captured output: a worker sends its reports as UTF-8."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for service, missing in MISSING.items():
        if item.get_closest_marker(service):
            _need(service, missing)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    item.stash[NEXT_IS_ALONE] = nextitem is not None and _is_alone(nextitem)


@pytest.fixture(scope="session")
def _turns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Turns]:
    with closing(Turns(_run_directory(tmp_path_factory))) as turns:
        yield turns


@pytest.fixture(autouse=True)
def _turn(request: pytest.FixtureRequest, _turns: Turns) -> Iterator[None]:
    """Keeps the other workers' tests from running beside a test that is marked ``alone``."""
    _turns.take(alone=_is_alone(request.node))
    yield
    _turns.leave(next_is_alone=request.node.stash.get(NEXT_IS_ALONE, False))


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


@pytest.fixture
def on_disk() -> Iterator[Path]:
    """A directory on a disk; that of ``tmp_path`` may be in memory, and below /dev."""
    with TemporaryDirectory(dir="/var/tmp") as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def as_root() -> None:
    """For a test that sets owners, or mounts what only root may."""
    if os.geteuid() != 0:
        cannot("needs root")


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """A registry with small images. For reading only: a test that changes one serves its own.

    library/small:v1 and :v2 share their layers, library/multi:latest is an index of two platforms,
    and team/app:v1 shares its layers with team/app/debug:v1, a repository below it.
    """
    _need("registry", _registry_missing)
    with DockerRegistry.serving(tmp_path_factory.mktemp("registry") / "storage") as registry:
        _push_small_images(registry)
        yield registry


@pytest.fixture(scope="session")
def debian_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """What ``registry`` has, and debian:bookworm with layers of 95 MB and 8 MB; also for reading.

    The first run on a machine takes a minute to make that image.
    """
    _need("registry", _registry_missing)
    _need("registry", _debootstrap_missing)
    with DockerRegistry.serving(tmp_path_factory.mktemp("debian-registry") / "storage") as registry:
        _push_small_images(registry)
        push(images.debian(), registry.address, "debian", "bookworm")
        yield registry


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that any test may empty, and none may stop."""
    _need("redis", _redis_missing)
    with RedisServer.serving(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def ceph(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[s3_servers.S3Server]:
    """A real S3 server; it takes 1 s to start."""
    _need("s3", _ceph_missing)
    if runs := _runs(tmp_path_factory):
        for abandoned in _ceph_directories(runs):
            if not _is_running(runs, abandoned):  # and holds up to 8 GiB of memory
                s3_servers.stop_ceph(abandoned)
    with s3_servers.serving_ceph(tmp_path_factory.mktemp("ceph") / "server") as server:
        yield server


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3_servers.S3Server]:
    """An S3 server that takes any keys, as moto's authors read Amazon's documentation."""
    _need("s3", _moto_missing)
    with s3_servers.serving_moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
def s3_registry(
    ceph: s3_servers.S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[s3_servers.S3Registry]:
    """What ``registry`` has, in a bucket of Ceph; also for reading."""
    _need("registry", _registry_missing)
    directory = tmp_path_factory.mktemp("s3-registry")
    with ceph.bucket() as bucket, s3_servers.serving_registry(ceph, bucket, directory) as served:
        _push_small_images(served.registry)
        yield served


def _push_small_images(registry: DockerRegistry) -> None:
    push(images.small(), registry.address, "library/small", "v1")
    push(images.small(), registry.address, "library/small", "v2")
    push(images.multi(), registry.address, "library/multi", "latest")
    push(images.small(), registry.address, "team/app", "v1")
    push(images.small(), registry.address, "team/app/debug", "v1", source_tag="v2")


@pytest.fixture(scope="session", autouse=True)
def _no_stale_mounts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Detach the blobfs mounts of aborted runs, which pytest can not remove with their directories.

    A mount may hang, so its path is compared and handed on, and never looked at.
    """
    runs = _runs(tmp_path_factory)
    if runs is None:
        return
    for mount_point in reversed(_blobfs_mount_points()):
        if mount_point.is_relative_to(runs) and not _is_running(runs, mount_point):
            try:
                run("umount", "--lazy", "--no-canonicalize", mount_point, timeout_s=10)
            except ServiceFailed as exc:  # such as: another run, beginning now, was faster
                log.warning("stale mount: %s", exc)


def _run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of this run, which its workers share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if WORKER else base


def _runs(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """The directory that pytest keeps its last runs in; None if --basetemp names another place."""
    runs = _run_directory(tmp_path_factory).parent
    return runs if runs.name.startswith("pytest-of-") else None


def _ceph_directories(runs: Path) -> Iterator[Path]:
    for pattern in ("pytest-*/ceph*/server", "pytest-*/popen-*/ceph*/server"):
        yield from runs.glob(pattern)


def _blobfs_mount_points() -> list[Path]:
    """Oldest first."""
    return [mount.mountpoint for mount in mounts() if mount.fstype == "fuse.blobfs"]


def _is_running(runs: Path, path: Path) -> bool:
    """Whether the run that *path* belongs to goes on: pytest leaves its process id in .lock."""
    lock = runs / path.relative_to(runs).parts[0] / ".lock"
    try:
        return Path("/proc", lock.read_text()).exists()
    except FileNotFoundError:
        return False

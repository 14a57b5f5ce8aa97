"""What a mount has counted after a tour through everything that it does."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric

from blobfs.digest import Digest
from tests.support.layout import APP, image
from tests.support.mounts import MountedRegistry, eventually, failing_with, mounted
from tests.test_metrics import documented, exported

pytestmark = pytest.mark.fuse

LAYER = os.urandom(2 * 2**20)
CONFIG = b"{}"

Samples = dict[tuple[str, ...], float]


def _tour(mount: Path) -> None:
    """Put an image, look at it, read it, remove it; do something wrong."""
    repository = mount / APP
    repository.mkdir(parents=True)
    for content in (LAYER, CONFIG):
        (repository / "_uploads" / str(Digest.of(content))).write_bytes(content)
    manifest = image(Digest.of(CONFIG), Digest.of(LAYER))
    (repository / "_manifests/_uploads/v1").write_bytes(manifest)
    assert (repository / "_manifests/tags/v1").read_bytes() == manifest
    layer = repository / "_layers/sha256" / Digest.of(LAYER).encoded
    assert layer.read_bytes() == LAYER
    subprocess.run(["ls", "-lR", mount], check=True, stdout=subprocess.DEVNULL)
    (mount / "other").mkdir()
    os.link(layer, mount / "other/_layers/sha256" / layer.name)
    os.getxattr(layer, "user.blobfs.digest")
    os.statvfs(mount)
    with failing_with(errno.EROFS):
        layer.open("wb")
    with failing_with(errno.EBADMSG):
        (repository / "_uploads" / str(Digest.of(b"this"))).write_bytes(b"that")
    layer.unlink()


@pytest.fixture(scope="module")
def toured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedRegistry]:
    place = tmp_path_factory.mktemp("toured")
    with mounted(place / "storage", place, "--create", "--allow-delete") as mount:
        _tour(mount.path)
        yield mount


@pytest.fixture
def metrics(toured: MountedRegistry) -> dict[str, Metric]:
    return exported((toured.path / ".blobfs/metrics").read_text())


def _samples(metric: Metric, suffix: str, *labels: str) -> Samples:
    return {
        tuple(sample.labels[label] for label in labels): sample.value
        for sample in metric.samples
        if sample.name.endswith(suffix)
    }


def test_every_metric_of_the_readme_is_exported_and_no_other(metrics: dict[str, Metric]) -> None:
    """[S18.4] Every metric of the table in docs/METRICS.md is exported, and no other."""
    assert metrics.keys() == documented().keys()


def test_labels_are_those_of_the_readme(metrics: dict[str, Metric]) -> None:
    """[S18.4] Every metric of the table in docs/METRICS.md is exported, and no other."""
    labels = {
        name: set(metric.samples[0].labels) - {"le"}
        for name, metric in metrics.items()
        if metric.samples
    }
    assert labels.items() <= documented().items()


def test_requests_are_counted_by_operation_and_errno(metrics: dict[str, Metric]) -> None:
    """[S18.4] Those of what happened have counted it."""
    counts = _samples(metrics["blobfs_fuse_requests_total"], "_total", "op", "errno")
    done = {operation for operation, result in counts if result == "OK"}
    assert done >= {
        "create", "flush", "getattr", "getxattr", "link", "lookup", "mkdir", "open", "opendir",
        "read", "readdir", "readlink", "release", "releasedir", "statfs", "unlink", "write",
    }  # fmt: skip
    failed = {(operation, result) for operation, result in counts if result != "OK"}
    assert failed >= {("open", "EROFS"), ("flush", "EBADMSG")}


def test_histogram_has_every_request(metrics: dict[str, Metric]) -> None:
    """[S18.4] Those of what happened have counted it."""
    counts = _samples(metrics["blobfs_fuse_requests_total"], "_total", "op", "errno")
    timed = _samples(metrics["blobfs_fuse_seconds"], "_count", "op")
    assert sum(timed.values()) == sum(counts.values()) > 50
    spent = _samples(metrics["blobfs_fuse_seconds"], "_sum", "op")
    assert all(seconds > 0 for seconds in spent.values())


def test_what_the_storage_did_is_timed(metrics: dict[str, Metric]) -> None:
    """[S18.4] Those of what happened have counted it."""
    seconds = metrics["blobfs_storage_action_seconds"]
    counts = _samples(seconds, "_count", "driver", "action")
    assert {driver for driver, _ in counts} == {"filesystem"}
    assert {action for _, action in counts} >= {
        "capacity", "create", "delete", "listdir", "open_of_size", "put_content", "read_at",
        "reader.read_at", "stat", "stat_many", "writer.move_to", "writer.write",
    }  # fmt: skip


def test_bytes_are_counted(metrics: dict[str, Metric]) -> None:
    """[S18.4] Those of what happened have counted it."""
    [read] = metrics["blobfs_read_bytes_total"].samples
    [written] = metrics["blobfs_written_bytes_total"].samples
    manifest = len(image(Digest.of(CONFIG), Digest.of(LAYER)))
    assert written.value == len(LAYER) + len(CONFIG) + manifest + len(b"that")
    assert read.value >= len(LAYER) + manifest


def test_uploads_are_counted_by_state(metrics: dict[str, Metric]) -> None:
    """[S18.4] Those of what happened have counted it."""
    states = _samples(metrics["blobfs_uploads"], "", "state")
    assert states == {("open",): 0, ("failed",): 1, ("committed",): 3}


def test_open_files_are_counted(toured: MountedRegistry) -> None:
    """[S18.4] Those of what happened have counted it."""
    manifest = toured.path / APP / "_manifests/tags/v1"

    def handles() -> Samples:
        text = (toured.path / ".blobfs/metrics").read_text()
        return _samples(exported(text)["blobfs_open_handles"], "", "kind")

    with manifest.open("rb"):  # the kernel tells of what was closed before when it likes
        eventually(lambda: handles() == {("file",): 1, ("directory",): 0})


def test_stats_tell_how_long_things_took(toured: MountedRegistry) -> None:
    """[S18.5] `p50` and `p99` of how long it took, in seconds."""
    stats = toured.control("stats.json")
    for timing in (stats["requests"]["write"], stats["storage"]["filesystem"]["writer.move_to"]):
        assert timing["count"] > 0
        assert 0 < timing["p50"] <= timing["p99"] < timing["count"] * timing["seconds"] + 0.1
    assert stats["requests"]["flush"]["errors"] == {"EBADMSG": 1}

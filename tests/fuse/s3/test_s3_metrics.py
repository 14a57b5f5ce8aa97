"""What a mount of a bucket has counted."""

import os
from collections.abc import Iterator

import pytest
from prometheus_client.metrics_core import Metric

from blobfs.digest import Digest
from tests.fuse.s3.conftest import QUICK
from tests.support.buckets import Bucket
from tests.support.mounts import MountedRegistry, eventually, mounted
from tests.support.s3_servers import S3Server
from tests.test_metrics import exported

pytestmark = [pytest.mark.s3, pytest.mark.fuse]

MIB = 2**20
LAYER = os.urandom(6 * MIB)


@pytest.fixture(scope="module")
def used(ceph: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedRegistry]:
    """A mount with a cache on disk, through which a blob was put and read."""
    place = tmp_path_factory.mktemp("used")
    (place / "cache").mkdir(mode=0o700)
    with (
        Bucket.made(ceph) as bucket,
        mounted(bucket.url, place, *QUICK, "--cache-dir", str(place / "cache")) as mount,
    ):
        (mount.path / "app").mkdir()
        digest = Digest.of(LAYER)
        (mount.path / "app/_uploads" / str(digest)).write_bytes(LAYER)
        assert (mount.path / "app/_layers/sha256" / digest.encoded).read_bytes() == LAYER
        yield mount


def _metric(mount: MountedRegistry, name: str) -> Metric:
    return exported((mount.path / ".blobfs/metrics").read_text())[name]


def _value(mount: MountedRegistry, name: str) -> float:
    [sample] = _metric(mount, name).samples
    return sample.value


def test_requests_to_s3_are_counted_by_operation_and_status(used: MountedRegistry) -> None:
    """[S18.4] Those of what happened have counted it."""
    samples = _metric(used, "blobfs_s3_requests_total").samples
    counted = {(s.labels["operation"], s.labels["status"]): s.value for s in samples}
    assert counted["CreateMultipartUpload", "200"] == 1
    assert counted["UploadPart", "200"] == 2
    assert counted["GetObject", "206"] > 0
    assert counted["HeadObject", "404"] > 0


def test_what_s3_did_is_timed(used: MountedRegistry) -> None:
    """[S18.4] Those of what happened have counted it."""
    samples = _metric(used, "blobfs_storage_action_seconds").samples
    counted = {
        sample.labels["action"]: sample.value
        for sample in samples
        if sample.name.endswith("_count") and sample.labels["driver"] == "s3"
    }
    assert {"pages", "create", "writer.commit", "reader.read_at"} <= counted.keys()
    assert all(counted.values())


def test_reading_ahead_is_counted(used: MountedRegistry) -> None:
    """[S18.4] Those of what happened have counted it."""
    parts = _value(used, "blobfs_readahead_hits_total") + _value(
        used, "blobfs_readahead_waits_total"
    )
    assert parts > 0
    assert _value(used, "blobfs_readahead_requests_total") > 0
    assert used.control("stats.json")["readahead"]["requests"] > 0


def test_cache_on_disk_is_counted(used: MountedRegistry) -> None:
    """[S18.4] Those of what happened have counted it."""
    assert _value(used, "blobfs_disk_cache_misses_total") > 0
    eventually(lambda: _value(used, "blobfs_disk_cache_stored_total") == 1)
    assert _value(used, "blobfs_disk_cache_held_bytes") >= len(LAYER)

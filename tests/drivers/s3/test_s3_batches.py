"""Batches of small objects, and copies between buckets."""

from dataclasses import replace

import pytest

from blobfs import metrics
from blobfs.drivers.base import NewFile
from blobfs.drivers.s3.driver import S3Driver
from tests.support.files import content_of
from tests.support.s3_faults import SLOW_DOWN, Kind, no_faults, nth
from tests.support.s3_prefixes import S3Place

pytestmark = pytest.mark.s3

FILES = [NewFile(f"/d/{n}", b"%d" % n, is_immutable=True) for n in range(20)]


def _puts() -> dict[str, float]:
    return {
        sample.labels["status"]: sample.value
        for metric in metrics.S3_REQUESTS.collect()
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.labels["operation"] == "PutObject"
    }


def test_a_batch_is_one_put_for_each_file(store: S3Driver) -> None:
    before = sum(_puts().values())
    store.put_files(FILES)
    assert sum(_puts().values()) - before == len(FILES)
    for file in FILES:
        assert content_of(store, file.path) == file.content


def test_files_of_an_option_that_obstore_lacks_are_put_by_boto3(place: S3Place) -> None:
    options = place.options(for_writes={"StorageClass": "STANDARD"})
    store = place.driver(options)
    store.put_files(FILES[:2])
    assert content_of(store, "/d/1") == b"1"
    place.take_down(store, options)


def test_a_failure_of_obstore_is_repeated_by_boto3(place: S3Place, no_waits: None) -> None:
    options = place.options(endpoint=place.proxy.url)
    store = place.driver(options)
    place.proxy.faults = nth(1, SLOW_DOWN, only={Kind.PUT})
    store.put_files(FILES[:3])
    place.proxy.faults = no_faults
    for file in FILES[:3]:
        assert content_of(store, file.path) == file.content
    place.take_down(store, options)


def test_objects_are_copied_between_buckets_of_one_account(place: S3Place) -> None:
    options, others = place.options(), place.options()
    store, other = place.driver(options), place.driver(replace(others, copy_threshold=0))
    content = bytes(6_000_000)
    store.put_immutable("/a/b", [content])
    for target in (other, store):
        assert target.copy_from(store, "/a/b", "/c/d", len(content))
        assert content_of(target, "/c/d") == content
    assert not store.copy_from(other, "/missing", "/e", 3)
    for driver, used in ((store, options), (other, others)):
        place.take_down(driver, used)


def test_a_bucket_of_other_keys_is_not_copied(ceph_place: S3Place) -> None:
    options, others = ceph_place.options(), ceph_place.options()
    store = ceph_place.driver(options)
    assert ceph_place.server.other is not None
    other = ceph_place.driver(others, ceph_place.server.other)
    store.put_content("/a", b"a")
    assert not other.copy_from(store, "/a", "/b", 1)
    other.close()
    ceph_place.take_down(store, options)

"""The number of requests to S3 that uploads and manifests take, counted below the mount."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.storage.registry import Registry, open_registry
from blobfs.storage.repository import Repository
from blobfs.storage.uploads.inventory import lost, of_repository
from blobfs.vfs.uploads import Uploads, upload_states
from tests.support.layout import APP, image
from tests.support.s3_faults import Kind
from tests.support.s3_proxy import S3Proxy
from tests.support.s3_servers import S3Server

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

pytestmark = pytest.mark.s3

STARTED = b"2024-05-01T10:00:00Z"
STALE, NAMED, UNFINISHED, MANIFESTS = 60, 20, 5, 40


@pytest.fixture(scope="module")
def filled(ceph: S3Server) -> Iterator[str]:
    """A bucket with stale uploads, most of a registry's, and manifests."""
    with ceph.bucket() as bucket:
        files: dict[str, bytes] = {}
        for number in range(STALE):
            files[paths.upload_startedat(APP, f"u{number}")] = STARTED
        for number in range(NAMED):
            files[paths.upload_record(APP, f"u{number}")] = b'{"name": "n%d"}' % number
        for number in range(MANIFESTS):
            payload = image(Digest.of(b"config"), Digest.of(b"%d" % number))
            revision = Digest.of(payload)
            files[paths.blob_data(revision)] = payload
            files[paths.link(paths.revisions(APP), revision)] = str(revision).encode()
        client = ceph.client()
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda path: put(client, bucket, path, files[path]), files))
        for number in range(STALE - UNFINISHED, STALE):
            begin(client, bucket, paths.upload_data(APP, f"u{number}"), b"part")
        client.close()
        yield bucket


def put(client: "S3Client", bucket: str, path: str, content: bytes) -> None:
    client.put_object(Bucket=bucket, Key=path[1:], Body=content)


def begin(client: "S3Client", bucket: str, path: str, part: bytes) -> None:
    """Leave a file unfinished."""
    upload = client.create_multipart_upload(Bucket=bucket, Key=path[1:])
    client.upload_part(
        Bucket=bucket, Key=path[1:], UploadId=upload["UploadId"], PartNumber=1, Body=part
    )


@pytest.fixture
def registry(
    ceph: S3Server, proxy: S3Proxy, filled: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Registry]:
    for name, value in ceph.environment().items():
        monkeypatch.setenv(name, value)
    url = ceph.storage_url(filled).replace(ceph.endpoint, proxy.url)
    with open_registry(url) as registry:
        yield registry


@pytest.fixture
def repository(registry: Registry) -> Repository:
    return registry.repository(APP)


def listings(counted: "Counter[Kind]") -> int:
    return counted[Kind.LIST] + counted[Kind.LIST_UPLOADS]


def test_names_of_uploads_take_a_request_for_each_record(
    proxy: S3Proxy, repository: Repository
) -> None:
    """[S13.18] One request more is made for each upload that blobfs has begun and whose record is
    new or has changed.
    """
    uploads = Uploads().at(f"/{APP}/_uploads", repository.uploads)
    with proxy.counting() as counted:
        assert len(uploads.names()) == STALE
    assert set(counted) == {Kind.LIST, Kind.GET}
    assert counted[Kind.GET] == NAMED
    assert listings(counted) <= 3
    with proxy.counting() as counted:
        assert {"n0", f"u{NAMED}"} < set(uploads.names())
    assert counted[Kind.GET] == 0, counted


def test_record_is_read_again_only_if_it_has_changed(
    ceph: S3Server, proxy: S3Proxy, filled: str, registry: Registry
) -> None:
    """[S13.18] One request more is made for each upload that blobfs has begun and whose record is
    new or has changed.
    """
    assert len(upload_states(registry, Uploads())) == STALE
    with proxy.counting() as counted:
        assert len(upload_states(registry, Uploads())) == STALE
    assert counted[Kind.GET] == UNFINISHED, "the tails"
    client = ceph.client()
    put(client, filled, paths.upload_record(APP, "u0"), b'{"name": "renamed"}')
    client.close()
    found: set[str] = set()
    while "renamed" not in found:  # once the listing has ended
        with proxy.counting() as counted:
            found = {state["name"] for state in upload_states(registry, Uploads())}
    assert counted[Kind.GET] == 1 + UNFINISHED, "the record, and the tails"


def test_sizes_of_uploads_take_two_requests_for_each_that_has_parts(
    proxy: S3Proxy, repository: Repository
) -> None:
    """[S13.18] Two for the size of each that has parts, 32 side by side."""
    uploads = Uploads().at(f"/{APP}/_uploads", repository.uploads)
    names = [name for name in uploads.names() if name.startswith("u")]
    with proxy.counting() as counted:
        sizes = {name: uploads.get(name).info().size for name in names}
    assert [name for name in names if sizes[name] == 4] == [
        name for name in names if int(name[1:]) >= STALE - UNFINISHED
    ]
    assert counted[Kind.LIST_PARTS] == counted[Kind.GET] == UNFINISHED, "its parts, and its tail"
    assert listings(counted) == sum(counted.values()) - 2 * UNFINISHED <= 6, counted


def test_report_of_uploads_takes_few_requests(proxy: S3Proxy, registry: Registry) -> None:
    """[S13.18] Uploads are listed a thousand files a request."""
    with proxy.counting() as counted:
        found = [*of_repository(registry.repository(APP)), *lost(registry)]
    assert len(found) == STALE
    assert counted[Kind.GET] == NAMED + UNFINISHED
    assert counted[Kind.LIST_PARTS] == UNFINISHED
    assert counted[Kind.HEAD] == 0
    assert listings(counted) <= 10, counted


def test_media_types_take_two_requests_for_each_manifest(
    proxy: S3Proxy, repository: Repository
) -> None:
    """[S13.19] Manifests are read 32 side by side."""
    describe = repository.media_types.describe
    with proxy.counting() as counted:
        assert describe(Digest.of(b"unknown")) is None
    assert counted[Kind.GET] == counted[Kind.HEAD] == MANIFESTS
    assert listings(counted) <= 3
    with proxy.counting() as counted:
        assert all(describe(Digest.of(b"%d" % number)) for number in range(MANIFESTS))
        assert describe(Digest.of(b"unknown")) is None
    assert listings(counted) == sum(counted.values()) <= 2, counted

"""The S3 servers do what the tests that stand on them take for granted."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.support import images
from tests.support.s3_servers import S3Registry, S3Server, serving_ceph, serving_registry
from tests.support.services import ServiceFailed, inspect, push, run

pytestmark = pytest.mark.s3

_MIN_PART_SIZE = 5 * 2**20


@pytest.fixture(params=["ceph", "moto"])
def server(request: pytest.FixtureRequest) -> S3Server:
    server: S3Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def bucket(server: S3Server) -> Iterator[str]:
    with server.bucket() as name:
        yield name


def test_object_comes_back_whole_and_in_ranges(server: S3Server, bucket: str) -> None:
    with closing(server.client()) as client:
        client.put_object(Bucket=bucket, Key="a/b", Body=b"0123456789")
        whole = client.get_object(Bucket=bucket, Key="a/b")
        part = client.get_object(Bucket=bucket, Key="a/b", Range="bytes=8-99")
        assert whole["Body"].read() == b"0123456789"
        assert part["Body"].read() == b"89"
        assert whole["ETag"] == part["ETag"]


def test_multipart_upload_becomes_one_object(server: S3Server, bucket: str) -> None:
    parts = (os.urandom(_MIN_PART_SIZE), b"the end")
    with closing(server.client()) as client:
        upload = client.create_multipart_upload(Bucket=bucket, Key="large")["UploadId"]
        etags = [
            client.upload_part(
                Bucket=bucket, Key="large", UploadId=upload, PartNumber=number, Body=part
            )["ETag"]
            for number, part in enumerate(parts, start=1)
        ]
        client.complete_multipart_upload(
            Bucket=bucket,
            Key="large",
            UploadId=upload,
            MultipartUpload={
                "Parts": [
                    {"ETag": etag, "PartNumber": number} for number, etag in enumerate(etags, 1)
                ]
            },
        )
        assert client.get_object(Bucket=bucket, Key="large")["Body"].read() == b"".join(parts)


def test_bucket_is_removed_with_objects_and_unfinished_uploads(server: S3Server) -> None:
    name = server.new_bucket()
    with closing(server.client()) as client:
        for number in range(3):
            client.put_object(Bucket=name, Key=f"a/{number}")
            client.create_multipart_upload(Bucket=name, Key=f"b/{number}")
        server.remove_bucket(name)
        assert name not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}


def test_other_user_is_refused(ceph: S3Server) -> None:
    assert ceph.other is not None
    with (
        ceph.bucket() as bucket,
        closing(ceph.client()) as client,
        closing(ceph.other.client()) as other,
    ):
        client.put_object(Bucket=bucket, Key="a", Body=b"a")
        with pytest.raises(ClientError, match="AccessDenied"):
            other.get_object(Bucket=bucket, Key="a")
        with pytest.raises(ClientError, match="AccessDenied"):
            other.put_object(Bucket=bucket, Key="b", Body=b"b")
        with pytest.raises(ClientError, match="AccessDenied"):
            other.list_objects_v2(Bucket=bucket)


def test_wrong_keys_are_refused(ceph: S3Server) -> None:
    stranger = S3Server(ceph.endpoint, ceph.access_key, "wrong")
    with closing(stranger.client()) as client, pytest.raises(ClientError, match="SignatureDoesNot"):
        client.list_buckets()


def test_stopped_ceph_leaves_no_process_and_no_directory(ceph: S3Server, tmp_path: Path) -> None:
    directory = tmp_path / "server"
    with serving_ceph(directory) as second:
        assert second.endpoint != ceph.endpoint
        assert len(_processes_of(directory)) == 3
    assert _processes_of(directory) == []
    assert not directory.exists()
    with closing(ceph.client()) as client:
        client.list_buckets()


def test_ceph_that_can_not_start_says_why_and_cleans_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    broken = tmp_path / "bin/radosgw"
    broken.write_text("#!/bin/sh\necho out of order >&2\nexit 3\n")
    broken.chmod(0o755)
    directory = tmp_path / "server"
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    with pytest.raises(ServiceFailed, match=r"(?s)did not start; .*rgw\.log.*out of order"):
        run("scripts/s3-server", "start", directory)
    assert _processes_of(directory) == []
    assert not directory.exists()


def test_ceph_leaves_a_directory_that_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(ServiceFailed, match="is not empty"):
        run("scripts/s3-server", "start", tmp_path)
    with pytest.raises(ServiceFailed, match=r"is not of scripts/s3-server"):
        run("scripts/s3-server", "stop", tmp_path)
    assert (tmp_path / "precious").exists()


@pytest.mark.registry
def test_registry_keeps_a_pushed_image_in_the_bucket(s3_registry: S3Registry) -> None:
    manifest = inspect(s3_registry.registry.address, "library/small", "v1")
    tag = "docker/registry/v2/repositories/library/small/_manifests/tags/v1/current/link"
    with closing(s3_registry.server.client()) as client:
        link = client.get_object(Bucket=s3_registry.bucket, Key=tag)["Body"].read()
    assert link.decode() == manifest.digest


@pytest.mark.registry
def test_image_can_be_pulled_from_the_bucket(s3_registry: S3Registry, tmp_path: Path) -> None:
    image = f"docker://{s3_registry.registry.address}/library/small:v1"
    copy = ("skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false")
    run(*copy, image, f"dir:{tmp_path / 'image'}")
    manifest = inspect(s3_registry.registry.address, "library/small", "v1")
    assert (tmp_path / "image/manifest.json").read_bytes() == manifest.content
    for digest in manifest.blobs:  # skopeo has verified them
        assert (tmp_path / "image" / digest.removeprefix("sha256:")).exists()


@pytest.mark.registry
def test_registry_serves_what_another_left_below_a_prefix(ceph: S3Server, tmp_path: Path) -> None:
    with ceph.bucket() as bucket:
        with serving_registry(ceph, bucket, tmp_path, prefix="some/where") as first:
            push(images.small(), first.registry.address, "app", "v1")
            pushed = inspect(first.registry.address, "app", "v1")
        with closing(ceph.client()) as client:
            keys = client.list_objects_v2(Bucket=bucket)["Contents"]
        assert all(key["Key"].startswith("some/where/docker/registry/v2/") for key in keys)
        with serving_registry(ceph, bucket, tmp_path, prefix="some/where") as second:
            assert inspect(second.registry.address, "app", "v1") == pushed


def _processes_of(directory: Path) -> list[int]:
    """Those with a configuration in *directory*."""
    name = os.fsencode(directory / "ceph.conf")
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if name in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:  # it ended meanwhile
            pass
    return found

"""A mount whose keys may list and get objects, and nothing else."""

import errno
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.reference import RepositoryName
from tests.support.buckets import Bucket
from tests.support.mounts import failing_with, run
from tests.support.s3_prefixes import keys_of

pytestmark = [pytest.mark.fuse, pytest.mark.s3]

APP = RepositoryName("app")
CONTENT = b"content"
DIGEST = Digest.of(CONTENT)


@contextmanager
def _readable(bucket: Bucket) -> Iterator[None]:
    """Allow others to list the bucket and to get its objects; use the keys of such a one."""
    arn = f"arn:aws:s3:::{bucket.name}"
    statement = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": ["s3:ListBucket", "s3:GetObject"],
        "Resource": [arn, f"{arn}/*"],
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    bucket.client.put_bucket_policy(Bucket=bucket.name, Policy=policy)
    assert bucket.server.other is not None
    try:
        with keys_of(bucket.server.other):
            yield
    finally:
        bucket.client.delete_bucket_policy(Bucket=bucket.name)


def test_keys_that_list_and_get_mount_read_only(bucket: Bucket, tmp_path: Path) -> None:
    """[S6.9] A bucket is mounted in the same way if the keys may neither abort nor put a part.
    [S13.15] Reading takes the rights to list the bucket and to get objects. An upload that somebody
    else has begun shows and stops nothing.
    """
    upload = str(uuid.uuid4())
    bucket.put(paths.blob_data(DIGEST), CONTENT)
    bucket.put(paths.link(paths.layers(APP), DIGEST), str(DIGEST).encode())
    bucket.put(f"{paths.upload(APP, upload)}/startedat", b"2024-05-01T10:00:00Z")
    keys = bucket.keys()
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    with _readable(bucket):
        done = run("mount", bucket.url, mountpoint, "--log-file", tmp_path / "log")
        try:
            assert done.returncode == 0, done.stderr
            assert done.stderr.count("\n") == 1
            assert "AccessDenied" in done.stderr
            assert done.stderr.endswith(": the mount is read-only\n")
            assert json.loads((mountpoint / ".blobfs/config.json").read_text())["read_only"] is True
            assert (mountpoint / f"app/_layers/sha256/{DIGEST.encoded}").read_bytes() == CONTENT
            assert (mountpoint / f"app/_uploads/{upload}").stat().st_size == 0
            with failing_with(errno.EROFS):
                (mountpoint / "app/_uploads/new").write_bytes(b"new")
        finally:
            run("umount", mountpoint)
    assert bucket.keys() == keys
    assert bucket.multipart_uploads() == []

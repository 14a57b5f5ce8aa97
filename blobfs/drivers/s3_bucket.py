"""What every request to a bucket needs, and the simplest of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from blobfs.drivers.s3_client import s3_errors
from blobfs.drivers.s3_options import S3Options

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client


class Bucket(NamedTuple):
    """A bucket's client and options; *pool* runs requests side by side."""

    client: S3Client
    options: S3Options
    pool: ThreadPoolExecutor

    @property
    def name(self) -> str:
        """What the bucket is called."""
        return self.options.bucket


def nanoseconds(described: Any) -> int:  # noqa: ANN401  (boto3's answers)
    """When it was stored, since the epoch; S3 has seconds, and some servers more."""
    return int(described["LastModified"].timestamp()) * 10**9


def put_object(bucket: Bucket, path: str, content: bytes) -> None:
    """Make or replace an object, at once for readers."""
    put: Any = bucket.client.put_object
    with s3_errors(path):
        put(
            Bucket=bucket.name,
            Key=bucket.options.key(path),
            Body=content,
            ContentType="application/octet-stream",
            **bucket.options.for_writes,
            **bucket.options.for_reads,
        )


def remove_object(bucket: Bucket, path: str) -> None:
    """Remove an object; a missing one is no error."""
    remove: Any = bucket.client.delete_object
    with s3_errors(path):
        remove(Bucket=bucket.name, Key=bucket.options.key(path), **bucket.options.for_reads)

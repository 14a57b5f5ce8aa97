"""What every request to a bucket needs, and the simplest of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from botocore.exceptions import ClientError

from blobfs.drivers.s3.answers import UNCONFIRMED
from blobfs.drivers.s3.client import code_of, s3_errors
from blobfs.drivers.s3.options import S3Options
from blobfs.errors import PathNotFound, StorageUnavailable

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


class ObjectInfo(NamedTuple):
    """An object's attributes: *size* is in bytes."""

    size: int
    mtime_ns: int
    etag: str


def head_object(bucket: Bucket, path: str) -> ObjectInfo:
    """The attributes of an object; raises PathNotFound."""
    client: Any = bucket.client
    options = bucket.options
    wanted = {"Bucket": bucket.name, "Key": options.key(path), **options.for_reads}
    with s3_errors(path):
        try:
            found = client.head_object(**wanted)
            size = found["ContentLength"]
        except ClientError as exc:
            if code_of(exc) != UNCONFIRMED:
                raise
            found = client.get_object(**wanted, Range="bytes=0-0")
            found["Body"].close()
            size = int(found.get("ContentRange", "").rpartition("/")[2] or found["ContentLength"])
    return ObjectInfo(size, nanoseconds(found), found["ETag"])


def check_size(bucket: Bucket, path: str, size: int) -> None:
    """Raise StorageUnavailable unless the object is there with *size* bytes."""
    try:
        found = head_object(bucket, path).size
    except PathNotFound:
        raise StorageUnavailable(f"{path} is missing, although its storing succeeded") from None
    if found != size:
        raise StorageUnavailable(f"{path} has {found} bytes, not the {size} that were stored")


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

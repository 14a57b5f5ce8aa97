"""The client of a bucket, its simplest requests, and the translation of its errors."""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import md5
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypedDict

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError

from blobfs import metrics
from blobfs.concurrency import ThreadPool
from blobfs.drivers.s3.answers import NOT_S3, UNCONFIRMED, check_answers
from blobfs.drivers.s3.options import S3Options
from blobfs.drivers.s3.small_gets import ANSWER_S, CONNECT_S, SmallGets
from blobfs.errors import (
    AccessDenied,
    BlobfsError,
    FileChanged,
    MountRefused,
    PathNotFound,
    StorageFull,
    StorageTimeout,
    StorageUnavailable,
)

if TYPE_CHECKING:
    from botocore.session import Session
    from types_boto3_s3.client import S3Client


class CopySource(TypedDict):
    """An object that S3 copies."""

    Bucket: str
    Key: str


class Bucket(NamedTuple):
    """A bucket's clients and options. *pool* runs requests in parallel. Thread-safe."""

    client: S3Client
    small_gets: SmallGets
    options: S3Options
    pool: ThreadPool

    @property
    def name(self) -> str:
        """The name of the bucket."""
        return self.options.bucket

    def source(self, path: str) -> CopySource:
        """The object at *path*, as a request to copy it names it."""
        return {"Bucket": self.name, "Key": self.options.key(path)}

    def is_beside(self, other: Bucket) -> bool:
        """True if both buckets are of one server, and of clients with the same credentials."""
        mine, theirs = self.client.meta.endpoint_url, other.client.meta.endpoint_url
        return mine == theirs and self.small_gets.keys() == other.small_gets.keys()


def session_for(options: S3Options) -> Session:
    """The credentials, without those of *options* found by botocore; and its configuration."""
    session = botocore.session.get_session()
    if options.profile is not None:
        session.set_config_variable("profile", options.profile)
    if options.credentials is not None:
        session.set_credentials(*options.credentials)
    return session


def client_for(options: S3Options, session: Session) -> S3Client:
    """A thread-safe client, which refreshes credentials by itself. Raises MountRefused."""
    # boto3 logs the source of credentials at INFO, and requests with their headers at DEBUG.
    for name in ("boto3", "botocore", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It warns of each connection that it does not keep: many, after a server did not answer.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    config = Config(
        connect_timeout=CONNECT_S,
        read_timeout=ANSWER_S,
        # "standard" gives up after half a second; after some failures it does not retry at all.
        retries={"mode": "legacy", "total_max_attempts": options.attempts},
        max_pool_connections=options.streams + options.copy_streams,
        tcp_keepalive=True,
        # Without it, presigned URLs have the old signature, which newer buckets refuse.
        signature_version="s3v4",
        # Many servers other than Amazon's do not support the newer checksums.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        use_dualstack_endpoint=options.dual_stack,
        use_fips_endpoint=options.fips,
        user_agent_extra=options.user_agent,
        s3={
            "addressing_style": options.addressing_style,
            "use_accelerate_endpoint": options.accelerate,
        },
    )
    try:
        region = options.region or session.get_config_variable("region") or "us-east-1"
        client = boto3.Session(botocore_session=session).client(
            "s3",
            region_name=region,
            endpoint_url=options.endpoint,
            use_ssl=options.use_tls,
            verify=(options.ca_bundle or None) if options.verify_tls else False,
            config=config,
        )
    except (BotoCoreError, ValueError) as exc:
        raise MountRefused(f"s3://{options.bucket}: {exc}") from None
    client.meta.events.register("response-received.s3", _count)
    client.meta.events.register("before-call.s3.DeleteObjects", _add_content_md5)
    check_answers(client)
    if options.verify_tls and client.meta.endpoint_url.startswith("https:"):
        # TLS protects the payload; a signature of it would cost a SHA-256 here and on the server.
        signing: Any = client.meta.config
        signing.s3["payload_signing_enabled"] = False
    return client


def _count(
    event_name: str, response_dict: Mapping[str, Any] | None, exception: object, **_: object
) -> None:
    """Count each attempt of a request."""
    status = response_dict["status_code"] if response_dict else type(exception).__name__
    metrics.S3_REQUESTS.labels(event_name.rpartition(".")[2], status).inc()


def _add_content_md5(params: dict[str, Any], **_: object) -> None:
    """Replace the checksum by Content-MD5: every server takes it, OpenStack Swift no other."""
    headers = params["headers"]
    for name in [name for name in headers if name.lower() in _OTHER_CHECKSUMS]:
        del headers[name]
    params["context"].pop("checksum", None)
    digest = md5(params["body"], usedforsecurity=False).digest()
    headers["Content-MD5"] = b64encode(digest).decode()


_OTHER_CHECKSUMS: Final = {"x-amz-sdk-checksum-algorithm", "x-amz-checksum-crc32"}

_MISSING: Final = {"404", "NoSuchKey", "NotFound", "NoSuchVersion", "NoSuchUpload"}
_REFUSED: Final = {
    "401",
    "403",
    "AccessDenied",
    "AllAccessDisabled",
    "AccountProblem",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "RequestTimeTooSkewed",
    "InvalidObjectState",
    "KMS.DisabledException",
}
_FULL: Final = {
    "QuotaExceeded",
    "EntityTooLarge",
    "InsufficientStorage",
    "XMinioStorageFull",
    "507",
}
_CHANGED: Final = {"412", "PreconditionFailed", "416", "InvalidRange"}


def code_of(exc: ClientError) -> str:
    """The error code that the server sent; the HTTP status if it sent none."""
    return str(exc.response.get("Error", {}).get("Code", ""))


@contextmanager
def s3_errors(path: str) -> Iterator[None]:
    """Translate boto3's errors into those of a driver; *path* names the object in them."""
    try:
        yield
    except ClientError as exc:
        raise _translated(exc, path) from None
    except (NoCredentialsError, PartialCredentialsError) as exc:
        raise AccessDenied(f"{path}: {exc}") from None
    except (ConnectTimeoutError, ReadTimeoutError) as exc:
        raise StorageTimeout(f"{path}: {exc}") from None
    except BotoCoreError as exc:
        raise StorageUnavailable(f"{path}: {exc}") from None
    except (ResponseParserError, ValueError):  # its text may quote a whole page
        raise StorageUnavailable(f"{path}: the answer is not that of an S3 server") from None


def _translated(exc: ClientError, path: str) -> BlobfsError:
    code = code_of(exc)
    status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    message = exc.response.get("Error", {}).get("Message") or ""
    error = "" if code == NOT_S3 else f"{exc.operation_name}: {code} "
    text = f"{path}: {error}{message}".strip()
    if code == "NoSuchBucket":
        return StorageUnavailable(f"{text}: the bucket is missing")
    if code in _MISSING:
        return PathNotFound(path)
    if code in _CHANGED:
        return FileChanged(f"{path} was changed: {code}")
    if code in _FULL or status == HTTPStatus.INSUFFICIENT_STORAGE:
        return StorageFull(text)
    if code in _REFUSED or status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return AccessDenied(text)
    return StorageUnavailable(text)


def nanoseconds(described: Any) -> int:  # noqa: ANN401  (boto3's answers)
    """Nanoseconds since the epoch of LastModified, in whole seconds as S3 has it."""
    return int(described["LastModified"].timestamp()) * 10**9


class ObjectInfo(NamedTuple):
    """An object's attributes: *size* is in bytes."""

    size: int
    mtime_ns: int
    etag: str


def head_object(bucket: Bucket, path: str) -> ObjectInfo:
    """Request the attributes of an object; raises PathNotFound."""
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
    """Raise StorageUnavailable unless the object exists and has *size* bytes."""
    try:
        found = head_object(bucket, path).size
    except PathNotFound:
        raise StorageUnavailable(f"{path} is missing although S3 reported success") from None
    if found != size:
        raise StorageUnavailable(f"{path} has {found} bytes, but {size} were stored")


def put_object(bucket: Bucket, path: str, content: bytes) -> None:
    """Create or replace an object atomically."""
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

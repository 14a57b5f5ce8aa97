"""Multipart uploads of S3: create, list, complete, abort."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from hashlib import md5, sha256
from itertools import pairwise
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

from blobfs.concurrency import result_unless_stopped
from blobfs.drivers.resumable import Unfinished
from blobfs.drivers.s3.client import (
    Bucket,
    CopySource,
    check_size,
    head_object,
    nanoseconds,
    s3_errors,
)
from blobfs.drivers.s3.options import MIN_PART
from blobfs.errors import BlobfsError, PathNotFound, StorageUnavailable


class UploadedPart(NamedTuple):
    """A part that the server has stored. *size* is in bytes; *mtime_ns* is 0 if unknown."""

    number: int
    etag: str
    size: int
    mtime_ns: int = 0


class MultipartUpload:
    """A multipart upload of the object at *path*. Thread-safe: it is immutable."""

    def __init__(self, bucket: Bucket, path: str, upload_id: str) -> None:
        self.id = upload_id
        self.path = path
        self._bucket = bucket
        self._key = bucket.options.key(path)

    @classmethod
    def begin(cls, bucket: Bucket, path: str) -> MultipartUpload:
        """Create an upload without parts."""
        client: Any = bucket.client
        with s3_errors(path):
            answer = client.create_multipart_upload(
                Bucket=bucket.name,
                Key=bucket.options.key(path),
                ContentType="application/octet-stream",
                **bucket.options.for_writes,
                **bucket.options.for_reads,
            )
        return cls(bucket, path, answer["UploadId"])

    @classmethod
    def newest(cls, bucket: Bucket, path: str) -> MultipartUpload | None:
        """The upload to *path* that was created last; None if there is none."""
        found = [(u.began, u.token) for u in unfinished(bucket, path) if u.path == path]
        return cls(bucket, path, max(found)[1]) if found else None

    @property
    def tail(self) -> str:
        """The path of the object in which a writer stores the bytes that do not fill a part."""
        # No path below *path*: distribution would take *path* for a directory.
        parent, _, _ = self.path.rpartition("/")
        return f"{parent}/tail.{sha256(f'{self.path} {self.id}'.encode()).hexdigest()[:16]}.tmp"

    def put(self, number: int, content: bytes | bytearray) -> UploadedPart:
        """Upload a part; it replaces one with the same number."""
        with s3_errors(self.path):
            answer = self._call("upload_part", PartNumber=number, Body=content)
        return UploadedPart(number, answer["ETag"], len(content))

    def copy(self, number: int, source: CopySource, first: int, size: int) -> UploadedPart:
        """Copy *size* bytes from the offset *first* of the object *source* into a part."""
        with s3_errors(source["Key"]):
            answer = self._call(
                "upload_part_copy",
                PartNumber=number,
                CopySource=source,
                CopySourceRange=f"bytes={first}-{first + size - 1}",
            )
        return UploadedPart(number, answer["CopyPartResult"]["ETag"], size)

    def copy_all(self, source: CopySource, size: int) -> list[UploadedPart]:
        """Copy the whole object *source* into parts, in parallel.

        After a failure, or a stop by ``stop_check``, the upload is aborted.
        """
        options = self._bucket.options
        count = max(1, min(size // MIN_PART, -(-size // options.copy_chunk_size)))
        bounds = [size * number // count for number in range(count + 1)]
        copies = [
            self._bucket.pool.submit(partial(self.copy, number + 1, source, first, end - first))
            for number, (first, end) in enumerate(pairwise(bounds))
        ]
        try:
            return [result_unless_stopped(copied) for copied in copies]
        except BaseException:
            for copied in copies:
                if not copied.cancel() and not copied.done():
                    copied.add_done_callback(self._abort_again)
            self.abort()
            raise

    def _abort_again(self, _: Future[UploadedPart]) -> None:
        """Abort after a copy that was under way: S3 may have stored its part after an abort."""
        with suppress(BlobfsError):  # nobody waits for it
            self.abort()

    def parts(self) -> list[UploadedPart]:
        """List the stored parts by number; raises PathNotFound if the upload has ended."""
        paginator = self._bucket.client.get_paginator("list_parts")
        with s3_errors(self.path):
            return [
                UploadedPart(part["PartNumber"], part["ETag"], part["Size"], nanoseconds(part))
                for page in paginator.paginate(
                    Bucket=self._bucket.name, Key=self._key, UploadId=self.id
                )
                for part in page.get("Parts", [])
            ]

    def complete(self, parts: Sequence[UploadedPart]) -> None:
        """Create the object from *parts*, atomically, and check its size.

        Raises PathNotFound if the upload has ended.
        """
        listed = [{"PartNumber": part.number, "ETag": part.etag} for part in parts]
        try:
            with s3_errors(self.path):
                self._call("complete_multipart_upload", MultipartUpload={"Parts": listed})
        except PathNotFound:
            # An earlier attempt may have succeeded without an answer: then the ETag is theirs.
            if head_object(self._bucket, self.path).etag.strip('"') != _etag_of(parts):
                raise
        check_size(self._bucket, self.path, sum(part.size for part in parts))

    def abort(self) -> None:
        """Remove the upload and its parts; an ended upload is no error."""
        try:
            with s3_errors(self.path):
                self._call("abort_multipart_upload")
        except PathNotFound:
            pass

    def _call(self, method: str, **arguments: object) -> Any:  # noqa: ANN401  (boto3's answers)
        call: Any = getattr(self._bucket.client, method)
        reading = self._bucket.options.for_reads
        return call(
            Bucket=self._bucket.name, Key=self._key, UploadId=self.id, **arguments, **reading
        )


def copy_object(bucket: Bucket, source: CopySource, target: str, size: int) -> None:
    """Copy an object of *size* bytes, which may be in another bucket, and check the new size."""
    if size > bucket.options.copy_threshold:
        upload = MultipartUpload.begin(bucket, target)
        parts = upload.copy_all(source, size)
        try:
            upload.complete(parts)
        except BaseException:
            upload.abort()
            raise
        return
    call: Any = bucket.client.copy_object
    with s3_errors(source["Key"]):
        call(
            Bucket=bucket.name,
            Key=bucket.options.key(target),
            CopySource=source,
            **bucket.options.for_writes,
            **bucket.options.for_reads,
        )
    check_size(bucket, target, size)


def _etag_of(parts: Sequence[UploadedPart]) -> str | None:
    """The ETag that Amazon S3 gives an object of these parts; None if a part's is no MD5."""
    try:
        digests = b"".join(bytes.fromhex(part.etag.strip('"')) for part in parts)
    except ValueError:
        return None
    return f"{md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"


def unfinished(bucket: Bucket, path: str) -> Iterator[Unfinished]:
    """List the multipart uploads to paths that begin with *path*, in no order."""
    call: Any = bucket.client.list_multipart_uploads
    # Without an encoding, a key with a control character makes the answer invalid XML.
    wanted = {"Prefix": bucket.options.key(path), "EncodingType": "url"}
    while True:
        with s3_errors(path):
            page = call(Bucket=bucket.name, **wanted, **bucket.options.for_reads)
        uploads = page.get("Uploads", [])
        for upload in uploads:
            # Some servers do not encode the markers of their answer, so they are made from the key.
            wanted["KeyMarker"] = unquote_plus(upload["Key"])
            wanted["UploadIdMarker"] = upload["UploadId"]
            found = bucket.options.path(wanted["KeyMarker"])
            yield Unfinished(found, upload["UploadId"], upload["Initiated"].timestamp())
        if not page.get("IsTruncated"):
            return
        if not uploads:
            raise StorageUnavailable(f"{path}: the list of uploads is truncated, but names none")

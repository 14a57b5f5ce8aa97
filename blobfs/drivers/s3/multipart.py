"""Multipart uploads, as S3 has them: begun, listed, completed, abandoned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import md5, sha256
from itertools import pairwise
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

from blobfs.drivers.base import Unfinished
from blobfs.drivers.s3.client import Bucket, check_size, head_object, nanoseconds, s3_errors
from blobfs.drivers.s3.options import MIN_PART
from blobfs.errors import PathNotFound, StorageUnavailable


class UploadedPart(NamedTuple):
    """A part that the server has; *size* is in bytes, *mtime_ns* 0 where it is not known."""

    number: int
    etag: str
    size: int
    mtime_ns: int = 0


class MultipartUpload:
    """One multipart upload to *key*; *path* is what errors call it. Thread-safe."""

    def __init__(self, bucket: Bucket, path: str, upload_id: str) -> None:
        self.id = upload_id
        self.path = path
        self._bucket = bucket
        self._key = bucket.options.key(path)

    @classmethod
    def begin(cls, bucket: Bucket, path: str) -> MultipartUpload:
        """A new one, without parts."""
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
        """The one to that path which was begun last."""
        found = [(u.began, u.token) for u in unfinished(bucket, path) if u.path == path]
        return cls(bucket, path, max(found)[1]) if found else None

    @property
    def tail(self) -> str:
        """The path where a writer keeps what does not fill a part."""
        # Not the path with something behind: distribution takes that for a directory.
        parent, _, _ = self.path.rpartition("/")
        return f"{parent}/tail.{sha256(f'{self.path} {self.id}'.encode()).hexdigest()[:16]}.tmp"

    def put(self, number: int, content: bytes | bytearray) -> UploadedPart:
        """Upload a part, in place of one that has that number."""
        with s3_errors(self.path):
            answer = self._call("upload_part", PartNumber=number, Body=content)
        return UploadedPart(number, answer["ETag"], len(content))

    def copy(self, number: int, source: str, first: int, size: int) -> UploadedPart:
        """Make a part of *size* bytes from *first* on of the object at the path *source*."""
        bucket = self._bucket
        with s3_errors(source):
            answer = self._call(
                "upload_part_copy",
                PartNumber=number,
                CopySource={"Bucket": bucket.name, "Key": bucket.options.key(source)},
                CopySourceRange=f"bytes={first}-{first + size - 1}",
            )
        return UploadedPart(number, answer["CopyPartResult"]["ETag"], size)

    def copy_all(self, source: str, size: int) -> list[UploadedPart]:
        """Make parts of the whole object at *source*, side by side."""
        options = self._bucket.options
        count = max(1, min(size // MIN_PART, -(-size // options.copy_chunk_size)))
        bounds = [size * number // count for number in range(count + 1)]
        copies = [
            self._bucket.pool.submit(self.copy, number + 1, source, first, end - first)
            for number, (first, end) in enumerate(pairwise(bounds))
        ]
        return [copied.result() for copied in copies]

    def parts(self) -> list[UploadedPart]:
        """The parts that the server has, by number; raises PathNotFound once it has ended."""
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
        """Make the object of *parts*, at once for readers; raises PathNotFound if it has ended.

        It has succeeded once the object is there with the size of all parts.
        """
        listed = [{"PartNumber": part.number, "ETag": part.etag} for part in parts]
        try:
            with s3_errors(self.path):
                self._call("complete_multipart_upload", MultipartUpload={"Parts": listed})
        except PathNotFound:
            # Completed by an attempt whose answer was lost: the object then has their ETag.
            if head_object(self._bucket, self.path).etag.strip('"') != _etag_of(parts):
                raise
        check_size(self._bucket, self.path, sum(part.size for part in parts))

    def abort(self) -> None:
        """Remove its parts; one that has ended is no error."""
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


def _etag_of(parts: Sequence[UploadedPart]) -> str | None:
    """What a server that follows Amazon gives an object of these parts."""
    try:
        digests = b"".join(bytes.fromhex(part.etag.strip('"')) for part in parts)
    except ValueError:
        return None
    return f"{md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"


def unfinished(bucket: Bucket, path: str) -> Iterator[Unfinished]:
    """The multipart uploads to paths that begin with *path*, in no order."""
    call: Any = bucket.client.list_multipart_uploads
    # Without an encoding, somebody's key with a control character makes the answer no XML.
    wanted = {"Prefix": bucket.options.key(path), "EncodingType": "url"}
    while True:
        with s3_errors(path):
            page = call(Bucket=bucket.name, **wanted, **bucket.options.for_reads)
        uploads = page.get("Uploads", [])
        for upload in uploads:
            # Not every server heeds the encoding of the markers.
            wanted["KeyMarker"] = unquote_plus(upload["Key"])
            wanted["UploadIdMarker"] = upload["UploadId"]
            found = bucket.options.path(wanted["KeyMarker"])
            yield Unfinished(found, upload["UploadId"], upload["Initiated"].timestamp())
        if not page.get("IsTruncated"):
            return
        if not uploads:
            raise StorageUnavailable(f"{path}: the list of uploads goes on, but names none")

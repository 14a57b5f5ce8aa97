"""Reading objects by ranged requests, which retry truncated answers and detect changes."""

from __future__ import annotations

import random
import re
import sys
import time
from collections.abc import Callable, Mapping
from hashlib import md5
from typing import Any, Final

from botocore.exceptions import HTTPClientError, IncompleteReadError

from blobfs.concurrency import guard
from blobfs.drivers.base import FileReader
from blobfs.drivers.s3.client import Bucket, s3_errors
from blobfs.drivers.s3.small_gets import ObjectRange
from blobfs.errors import FileChanged, PathNotFound, StorageUnavailable

_ATTEMPTS: Final = 5
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_SMALL: Final = 2**20  # bytes whose MD5 takes little time
_BACKOFF_S: Final = 0.1  # doubles with each attempt; each wait is a random part of it


class S3Reader(FileReader):
    """Reads an object of *size* bytes; each ``read_at`` is one request.

    ``read_at`` raises FileChanged if the ETag differs from that of the first read, or the size from
    *size*, and PathNotFound if the object is gone; before that it calls *changed* with the path.
    Thread-safe: the lock guards the ETag, as the first reads may run in parallel.
    """

    def __init__(
        self, bucket: Bucket, path: str, size: int, etag: str, changed: Callable[[str], None]
    ) -> None:
        self._bucket = bucket
        self._path = path
        self._size = size
        self._etag = etag
        self._changed = changed
        self._lock = guard()

    @property
    def size(self) -> int:
        return self._size

    def read_at(self, offset: int, size: int) -> bytes:
        size = min(size, self._size - offset)
        if size <= 0:
            return b""
        try:
            return self._read_at(offset, size)
        except (FileChanged, PathNotFound):
            self._changed(self._path)
            raise

    def _read_at(self, offset: int, size: int) -> bytes:
        part = get_part(self._bucket, self._path, offset, size, self._etag)
        if part.size != self._size:
            raise FileChanged(f"{self._path} has {part.size} bytes now, not {self._size}")
        with self._lock:
            self._etag = self._etag or part.etag
        if part.etag != self._etag:
            raise FileChanged(f"{self._path} was replaced while it was read")
        return part.content

    def close(self) -> None:
        """Do nothing: a reader holds no resource."""


def get_part(bucket: Bucket, path: str, offset: int, size: int, etag: str = "") -> ObjectRange:
    """Read up to *size* bytes from *offset*; with *etag*, only from the object that has it.

    Raises PathNotFound, and FileChanged for another ETag or an *offset* at or past the end.
    """
    part = _get(bucket, path, (offset, size), etag)
    if etag not in ("", part.etag):
        raise FileChanged(f"{path} was replaced while it was read")
    if not part.content:
        raise FileChanged(f"{path} has {part.size} bytes, and none at {offset}")
    return part


def get_whole(bucket: Bucket, path: str) -> ObjectRange:
    """Read a small object as a whole; raises PathNotFound."""
    return _get(bucket, path, None, "")


def _get(bucket: Bucket, path: str, wanted: tuple[int, int] | None, etag: str) -> ObjectRange:
    """Request until a complete answer for the range *wanted* (offset and size) arrives.

    A small whole object is compared with its ETag if that has the form of an MD5. After a mismatch
    it is requested again: the same bytes twice mean that the server's ETag is no MD5.
    """
    key = bucket.options.key(path)
    mismatched = None
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(random.uniform(0, _BACKOFF_S * 2 ** (attempt - 1)))
        with s3_errors(path):
            part = bucket.small_gets.get(key, *wanted, etag) if wanted else None
            part = part or _get_once(bucket, key, wanted, etag)
        if part is not None:
            is_small = wanted is None or wanted[1] <= _SMALL
            if not is_small or part.content == mismatched or not _differs_from_etag(part):
                return part
            mismatched = part.content
    raise StorageUnavailable(
        f"{path}: {_ATTEMPTS} answers were damaged, or for another range than was requested"
    )


def _get_once(
    bucket: Bucket, key: str, wanted: tuple[int, int] | None, etag: str
) -> ObjectRange | None:
    """Request an object or a range with boto3; None for an answer that is not complete."""
    call: Any = bucket.client.get_object
    headers = {"IfMatch": etag} if etag else {}
    if wanted is not None:
        headers["Range"] = f"bytes={wanted[0]}-{sum(wanted) - 1}"
    answer = call(Bucket=bucket.name, Key=key, **headers, **bucket.options.for_reads)
    return _received(answer, wanted)


def _received(answer: Mapping[str, Any], wanted: tuple[int, int] | None) -> ObjectRange | None:
    """Read the requested bytes of an answer; None if it is truncated or has another range."""
    body, etag = answer["Body"], answer["ETag"]
    try:
        if "ContentRange" in answer:
            return _received_range(body.read(), etag, answer["ContentRange"], wanted)
        # The whole object was requested, or the server ignores ranges.
        offset, size = wanted or (0, sys.maxsize)
        end = min(offset + size, answer.get("ContentLength", sys.maxsize))
        content = _read(body, end)
        if len(content) < end < sys.maxsize:
            return None
        return ObjectRange(content[offset:], answer.get("ContentLength", len(content)), etag)
    except (HTTPClientError, IncompleteReadError, OSError):
        return None
    finally:
        body.close()


def _received_range(
    content: bytes, etag: str, content_range: str, wanted: tuple[int, int] | None
) -> ObjectRange | None:
    found = _CONTENT_RANGE.fullmatch(content_range)
    if found is None or wanted is None:
        return None
    first, last, size = map(int, found.groups())
    offset, end = wanted[0], min(sum(wanted), size)
    if (first, last + 1, len(content)) != (offset, end, end - offset):
        return None
    return ObjectRange(content, size, etag)


def _read(body: Any, size: int) -> bytes:  # noqa: ANN401  (boto3's answers)
    """Read up to *size* bytes of a body."""
    if size == sys.maxsize:
        whole: bytes = body.read()
        return whole
    content = bytearray()
    while len(content) < size and (chunk := body.read(size - len(content))):
        content += chunk
    return bytes(content)


def _differs_from_etag(part: ObjectRange) -> bool:
    etag = part.etag.strip('"')
    return (
        len(part.content) == part.size
        and re.fullmatch("[0-9a-f]{32}", etag) is not None
        and etag != md5(part.content, usedforsecurity=False).hexdigest()
    )

"""Reading objects: ranged requests, made again where an answer broke off, that notice a change."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping
from hashlib import md5
from typing import Any, Final, NamedTuple

from botocore.exceptions import HTTPClientError, IncompleteReadError

from blobfs.drivers.base import FileReader
from blobfs.drivers.s3_bucket import Bucket
from blobfs.drivers.s3_client import s3_errors
from blobfs.errors import FileChanged, StorageUnavailable

_ATTEMPTS: Final = 5
_SMALL: Final = 2**20  # bytes of which the MD5 takes next to no time
_BACKOFF_S: Final = 0.1  # doubles; each wait is a random part of it


class Part(NamedTuple):
    """Some of an object's bytes, and what the whole is: *size* in bytes, and its ETag."""

    content: bytes
    size: int
    etag: str


class S3Reader(FileReader):
    """An object of *size* bytes; each ``read_at`` is one request.

    It raises FileChanged once the object is another than it was when it was first read, or has
    another size than it should, and PathNotFound once it is gone.
    """

    def __init__(self, bucket: Bucket, path: str, size: int, etag: str = "") -> None:
        self._bucket = bucket
        self._path = path
        self._size = size
        self._etag = etag

    @property
    def size(self) -> int:
        return self._size

    def read_at(self, offset: int, size: int) -> bytes:
        size = min(size, self._size - offset)
        if size <= 0:
            return b""
        part = get_part(self._bucket, self._path, offset, size, self._etag)
        if part.size != self._size:
            raise FileChanged(f"{self._path} has {part.size} bytes now, not {self._size}")
        self._etag = part.etag
        return part.content

    def close(self) -> None:
        """Nothing is held."""


def get_part(bucket: Bucket, path: str, offset: int, size: int, etag: str = "") -> Part:
    """Up to *size* bytes from *offset*, of the object that has *etag* if that is given.

    Raises PathNotFound, and FileChanged for another object or an *offset* at its end or behind.
    """
    wanted = {"Range": f"bytes={offset}-{offset + size - 1}"}
    wanted |= {"IfMatch": etag} if etag else {}
    answer, content = _get(bucket, path, wanted, checked=size <= _SMALL)
    content_range = answer.get("ContentRange")
    if content_range is None:  # a server may ignore what was wanted
        return Part(content[offset : offset + size], len(content), answer["ETag"])
    return Part(content, int(content_range.rpartition("/")[2]), answer["ETag"])


def get_whole(bucket: Bucket, path: str) -> Part:
    """All of an object, which is small; raises PathNotFound."""
    answer, content = _get(bucket, path, {}, checked=True)
    return Part(content, len(content), answer["ETag"])


def _get(
    bucket: Bucket, path: str, wanted: Mapping[str, str], *, checked: bool
) -> tuple[Any, bytes]:
    """The server's answer, and the whole body that came with it.

    If *checked*, an object that came whole is held to its ETag, if that looks like the MD5 that it
    mostly is; a server whose ETag is something else sends the same bytes again.
    """
    call: Any = bucket.client.get_object
    doubted = None
    for attempt in range(_ATTEMPTS):
        with s3_errors(path):
            answer = call(
                Bucket=bucket.name,
                Key=bucket.options.key(path),
                **wanted,
                **bucket.options.for_reads,
            )
        try:
            content = answer["Body"].read()
            if not checked or content == doubted or not _is_doubtful(answer, content):
                return answer, content
            doubted = content
        except (HTTPClientError, IncompleteReadError, OSError):  # it broke off
            answer["Body"].close()
        time.sleep(random.uniform(0, _BACKOFF_S * 2**attempt))
    raise StorageUnavailable(f"{path}: the answer came damaged {_ATTEMPTS} times")


def _is_doubtful(answer: Mapping[str, Any], content: bytes) -> bool:
    whole = f"bytes 0-{len(content) - 1}/{len(content)}"
    etag = answer["ETag"].strip('"')
    return (
        answer.get("ContentRange", whole) == whole
        and re.fullmatch("[0-9a-f]{32}", etag) is not None
        and etag != md5(content, usedforsecurity=False).hexdigest()
    )

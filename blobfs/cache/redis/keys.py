"""The keys of a registry's cache in Redis, and the key that blobfs adds.

    blobs::<digest>                        hash    digest, size, mediatype of the blob
    repository::<name>::blobs              set     digests of the repository
    repository::<name>::blobs::<digest>    hash    mediatype in the repository
    blobfs::mtime::<digest>                string  mtime of the blob in nanoseconds; ours

Source of truth: distribution, ``registry/storage/cache/redis/redis.go``.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from blobfs.cache.base import describes
from blobfs.digest import OCTET_STREAM, Descriptor, Digest
from blobfs.errors import DigestInvalid
from blobfs.reference import RepositoryName

FIELDS: Final = ("digest", "size", "mediatype")
MTIME_PREFIX: Final = "blobfs::mtime::"

_SIZE: Final = re.compile(rb"[0-9]{1,18}")  # bytes
_MTIME: Final = re.compile(rb"-?[0-9]{1,19}")


def blob_key(digest: Digest) -> str:
    """The key of a blob's hash."""
    return f"blobs::{digest}"


def members_key(repository: RepositoryName) -> str:
    """The key of the set of a repository's digests."""
    return f"repository::{repository}::blobs"


def linked_key(repository: RepositoryName, digest: Digest) -> str:
    """The key of a blob's hash in a repository."""
    return f"repository::{repository}::blobs::{digest}"


def mtime_key(digest: Digest) -> str:
    """The key of a blob's mtime; an entry that a registry made has none."""
    return f"{MTIME_PREFIX}{digest}"


def descriptor_of(digest: Digest, fields: object, mtime: object) -> Descriptor | None:
    """Parse the replies to HMGET and GET for a blob; None if they are missing or malformed."""
    match fields:
        case [bytes(target), bytes(size), bytes() | None as media_type]:
            pass
        case _:
            return None
    if _SIZE.fullmatch(size) is None:
        return None
    try:
        descriptor = Descriptor(
            Digest.parse(target.decode()),
            int(size),
            OCTET_STREAM if media_type is None else media_type.decode(),
            _mtime_ns(mtime),
        )
    except (DigestInvalid, UnicodeDecodeError):
        return None
    return descriptor if describes(digest, descriptor) else None


def as_linked(
    descriptor: Descriptor | None, is_member: object, media_type: object
) -> Descriptor | None:
    """Apply the replies to SISMEMBER and HGET for a repository; None if it lacks the blob."""
    if descriptor is None or not is_member or not isinstance(media_type, bytes):
        return None
    if not media_type:
        return descriptor
    try:
        return replace(descriptor, media_type=media_type.decode())
    except UnicodeDecodeError:
        return None


def _mtime_ns(reply: object) -> int | None:
    known = isinstance(reply, bytes) and _MTIME.fullmatch(reply)
    return int(known[0]) if known else None

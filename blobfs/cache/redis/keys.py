"""What a registry's cache in Redis consists of, byte for byte, and what we add to it.

    blobs::<digest>                        hash  digest, size, mediatype: the blob
    repository::<name>::blobs              set   the digests that the repository has
    repository::<name>::blobs::<digest>    hash  mediatype: what the repository calls it
    blobfs::mtime::<digest>                when the blob was stored, in nanoseconds; ours

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
    """The hash of a blob."""
    return f"blobs::{digest}"


def members_key(repository: RepositoryName) -> str:
    """The set of what a repository has."""
    return f"repository::{repository}::blobs"


def linked_key(repository: RepositoryName, digest: Digest) -> str:
    """The hash of a blob as the repository has it."""
    return f"repository::{repository}::blobs::{digest}"


def mtime_key(digest: Digest) -> str:
    """The time of a blob, which registries do not keep: one of theirs has none."""
    return f"{MTIME_PREFIX}{digest}"


def descriptor_of(digest: Digest, fields: object, mtime: object) -> Descriptor | None:
    """What the server has of a blob, by HMGET and GET; None also for what makes no sense."""
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
    """What a repository has, by SISMEMBER and HGET."""
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

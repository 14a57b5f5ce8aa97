"""The members of an archive that is written: their headers, and the bytes of large blobs."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from typing import Final

from blobfs.digest import Digest
from blobfs.errors import DigestMismatch
from blobfs.images.sparse import BLOCK

BLOBS: Final = "blobs"
HOLES: Final = "holes"

END: Final = bytes(2 * BLOCK)
"""The end of an archive."""


def name_of(directory: str, digest: Digest) -> str:
    """Return the name of a blob or a hole."""
    return f"{directory}/{digest.algorithm}/{digest.encoded}"


def header_of(name: str, size: int) -> bytes:
    """Return the header of a file; those of a blob and of its hole are equally long."""
    info = tarfile.TarInfo(name)
    info.size = size
    return _block(info)


def link_to(blob: Digest, canonical: Digest) -> bytes:
    """Return the header of a hard link *canonical* to *blob*."""
    info = tarfile.TarInfo(name_of(BLOBS, canonical))
    info.type, info.linkname = tarfile.LNKTYPE, name_of(BLOBS, blob)
    return _block(info)


def padding(size: int) -> bytes:
    """Return the zeros after a content of *size* bytes."""
    return bytes(-size % BLOCK)


def of_size(size: int, blob: Digest, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield *chunks*, which are never more than *size* bytes.

    Raises DigestMismatch if they have another size or another digest than *blob*.
    """
    rest = size
    for chunk in blob.verified(chunks):
        rest -= len(chunk)
        if rest < 0:
            break
        yield chunk
    if rest:
        raise DigestMismatch(f"the content of blob {blob} has not {size} bytes")


def _block(info: tarfile.TarInfo) -> bytes:
    info.mode = 0o444
    return info.tobuf(tarfile.PAX_FORMAT)

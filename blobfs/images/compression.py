"""The compression of a layer, by its first bytes. Media types of layers are often wrong."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from typing import Final

from blobfs.errors import LayerInvalid
from blobfs.images import gzip, zstd
from blobfs.images.source import SPACING, START, Decode, Piece, Point, Source

HEAD: Final = tarfile.BLOCKSIZE
"""The number of bytes that ``compression_of`` needs."""

TAR: Final = "tar"
_OTHERS: Final = {
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"]\0\0": "lzma",
    b"\x04\x22\x4d\x18": "lz4",
    b"LZIP": "lzip",
    b"PK\x03\x04": "zip",
    b"hsqs": "squashfs",
}


def compression_of(head: bytes, media_type: str) -> str:
    """Return the compression of a layer, a key of ``DECODERS``; *head* are its first bytes.

    Raises LayerInvalid for an unsupported one. *media_type* is only used for the message.
    """
    if head.startswith(gzip.MAGIC):
        return "gzip"
    if zstd.is_zstd(head[:4]):
        return "zstd"
    if _is_tar(head):
        return TAR
    if media_type.endswith("+encrypted"):
        raise LayerInvalid("the layer is encrypted")
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            raise LayerInvalid(f"the layer is compressed with {name}; gzip and zstd are supported")
    raise LayerInvalid(f"the layer is no tar archive, of the media type {media_type[:100]!r}")


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError:
        return not head.strip(b"\0")  # an archive without members
    return True


def _decode_tar(source: Source, start: Point) -> Iterator[Piece]:
    """Read an archive without compression; the spans between its points have a checksum each."""
    latest = offset = start.offset
    while source.fill():
        if offset - latest == SPACING:
            latest = offset
            yield Point(offset, offset)
        piece = source.chunk[source.at : source.at + latest + SPACING - offset]
        source.at += len(piece)
        offset += len(piece)
        yield piece


DECODERS: Final[Mapping[str, Decode]] = {
    TAR: _decode_tar,
    "gzip": gzip.decode,
    "zstd": zstd.decode,
}


def decompress(compression: str, source: Source, start: Point = START) -> Iterator[bytes]:
    """Yield the bytes of the archive from *start* on, where *source* begins."""
    for piece in DECODERS[compression](source, start):
        if not isinstance(piece, Point):
            yield piece

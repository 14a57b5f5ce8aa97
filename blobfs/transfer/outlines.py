"""Outlines of manifests, from their bytes and from the rows of an inventory."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final

from blobfs.digest import OCTET_STREAM, Descriptor, Digest
from blobfs.errors import ManifestInvalid
from blobfs.inventory.rows import unpack
from blobfs.inventory.scanning import ReferenceKind, ReferenceRow, parse_manifest
from blobfs.storage.manifest import Manifest
from blobfs.transfer.base import Outline

_LARGEST: Final = 2**50
"""Bytes of a blob at the most: places have less."""

_OF_A_BUILD_CACHE: Final = re.compile(r"\.layer\.|\.rootfs\.diff\.|\.cacheconfig\.")
"""A part of the media types of blobs in the index of a build cache."""


def outline_of(digest: Digest, payload: bytes) -> Outline:
    """Return the outline of the manifest *payload*; raises ManifestInvalid.

    The layers in the index of a build cache are blobs, and no children.
    """
    row = parse_manifest(digest, payload)
    if row.fault is not None:
        raise ManifestInvalid(f"manifest {digest} {row.fault}")
    layers: set[Digest] = set()
    if any(each.kind == ReferenceKind.CHILD for each in row.references):
        listed = Manifest.parse(payload).references
        layers = {each.digest for each in listed if _OF_A_BUILD_CACHE.search(each.media_type)}
    return outline(Descriptor(digest, row.size, row.media_type), row.references, layers)


def _size(size: int) -> int:
    return size if 0 <= size <= _LARGEST else 0


def outline(
    manifest: Descriptor, references: Iterable[ReferenceRow], layers: Collection[Digest] = ()
) -> Outline:
    """Return the outline of *manifest*, which has *references*; each digest is in it once.

    Those in *layers* are no manifests. A size that no blob has is none, as that of schema 1.
    """
    found: dict[int, dict[Digest, Descriptor]] = {int(kind): {} for kind in ReferenceKind}
    for row in references:
        digest, kind = unpack(row.digest), row.kind
        media_type = row.detail
        if kind == ReferenceKind.CHILD:
            media_type = OCTET_STREAM
            kind = int(ReferenceKind.LAYER) if digest in layers else kind
        found[kind].setdefault(digest, Descriptor(digest, _size(row.size), media_type))
    return Outline(
        manifest,
        children=tuple(found[ReferenceKind.CHILD]),
        blobs=tuple((found[ReferenceKind.CONFIG] | found[ReferenceKind.LAYER]).values()),
        foreign=tuple(found[ReferenceKind.FOREIGN].values()),
        subject=next(iter(found[ReferenceKind.SUBJECT]), None),
    )

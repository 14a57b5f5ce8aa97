"""Manifests: the JSON that says which blobs make up an image, or which manifests an index.

Source of truth: the OCI image specification (manifest.md, image-index.md) and
distribution's ``manifest/schema2`` and ``manifest/manifestlist``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final, Never, TypeGuard

from blobfs.digest import OCTET_STREAM, Descriptor, Digest
from blobfs.errors import DigestInvalid, ManifestInvalid

DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"

INDEXES: Final = frozenset({DOCKER_LIST, OCI_INDEX})
MEDIA_TYPES: Final = frozenset({DOCKER_MANIFEST, OCI_MANIFEST}) | INDEXES

_FOREIGN: Final = (
    "application/vnd.docker.image.rootfs.foreign.",
    "application/vnd.oci.image.layer.nondistributable.",
)

_MAX_SIZE: Final = 2**63 - 1  # bytes; what a registry holds it in is Go's int64


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest of any of the four media types, as far as storage needs to know it.

    *references* are the config and the layers of an image, or the children of an index. Those
    that are *foreign* are layers to be had elsewhere, which a registry need not have.
    """

    media_type: str
    references: tuple[Descriptor, ...]
    foreign: frozenset[Digest] = frozenset()

    @property
    def is_index(self) -> bool:
        """Whether the references are manifests."""
        return self.media_type in INDEXES

    @classmethod
    def parse(cls, payload: bytes) -> Manifest:
        """Read a manifest's bytes; raises ManifestInvalid."""
        try:
            document = json.loads(payload.decode(), parse_constant=_not_json)
        except (ValueError, RecursionError):
            raise ManifestInvalid("not JSON") from None
        if not isinstance(document, dict):
            raise ManifestInvalid("not a JSON object")
        media_type = _media_type(document)
        if media_type in INDEXES:
            found = _sequence(document, "manifests")
        else:
            found = [document.get("config"), *_sequence(document, "layers")]
        references = tuple(map(_descriptor, found))
        needed = {
            reference.digest
            for reference, value in zip(references, found, strict=True)
            if not _is_foreign(reference, value)
        }
        foreign = frozenset(reference.digest for reference in references) - needed
        return cls(media_type, references, foreign)


def _is_foreign(reference: Descriptor, value: object) -> bool:
    match value:
        case {"urls": [str(), *_]}:
            return reference.media_type.startswith(_FOREIGN)
    return False


def _not_json(constant: str) -> Never:
    raise ValueError(constant)  # NaN and Infinity, which Python's json reads by default


def _media_type(document: dict[str, object]) -> str:
    version = document.get("schemaVersion")
    if version != 2:
        raise ManifestInvalid(f"schemaVersion is {version!r:.160}, not 2")
    is_index = "manifests" in document
    if is_index and ("config" in document or "layers" in document):
        raise ManifestInvalid("both an index and a manifest")
    media_type = document.get("mediaType")
    if media_type in (None, ""):
        media_type = OCI_INDEX if is_index else OCI_MANIFEST
    if not isinstance(media_type, str) or media_type not in MEDIA_TYPES:
        raise ManifestInvalid(f"unsupported media type {media_type!r:.160}")
    if (media_type in INDEXES) != is_index:
        raise ManifestInvalid(f"does not look like its media type, {media_type}")
    return media_type


def _sequence(document: dict[str, object], key: str) -> list[object]:
    value = document.get(key)
    if not isinstance(value, list):
        raise ManifestInvalid(f"{key!r} is not a list")
    return value


def _descriptor(value: object) -> Descriptor:
    match value:
        case {"digest": str(digest), "size": int(size), **rest} if _is_size(size):
            media_type = rest.get("mediaType")
        case _:
            raise ManifestInvalid("a reference lacks a digest or a size")
    try:
        parsed = Digest.parse(digest)
    except DigestInvalid as exc:
        raise ManifestInvalid(f"refers to what is {exc}") from None
    return Descriptor(parsed, size, media_type if _is_told(media_type) else OCTET_STREAM)


def _is_size(value: int) -> bool:
    return not isinstance(value, bool) and 0 <= value <= _MAX_SIZE


def _is_told(media_type: object) -> TypeGuard[str]:
    """Whether it fits an extended attribute and a line of a terminal, as all in use do."""
    return (
        isinstance(media_type, str)
        and 0 < len(media_type) < 256
        and media_type.isascii()
        and media_type.isprintable()
    )

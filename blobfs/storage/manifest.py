"""Manifests: JSON documents that list the blobs of an image, or the manifests of an index.

Validation follows docker-registry 2.8: ``Manifest.parse`` accepts the manifests that it serves,
``Manifest.to_be_stored`` those that it accepts in a push. The shapes are the Go structs of
distribution. ``tests/storage/test_manifests_with_registry.py`` compares the two programs and lists
their differences.

Source of truth: distribution 2.8.2, ``manifest/`` and ``registry/storage/*manifesthandler.go``; the
OCI image specification.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeGuard
from urllib.parse import urlsplit

from blobfs.digest import OCTET_STREAM, Descriptor, Digest
from blobfs.errors import DigestInvalid, ManifestInvalid
from blobfs.storage.gojson import (
    ANY,
    BYTES,
    INT64,
    STRING,
    Map,
    Pointer,
    Shape,
    Slice,
    Struct,
    Token,
    parse,
)

DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
SCHEMA_1: Final = "application/vnd.docker.distribution.manifest.v1+json"
SIGNED_SCHEMA_1: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"

INDEXES: Final = frozenset({DOCKER_LIST, OCI_INDEX})
MEDIA_TYPES: Final = frozenset({DOCKER_MANIFEST, OCI_MANIFEST}) | INDEXES
"""Media types of manifests that can be stored; schema 1 can only be read."""

_SCHEMA_1_LAYER: Final = "application/vnd.docker.container.image.rootfs.diff+x-gtar"
_DOCKER_FOREIGN: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
_OCI_LAYER: Final = "application/vnd.oci.image.layer"

_WITH_CHECKED_URLS: Final = {
    DOCKER_MANIFEST: frozenset({_DOCKER_FOREIGN}),
    OCI_MANIFEST: frozenset(
        f"{_OCI_LAYER}.{kind}v1.tar{compression}"
        for kind in ("", "nondistributable.")
        for compression in ("", "+gzip")
    ),
}
"""The layer types whose URLs a registry validates, by the manifest's media type."""

_VERSIONED: Final[Mapping[str, Shape]] = {"schemaVersion": INT64, "mediaType": STRING}
_PLATFORM: Final[Mapping[str, Shape]] = {
    "architecture": STRING,
    "os": STRING,
    "os.version": STRING,
    "os.features": Slice(STRING),
    "variant": STRING,
}
_DESCRIPTOR: Final[Mapping[str, Shape]] = {
    "mediaType": STRING,
    "size": INT64,
    "digest": STRING,
    "urls": Slice(STRING),
    "annotations": Map(STRING),
    "platform": Pointer(Struct(_PLATFORM)),
}
_CHILD: Final = Struct(
    {**_DESCRIPTOR, "platform": Struct({**_PLATFORM, "features": Slice(STRING)})}
)
_IMAGE: Final[Mapping[str, Shape]] = {
    **_VERSIONED,
    "config": Struct(_DESCRIPTOR),
    "layers": Slice(Struct(_DESCRIPTOR)),
}
_INDEX: Final = Struct({**_VERSIONED, "manifests": Slice(_CHILD)})
_SIGNED: Final = Struct(
    {
        **_VERSIONED,
        "name": STRING,
        "tag": STRING,
        "architecture": STRING,
        "fsLayers": Slice(Struct({"blobSum": STRING})),
        "history": Slice(Struct({"v1Compatibility": STRING})),
    }
)
_SHAPES: Final = {
    DOCKER_MANIFEST: Struct(_IMAGE),
    DOCKER_LIST: _INDEX,
    OCI_MANIFEST: Struct({**_IMAGE, "annotations": Map(STRING)}),
    OCI_INDEX: _INDEX,
    SCHEMA_1: _SIGNED,
    SIGNED_SCHEMA_1: _SIGNED,
}

_NEW_DESCRIPTOR: Final = Struct({**_DESCRIPTOR, "data": BYTES, "artifactType": STRING})
_DISTRIBUTION_3: Final = Struct(
    {
        "config": _NEW_DESCRIPTOR,
        "layers": Slice(_NEW_DESCRIPTOR),
        "manifests": Slice(_NEW_DESCRIPTOR),
        "annotations": Map(STRING),
    }
)
"""The OCI manifests of distribution 3, which declares more fields than 2.8."""

_TYPED: Final = Struct(dict.fromkeys(("config", "layers", "manifests", "signatures"), ANY))


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest of any media type, with the parts that the storage needs.

    *references* are the config and the layers of an image, or the children of an index, without
    those whose digest is invalid. *foreign* blobs are downloaded from elsewhere; a registry need
    not have them. *for_linux_amd64* is the child served to a client that does not accept lists.
    *annotations* are those of each reference.
    """

    media_type: str
    references: tuple[Descriptor, ...]
    foreign: frozenset[Digest] = frozenset()
    for_linux_amd64: Digest | None = None
    annotations: tuple[Mapping[str, str], ...] = field(default=(), compare=False)

    @property
    def is_index(self) -> bool:
        """True if the references are manifests."""
        return self.media_type in INDEXES

    @classmethod
    def parse(cls, payload: bytes) -> Manifest:
        """Parse a stored manifest; raises ManifestInvalid."""
        return cls._of(*_read(parse(payload)))

    @classmethod
    def to_be_stored(cls, payload: bytes) -> Manifest:
        """Parse a manifest before it is stored.

        Raises ManifestInvalid also for a manifest that a registry serves but does not accept.
        """
        token = parse(payload)
        media_type, references = _read(token)
        _check_kind(token, media_type)
        for reference in references:
            reference.check(media_type)
        return cls._of(media_type, references)

    @classmethod
    def _of(cls, media_type: str, read: list[_Reference]) -> Manifest:
        references: list[Descriptor] = []
        annotations: list[Mapping[str, str]] = []
        needed: set[Digest] = set()
        for_linux_amd64: Digest | None = None
        for reference in read:
            descriptor = reference.descriptor()
            if descriptor is None:
                continue
            references.append(descriptor)
            annotations.append(reference.annotations)
            if media_type in INDEXES or not reference.urls:
                needed.add(descriptor.digest)
            if reference.is_for_linux_amd64 and for_linux_amd64 is None:
                for_linux_amd64 = descriptor.digest
        foreign = frozenset(reference.digest for reference in references) - needed
        return cls(media_type, tuple(references), foreign, for_linux_amd64, tuple(annotations))


@dataclass(frozen=True, slots=True)
class _Reference:
    """A descriptor in the JSON, at *where*."""

    where: str
    digest: str
    size: int
    media_type: str
    urls: tuple[str, ...]
    is_for_linux_amd64: bool
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, where: str, value: object) -> _Reference:
        match value:
            case {"blobSum": str(digest)}:
                return cls(where, digest, 0, _SCHEMA_1_LAYER, (), False)
            case {
                "digest": str(digest),
                "size": int(size),
                "mediaType": str(media_type),
                "urls": urls,
                "platform": platform,
                "annotations": annotations,
            }:
                match platform:
                    case {"architecture": "amd64", "os": "linux"}:
                        is_default = True
                    case _:
                        is_default = False
                found = tuple(map(str, urls)) if isinstance(urls, list) else ()
                noted = annotations if isinstance(annotations, dict) else {}
                return cls(where, digest, size, media_type, found, is_default, noted)
        raise ManifestInvalid(f"{where} is not a descriptor")

    def descriptor(self) -> Descriptor | None:
        """Return the blob's descriptor; None if the digest is invalid."""
        try:
            digest = Digest.parse(self.digest)
        except DigestInvalid:
            return None
        media_type = self.media_type if _is_displayable(self.media_type) else OCTET_STREAM
        return Descriptor(digest, self.size, media_type)

    def check(self, manifest: str) -> None:
        """Raise ManifestInvalid if a *manifest* of that media type may not have this reference."""
        if self.media_type in _WITH_CHECKED_URLS.get(manifest, ()):
            if not all(map(_is_web_address, self.urls)):
                raise ManifestInvalid(f"{self.where}.urls are not all http or https URLs")
            if self.media_type == _DOCKER_FOREIGN and not self.urls:
                raise ManifestInvalid(f"{self.where} is foreign and has no urls")
        if self.descriptor() is None and (manifest in INDEXES or not self.urls):
            raise ManifestInvalid(f"{self.where}.digest is not a digest: {self.digest[:160]!r}")


def _read(token: Token) -> tuple[str, list[_Reference]]:
    """Return the media type and the references."""
    media_type = _media_type(token)
    match _SHAPES[media_type].read(token):
        case {"config": config, "layers": layers}:
            return media_type, [_Reference.of("config", config), *_references("layers", layers)]
        case {"manifests": manifests}:
            return media_type, _references("manifests", manifests)
        case {"fsLayers": layers}:
            return media_type, _references("fsLayers", layers)
    raise ManifestInvalid(f"unsupported media type {media_type}")


def _references(name: str, values: object) -> list[_Reference]:
    values = values if isinstance(values, list) else []
    return [_Reference.of(f"{name}[{index}]", value) for index, value in enumerate(values)]


def _media_type(token: Token) -> str:
    match Struct(_VERSIONED).read(token):
        case {"schemaVersion": 1}:
            is_signed = _TYPED.read(token)["signatures"] is not None
            return SIGNED_SCHEMA_1 if is_signed else SCHEMA_1
        case {"schemaVersion": 2, "mediaType": ""}:
            is_index = _INDEX.read(token)["manifests"] is not None
            return OCI_INDEX if is_index else OCI_MANIFEST
        case {"schemaVersion": 2, "mediaType": str(media_type)} if media_type in MEDIA_TYPES:
            return media_type
        case {"schemaVersion": 2, "mediaType": media_type}:
            raise ManifestInvalid(f"unsupported media type {media_type!r:.160}")
        case {"schemaVersion": version}:
            raise ManifestInvalid(f"schemaVersion is {version}, not 2")
    raise ManifestInvalid("schemaVersion is missing")


def _check_kind(token: Token, media_type: str) -> None:
    """Raise ManifestInvalid for a manifest of two kinds, or of a kind that cannot be stored."""
    if media_type not in MEDIA_TYPES:
        raise ManifestInvalid("schemaVersion is 1; convert the image to schema 2 and push that")
    typed = _TYPED.read(token)
    is_index = typed["manifests"] is not None
    is_image = typed["config"] is not None or typed["layers"] is not None
    if is_index and is_image:  # clients could disagree on its kind (CVE-2021-41190)
        raise ManifestInvalid("both an index and a manifest")
    if is_index != (media_type in INDEXES) and (is_index or is_image):
        raise ManifestInvalid(f"does not look like its media type, {media_type}")
    if media_type in (OCI_MANIFEST, OCI_INDEX):
        _DISTRIBUTION_3.read(token)


def _is_web_address(url: str) -> bool:
    """True if Go parses it as an absolute ``http`` or ``https`` URL without a fragment."""
    if re.match("https?:", url, re.IGNORECASE) is None or re.search("[\x00-\x1f\x7f]", url):
        return False
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError for an invalid port
    except ValueError:
        return False
    is_escaped = re.search("%(?![0-9A-Fa-f]{2})", parts.netloc + parts.path) is None
    return is_escaped and not parts.fragment and " " not in parts.netloc


def _is_displayable(media_type: str) -> TypeGuard[str]:
    """True if it is short printable ASCII, fit for an extended attribute and a terminal."""
    return 0 < len(media_type) < 256 and media_type.isascii() and media_type.isprintable()

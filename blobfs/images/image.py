"""Images by manifest: config, layers and diff IDs, and the images of an index by platform.

Configs and manifests are untrusted input. Source: the OCI image specification, config.md,
manifest.md and image-index.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

from blobfs.digest import Descriptor, Digest
from blobfs.errors import BlobfsError, Corrupt, DigestInvalid, ManifestInvalid, NotFound
from blobfs.images.layer import Layer
from blobfs.images.platforms import Platform
from blobfs.images.toc.table import Table
from blobfs.storage.blobstore import MAX_CONTENT
from blobfs.storage.manifest import DOCKER_MANIFEST, OCI_MANIFEST, Manifest
from blobfs.storage.repository import Repository
from blobfs.timestamps import parse_time

_MAX_INDEXES: Final = 64
"""Nested indexes that are read; tools nest one or two."""

_CONFIGS: Final = {
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
}
_OF_LAYERS: Final = (".image.layer.", ".image.rootfs.")
"""Media types of configs of images, and parts of those of their layers."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Image:
    """An image for one platform, by its manifest's *digest*.

    *created_ns* is in nanoseconds since the epoch, 0 if the config has no time.
    """

    digest: Digest
    config: Descriptor
    layers: tuple[Layer, ...]
    platform: Platform | None
    created_ns: int

    @property
    def tree(self) -> Digest:
        """A digest of all that its root filesystem depends on."""
        layers = [f"{layer.index} {layer.diff_id}" for layer in self.layers]
        return Digest.of("\n".join([str(self.created_ns), *layers]).encode())

    @property
    def is_artifact(self) -> bool:
        """True for a signature, a chart or another thing that is stored like an image."""
        types = [layer.descriptor.media_type for layer in self.layers]
        has_layers = any(part in each for each in types for part in _OF_LAYERS)
        return self.config.media_type not in _CONFIGS or bool(types and not has_layers)

    @classmethod
    def read(cls, repository: Repository, digest: Digest) -> Image:
        """Read the image of a manifest, which is no index.

        Raises ManifestUnknown, BlobUnknown, Corrupt; ManifestInvalid if it has no layers of an
        image. A manifest of another kind, such as a chart, is an image with layers without diff ID.
        """
        manifest = repository.manifests.get(digest)
        if manifest.media_type not in (DOCKER_MANIFEST, OCI_MANIFEST) or not manifest.references:
            raise ManifestInvalid(f"manifest {digest} is no image")
        config, *layers = manifest.references
        document = read_config(repository, config)
        diff_ids = _diff_ids(document)
        return cls(
            digest,
            config,
            tuple(
                Layer(
                    layer,
                    diff_ids[index] if index < len(diff_ids) else None,
                    Table.of(manifest.annotations[index + 1]),
                )
                for index, layer in enumerate(layers)
            ),
            Platform.read(document),
            _created_ns(document.get("created")),
        )


class Leaf(NamedTuple):
    """A manifest that is no index, with the *platform* that its index declares."""

    digest: Digest
    manifest: Manifest
    platform: Platform | None


def images_of(
    repository: Repository,
    digest: Digest,
    broken: tuple[type[BlobfsError], ...] = (NotFound, Corrupt),
) -> Mapping[Platform | None, Digest]:
    """Return the manifests of images that a revision leads to, by platform, in the index's order.

    A manifest that is no index leads to itself. Of two images for a platform the first counts.
    Raises ManifestUnknown, Corrupt; a child with an error that is *broken* is left out.
    """
    found: dict[Platform | None, Digest] = {}
    for leaf in leaves_of(repository, digest, broken):
        if leaf.digest == digest:
            return {None: digest}
        try:
            platform = leaf.platform or Image.read(repository, leaf.digest).platform
        except broken:
            continue
        if platform is not None:
            found.setdefault(platform, leaf.digest)
    return found


def best_image(found: Mapping[Platform | None, Digest]) -> Digest | None:
    """Return the manifest of the image for this machine, else the first; None if there is none."""
    best = Platform.here().best_of(filter(None, found))
    return next(iter(found.values()), None) if best is None else found[best]


def leaves_of(
    repository: Repository,
    digest: Digest,
    broken: tuple[type[BlobfsError], ...] = (NotFound, Corrupt),
) -> Iterator[Leaf]:
    """Yield the manifests that a revision leads to and that are no index, in the index's order.

    A manifest that is no index leads to itself. Raises ManifestUnknown, Corrupt; a child with an
    error that is *broken* is left out.
    """
    top = Leaf(digest, repository.manifests.get(digest), None)
    return _leaves(repository, top, broken, [])


def _leaves(
    repository: Repository,
    above: Leaf,
    broken: tuple[type[BlobfsError], ...],
    indexes: list[Digest],
) -> Iterator[Leaf]:
    """Yield the leaves at or below *above*, without those of *indexes*, which were read before."""
    if not above.manifest.is_index:
        yield above
    elif above.digest not in indexes and len(indexes) < _MAX_INDEXES:
        indexes.append(above.digest)
        platforms = platforms_in(repository.manifests.payload(above.digest))
        for reference in above.manifest.references:
            child = reference.digest
            try:
                manifest = repository.manifests.get(child)
            except broken:
                continue
            leaf = Leaf(child, manifest, platforms.get(str(child)))
            yield from _leaves(repository, leaf, broken, indexes)


def platforms_in(index: bytes) -> Mapping[str, Platform]:
    """Return the platforms that an index declares, by digest."""
    match json.loads(index):
        case {"manifests": list(children)}:
            pass
        case _:
            return {}
    found = {}
    for child in children:
        match child:
            case {"digest": str(digest), "platform": declared}:
                platform = Platform.read(declared)
                if platform is not None:
                    found[digest] = platform
    return found


def read_config(repository: Repository, config: Descriptor) -> Mapping[str, object]:
    """Return the config's JSON object, which is empty if the config is other JSON.

    Raises BlobUnknown, Corrupt; ManifestInvalid if it is no JSON, or too large.
    """
    if config.size > MAX_CONTENT:
        raise ManifestInvalid(f"config {config.digest} has {config.size} bytes")
    try:
        document = json.loads(repository.layers.get(config.digest))
    except (ValueError, RecursionError):
        raise ManifestInvalid(f"config {config.digest} is not JSON") from None
    return document if isinstance(document, dict) else {}


def _diff_ids(document: Mapping[str, object]) -> list[Digest | None]:
    match document.get("rootfs"):
        case {"diff_ids": list(texts)}:
            return [_digest(text) for text in texts]
    return []


def _digest(text: object) -> Digest | None:
    try:
        return Digest.parse(text) if isinstance(text, str) else None
    except DigestInvalid:
        return None


def _created_ns(text: object) -> int:
    moment = parse_time(text.encode("utf-8", "replace")) if isinstance(text, str) else None
    if moment is None:
        return 0
    since = moment - _EPOCH
    return (since.days * 86400 + since.seconds) * 10**9 + since.microseconds * 1000

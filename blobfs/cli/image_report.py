"""The report of ``blobfs show``: an image's platforms, configs, layers and history.

Configs and manifests are untrusted input. A field whose type differs from the OCI image
specification (config.md) is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Final

from blobfs.cli.reports import BROKEN, OK, Needs, Report, Row, human_size, tagged_at
from blobfs.digest import Descriptor, Digest
from blobfs.logs import printable
from blobfs.reference import Reference
from blobfs.storage.blobstore import MAX_CONTENT
from blobfs.storage.manifest import Manifest
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository

_MAX_DEPTH: Final = 4
"""The depth of nested indexes that are read; tools nest one or two."""


_Fields = Mapping[str, str | int | None]


@dataclass(frozen=True, slots=True)
class Step:
    """A build step; *digest* and *size* in bytes are those of its layer."""

    digest: str | None
    size: int
    media_type: str | None
    created_by: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image for one platform. *size* is in bytes, for manifest, config and layers together."""

    digest: str
    platform: str | None
    created: str | None
    config: str | None
    size: int
    state: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class ImageReport:
    """A tag or revision with its image, or with the image of each platform of an index."""

    name: str
    digest: str
    media_type: str
    size: int
    tagged: str | None
    state: str
    images: tuple[Image, ...]

    def as_json(self) -> str:
        """Return one JSON object."""
        return json.dumps(asdict(self), indent=2)

    def as_text(self, *, human: bool = False) -> str:
        """Return the fields in lines, and for each image a table of its steps."""
        fields: _Fields = {"digest": self.digest, "media type": self.media_type, "bytes": self.size,
                  "tagged": self.tagged, "state": self.state}  # fmt: skip
        parts = [self.name, *_lines(fields, human=human)]
        for image in self.images:
            fields = {"digest": image.digest, "created": image.created, "config": image.config,
                      "bytes": image.size, "state": image.state}  # fmt: skip
            steps: list[Row] = [
                (step.size if step.digest else "", step.digest or "", step.created_by)
                for step in image.steps
            ]
            table = Report(("bytes", "layer", "created by"), steps).as_table(human=human)
            parts += ["", printable(image.platform or "image"), *_lines(fields, human=human), table]
        return "\n".join(parts)

    @property
    def is_damaged(self) -> bool:
        """True if the image cannot be pulled completely."""
        return self.state != OK


def _lines(fields: _Fields, *, human: bool) -> Iterator[str]:
    for name, value in fields.items():
        text = human_size(value) if human and isinstance(value, int) else value
        if text is not None:
            yield f"  {name:<11} {printable(str(text))}"


def show(registry: Registry, reference: Reference) -> ImageReport:
    """Describe the image that a tag or a digest names.

    Raises RepositoryUnknown, TagUnknown, ManifestUnknown, Corrupt.
    """
    repository = registry.existing(reference.repository)
    target = reference.target
    digest = target if isinstance(target, Digest) else repository.tags.get(target)
    manifest = repository.manifests.get(digest)
    needs = Needs.of(registry, repository, digest)
    return ImageReport(
        str(reference),
        str(digest),
        manifest.media_type,
        sum(needs.sizes.values()),
        None if isinstance(target, Digest) else tagged_at(repository, target),
        needs.state,
        tuple(
            _image(registry, repository, found, described)
            for found, described in _images(repository, digest, manifest)
        ),
    )


def _images(
    repository: Repository, digest: Digest, manifest: Manifest, depth: int = 0
) -> Iterator[tuple[Digest, Manifest]]:
    """Yield the image manifests that are stored, in the order of the index."""
    if not manifest.is_index:
        yield digest, manifest
        return
    for reference in manifest.references:
        try:
            child = repository.manifests.get(reference.digest)
        except BROKEN:
            continue  # the state of the report names it
        if depth < _MAX_DEPTH:
            yield from _images(repository, reference.digest, child, depth + 1)


def _image(registry: Registry, repository: Repository, digest: Digest, found: Manifest) -> Image:
    config, *layers = found.references or (None,)
    document = {} if config is None else _document(repository, config)
    needs = Needs.of(registry, repository, digest)
    created = document.get("created")
    return Image(
        str(digest),
        _platform(document),
        created if isinstance(created, str) else None,
        None if config is None else str(config.digest),
        sum(needs.sizes.values()),
        needs.state,
        tuple(_steps(document, layers)),
    )


def _document(repository: Repository, config: Descriptor) -> dict[str, object]:
    """Return the config's JSON object, or an empty one if it is not an object."""
    if config.size > MAX_CONTENT:
        return {}
    try:
        document = json.loads(repository.layers.get(config.digest))
    except (*BROKEN, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _platform(document: Mapping[str, object]) -> str | None:
    parts = [document.get(key) for key in ("os", "architecture", "variant")]
    return "/".join(part for part in parts if isinstance(part, str) and part) or None


def _steps(document: Mapping[str, object], layers: list[Descriptor]) -> Iterator[Step]:
    """Yield the build steps with their layers, then the layers that have no step."""
    left = iter(layers)
    history = document.get("history")
    for entry in history if isinstance(history, list) else []:
        if not isinstance(entry, dict):
            continue
        text = entry.get("created_by")
        created_by = text if isinstance(text, str) else ""
        layer = None if entry.get("empty_layer") is True else next(left, None)
        yield _step(layer, created_by)
    for layer in left:
        yield _step(layer, "")


def _step(layer: Descriptor | None, created_by: str) -> Step:
    if layer is None:
        return Step(None, 0, None, created_by)
    return Step(str(layer.digest), layer.size, layer.media_type, created_by)

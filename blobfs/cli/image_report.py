"""The report of ``blobfs show``: an image's platforms, configs, layers and history.

Configs and manifests are untrusted input. A field whose type differs from the OCI image
specification (config.md) is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from blobfs.cli.reports import BROKEN, OK, Needs, Report, Row, human_size, tagged_at
from blobfs.digest import Descriptor, Digest
from blobfs.images.image import leaves_of, read_config
from blobfs.images.platforms import Platform
from blobfs.logs import printable
from blobfs.reference import Reference
from blobfs.storage.manifest import Manifest
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository

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
            _image(registry, repository, leaf.digest, leaf.manifest)
            for leaf in leaves_of(repository, digest, BROKEN)
        ),
    )


def _image(registry: Registry, repository: Repository, digest: Digest, found: Manifest) -> Image:
    config, *layers = found.references or (None,)
    document = {} if config is None else _config(repository, config)
    needs = Needs.of(registry, repository, digest)
    created = document.get("created")
    platform = Platform.read(document)
    return Image(
        str(digest),
        None if platform is None else platform.specifier,
        created if isinstance(created, str) else None,
        None if config is None else str(config.digest),
        sum(needs.sizes.values()),
        needs.state,
        tuple(_steps(document, layers)),
    )


def _config(repository: Repository, config: Descriptor) -> Mapping[str, object]:
    """Return the config's JSON object; an empty one if it cannot be read."""
    try:
        return read_config(repository, config)
    except BROKEN:
        return {}


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

"""What a person or a program wants to know of a registry without mounting it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol, TypeVar

from blobfs.digest import ALGORITHMS, Digest
from blobfs.errors import (
    AccessDenied,
    BlobUnknown,
    Corrupt,
    DigestMismatch,
    NotFound,
    RepositoryUnknown,
)
from blobfs.reference import Reference, RepositoryName, Tag
from blobfs.storage.linkedblobstore import LinkedBlobStore
from blobfs.storage.manifest import INDEXES, Manifest
from blobfs.storage.openuploads import OpenUpload
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository

T = TypeVar("T")

_BROKEN: Final = (NotFound, Corrupt, AccessDenied)
"""What one thing in a registry may be while all others are told of."""

Row = tuple[str | int | None, ...]


class Progress(Protocol):
    """Passes items through, and shows a person how far it is."""

    def __call__(self, items: Iterable[T], label: str) -> Iterator[T]: ...


@dataclass(frozen=True, slots=True)
class Report:
    """Rows of strings and numbers under *columns*; None is what is not known."""

    columns: tuple[str, ...]
    rows: Sequence[Row]

    def as_json(self) -> str:
        """One array, an object a row."""
        return json.dumps(
            [dict(zip(self.columns, row, strict=True)) for row in self.rows], indent=2
        )

    def as_table(self) -> str:
        """Aligned columns under their names, numbers to the right."""
        cells = [self.columns, *(tuple(map(_cell, row)) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        numeric = [
            any(isinstance(row[i], int) for row in self.rows) for i in range(len(self.columns))
        ]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, numeric, strict=True)
            ).rstrip()
            for row in cells
        )


def _cell(value: str | int | None) -> str:
    return "?" if value is None else str(value)


def repositories(registry: Registry, progress: Progress) -> Report:
    """Every repository with how many tags, manifests and layers it has, and their bytes.

    Within a repository a blob counts once. What is broken counts, but has no bytes.
    """
    rows: list[Row] = []
    for name in progress(registry.enumerate(), "Reading"):
        repository = registry.repository(name)
        revisions = _digests(repository.manifests.links)
        layers = _digests(repository.layers)
        sizes = {
            **_sizes(repository.manifests.links, revisions),
            **_sizes(repository.layers, layers),
        }
        tags = sum(1 for _ in repository.tags.enumerate())
        rows.append((name, tags, len(revisions), len(layers), sum(sizes.values())))
    return Report(("repository", "tags", "manifests", "layers", "bytes"), rows)


def uploads(open_uploads: Iterable[OpenUpload]) -> Report:
    """Uploads that have not ended, the oldest first; one without a repository is only parts."""
    rows: list[Row] = [
        (upload.repository, upload.name, upload.size, _moment(upload.began))
        for upload in sorted(open_uploads, key=lambda upload: upload.began or 0.0)
    ]
    return Report(("repository", "name", "bytes", "began"), rows)


def _moment(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")


def tags(registry: Registry, name: RepositoryName) -> Report:
    """Every tag of a repository: what it stands for, and the bytes of all that it needs.

    Raises RepositoryUnknown.
    """
    if not registry.is_repository(name):
        raise RepositoryUnknown(name)
    repository = registry.repository(name)
    rows = [_tag_row(repository, tag) for tag in sorted(repository.tags.enumerate())]
    return Report(("tag", "digest", "media_type", "bytes"), rows)


def content(registry: Registry, reference: Reference) -> Iterator[bytes]:
    """The bytes of a blob or manifest, in pieces.

    Raises RepositoryUnknown, BlobUnknown, TagUnknown, Corrupt; DigestMismatch after the last
    piece of a wrong one.
    """
    if not registry.is_repository(reference.repository):
        raise RepositoryUnknown(reference.repository)
    repository = registry.repository(reference.repository)
    target = reference.target
    digest = target if isinstance(target, Digest) else repository.tags.get(target)
    hasher = hashlib.new(digest.algorithm)
    with registry.blobs.open(_linked(repository, digest)) as reader:
        for chunk in reader.chunks():
            hasher.update(chunk)
            yield chunk
    if hasher.hexdigest() != digest.encoded:
        raise DigestMismatch(f"the content of blob {digest} does not match its digest")


def _tag_row(repository: Repository, tag: Tag) -> Row:
    try:
        digest = repository.tags.get(tag)
    except _BROKEN:
        return (tag, None, None, None)
    try:
        media_type = repository.manifests.get(digest).media_type
    except _BROKEN:
        return (tag, str(digest), None, None)
    return (tag, str(digest), media_type, sum(_needed(repository, digest).values()))


def _linked(repository: Repository, digest: Digest) -> Digest:
    try:
        return repository.layers.resolve(digest)
    except BlobUnknown:
        return repository.manifests.links.resolve(digest)


def _digests(links: LinkedBlobStore) -> list[Digest]:
    return [digest for algorithm in ALGORITHMS for digest in links.enumerate(algorithm)]


def _sizes(links: LinkedBlobStore, digests: Iterable[Digest]) -> dict[Digest, int]:
    sizes = {}
    for digest in digests:
        try:
            descriptor = links.stat(digest)
        except _BROKEN:
            continue
        sizes[descriptor.digest] = descriptor.size
    return sizes


def _needed(repository: Repository, revision: Digest) -> dict[Digest, int]:
    """The sizes of a manifest and of all that it refers to, as far as it is there."""
    needed: dict[Digest, int] = {}
    pending = [revision]
    while pending:
        digest = pending.pop()
        if digest in needed:
            continue
        try:
            payload = repository.manifests.payload(digest)
            manifest = Manifest.parse(payload)
        except _BROKEN:
            continue
        needed[digest] = len(payload)
        if manifest.media_type in INDEXES:
            pending += [reference.digest for reference in manifest.references]
        else:
            for reference in manifest.references:
                needed.setdefault(reference.digest, reference.size)
    return needed

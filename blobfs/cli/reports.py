"""What a person or a program wants to know of a registry without mounting it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol, TypeVar

from blobfs.digest import ALGORITHMS, CANONICAL, Digest
from blobfs.errors import (
    AccessDenied,
    BlobUnknown,
    Corrupt,
    DigestMismatch,
    NotFound,
    RepositoryUnknown,
)
from blobfs.logs import printable
from blobfs.reference import Reference, RepositoryName, Tag
from blobfs.storage.linkedblobstore import LinkedBlobStore
from blobfs.storage.manifest import INDEXES, Manifest
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository
from blobfs.storage.uploads.inventory import OpenUpload

T = TypeVar("T")

BROKEN: Final = (NotFound, Corrupt, AccessDenied)
"""Errors of one thing in a registry that do not keep the others from being listed."""

Cell = str | int | None
Row = tuple[Cell, ...]

OK: Final = "ok"
"""The state of an entry without damage."""


class Progress(Protocol):
    """Passes items through, and shows a person how far it is."""

    def __call__(self, items: Iterable[T], label: str) -> Iterator[T]: ...


@dataclass(frozen=True, slots=True)
class Report:
    """Rows of strings and numbers under *columns*; None is an unknown value.

    *totals* is the table's last row, and no part of the JSON. *damaged* is a number of things
    that are not as they should be.
    """

    columns: tuple[str, ...]
    rows: Sequence[Row]
    totals: Row | None = None
    damaged: int = 0

    def as_json(self) -> str:
        """One array, an object a row."""
        return json.dumps(
            [dict(zip(self.columns, row, strict=True)) for row in self.rows], indent=2
        )

    def as_table(self, *, human: bool = False) -> str:
        """Aligned columns under their names, numbers to the right; *human* shortens bytes."""
        rows = [*self.rows, *([self.totals] if self.totals else [])]
        sizes = {i for i, column in enumerate(self.columns) if human and column == "bytes"}
        texts = [[_cell(value, short=i in sizes) for i, value in enumerate(row)] for row in rows]
        cells = [list(self.columns), *texts]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        numeric = [any(isinstance(row[i], int) for row in rows) for i in range(len(self.columns))]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, numeric, strict=True)
            ).rstrip()
            for row in cells
        )


def _cell(value: Cell, *, short: bool = False) -> str:
    if value is None:
        return "?"
    return human_size(value) if short and isinstance(value, int) else printable(str(value))


def human_size(size: int) -> str:
    """A number of bytes in at most four characters and a unit, as ``ls -h`` has it."""
    amount, units = float(size), "KMGTPE"
    if size < 1024:
        return str(size)
    for unit in units:
        amount /= 1024
        if amount < 999.5 or unit == units[-1]:
            break
    return f"{amount:.1f}{unit}" if amount < 9.95 else f"{amount:.0f}{unit}"


def repositories(registry: Registry, progress: Progress) -> Report:
    """Every repository: its tags, manifests and layers, their bytes, and what is damaged.

    Within a repository, and in the total, a blob counts once. Damaged things count, but have no
    bytes. ``tagged`` is the time of the latest change of a tag.
    """
    rows: list[Row] = []
    everything: dict[Digest, int] = {}
    counts = [0, 0, 0]
    damaged = 0
    for name in progress(registry.enumerate(), "Reading"):
        held = _Holdings.of(registry.repository(name))
        rows.append((name, *held.counts, sum(held.sizes.values()), held.tagged, held.damaged))
        everything |= held.sizes
        counts = [total + count for total, count in zip(counts, held.counts, strict=True)]
        damaged += held.damaged
    return Report(
        ("repository", "tags", "manifests", "layers", "bytes", "tagged", "damaged"),
        rows,
        ("total", *counts, sum(everything.values()), "", damaged) if rows else None,
        damaged,
    )


@dataclass(frozen=True, slots=True)
class _Holdings:
    """The content of a repository; *counts* are of its tags, manifests and layers."""

    counts: tuple[int, int, int]
    sizes: dict[Digest, int]
    tagged: str | None
    damaged: int

    @classmethod
    def of(cls, repository: Repository) -> _Holdings:
        revisions = _digests(repository.manifests.links)
        layers = _digests(repository.layers)
        sizes: dict[Digest, int] = {}
        damaged = _add_sizes(sizes, repository.manifests.links, revisions)
        damaged += _add_sizes(sizes, repository.layers, layers)
        tags = list(repository.tags.enumerate())
        damaged += sum(not _leads_to(repository, tag, set(revisions)) for tag in tags)
        moments = [found for tag in tags if (found := tagged_at(repository, tag))]
        counts = (len(tags), len(revisions), len(layers))
        return cls(counts, sizes, max(moments, default=None), damaged)


def _leads_to(repository: Repository, tag: Tag, revisions: set[Digest]) -> bool:
    try:
        return repository.tags.get(tag) in revisions
    except BROKEN:
        return False


def tagged_at(repository: Repository, tag: Tag) -> str | None:
    """The time of a tag's latest change."""
    try:
        mtime_ns = repository.tags.mtime_ns(tag)
    except BROKEN:
        return None
    return moment(mtime_ns / 1e9) if mtime_ns else None


def uploads(open_uploads: Iterable[OpenUpload]) -> Report:
    """Uploads that have not ended, the oldest first; one without a repository is only parts."""
    rows: list[Row] = [
        (upload.repository, upload.name, upload.size, moment(upload.began))
        for upload in sorted(open_uploads, key=lambda upload: upload.began or 0.0)
    ]
    return Report(("repository", "name", "bytes", "began"), rows)


def moment(seconds: float | None) -> str | None:
    """A time in seconds since the epoch as RFC 3339 has it; None for one that it does not have."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError):  # after the year 9999, as some file systems keep
        return None


def tags(registry: Registry, name: RepositoryName) -> Report:
    """Every tag of a repository: its revision, the bytes of all that it needs, and its state.

    Raises RepositoryUnknown.
    """
    if not registry.is_repository(name):
        raise RepositoryUnknown(name)
    repository = registry.repository(name)
    everything: dict[Digest, int] = {}
    rows = [
        _tag_row(registry, repository, tag, everything)
        for tag in sorted(repository.tags.enumerate())
    ]
    damaged = sum(row[-1] != OK for row in rows)
    total = sum(everything.values())
    return Report(
        ("tag", "digest", "media_type", "bytes", "tagged", "state"),
        rows,
        ("total", "", "", total, "", f"{damaged} damaged" if damaged else OK) if rows else None,
        damaged,
    )


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


def _tag_row(
    registry: Registry, repository: Repository, tag: Tag, everything: dict[Digest, int]
) -> Row:
    tagged = tagged_at(repository, tag)
    digest: Digest | None = None
    try:
        digest = repository.tags.get(tag)
        media_type = repository.manifests.get(digest).media_type
    except BROKEN as exc:
        return (tag, None if digest is None else str(digest), None, None, tagged, str(exc))
    needs = Needs.of(registry, repository, digest)
    everything |= needs.sizes
    size = sum(needs.sizes.values())
    return (tag, str(digest), media_type, size, tagged, needs.state)


def _linked(repository: Repository, digest: Digest) -> Digest:
    try:
        return repository.layers.resolve(digest)
    except BlobUnknown:
        return repository.manifests.links.resolve(digest)


def _digests(links: LinkedBlobStore) -> list[Digest]:
    return [digest for algorithm in ALGORITHMS for digest in links.enumerate(algorithm)]


def _add_sizes(sizes: dict[Digest, int], links: LinkedBlobStore, digests: Iterable[Digest]) -> int:
    """Put the blobs' sizes into *sizes*, and count those that are damaged."""
    damaged = 0
    for digest in digests:
        try:
            descriptor = links.stat(digest)
        except BROKEN:
            damaged += 1
        else:
            sizes[descriptor.digest] = descriptor.size
    return damaged


@dataclass(frozen=True, slots=True)
class Needs:
    """The *sizes* of a manifest and of all that it refers to, and the *faults* among them."""

    sizes: dict[Digest, int]
    faults: list[str]

    @property
    def state(self) -> str:
        """``ok``, or the first fault and a count of the others."""
        more = len(self.faults) - 1
        return (self.faults[0] + (f", and {more} more" if more else "")) if self.faults else OK

    @classmethod
    def of(cls, registry: Registry, repository: Repository, revision: Digest) -> Needs:
        """Collect the references of a manifest, and those of the manifests in an index."""
        sizes: dict[Digest, int] = {}
        faults: list[str] = []
        blobs: dict[Digest, None] = {}  # in the manifests' order
        pending = [revision]
        while pending:
            digest = pending.pop()
            if digest in sizes:
                continue
            try:
                payload = repository.manifests.payload(digest)
                manifest = Manifest.parse(payload)
            except BROKEN as exc:
                faults.append(str(exc))
                continue
            sizes[digest] = len(payload)
            if manifest.media_type in INDEXES:
                pending += [reference.digest for reference in manifest.references]
            else:
                for reference in manifest.references:
                    sizes.setdefault(reference.digest, reference.size)
                    if reference.digest not in manifest.foreign:
                        blobs[reference.digest] = None
        return cls(sizes, faults + _missing(registry, repository, list(blobs)))


def _missing(registry: Registry, repository: Repository, digests: list[Digest]) -> list[str]:
    """A fault for each blob that has no link in the repository, or is not stored."""
    linked = set(repository.layers.existing(digests))
    canonical = [digest for digest in digests if digest in linked and digest.algorithm == CANONICAL]
    stored = set(registry.blobs.existing(canonical))
    return [f"blob {digest} has no link" for digest in digests if digest not in linked] + [
        f"blob {digest} is missing" for digest in canonical if digest not in stored
    ]

"""The reports of ``blobfs ls``, ``uploads`` and ``cat`` on a storage that is not mounted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from blobfs.digest import CANONICAL, Digest
from blobfs.errors import AccessDenied, BlobUnknown, Corrupt, NotFound
from blobfs.logs import printable
from blobfs.reference import Reference, RepositoryName, Tag
from blobfs.storage.linkedblobstore import LinkedBlobStore
from blobfs.storage.manifest import INDEXES, Manifest
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository
from blobfs.storage.uploads.inventory import UnfinishedUpload
from blobfs.timestamps import format_seconds

T = TypeVar("T")

BROKEN: Final = (NotFound, Corrupt, AccessDenied)
"""Errors of one entry; the report goes on with the others."""

_SIZES: Final = frozenset({"bytes", "shared", "freed", "index"})
"""Columns of sizes in bytes."""

Cell = str | int | None
Row = tuple[Cell, ...]

OK: Final = "ok"
"""The state of an entry without damage."""


class Progress(Protocol):
    """Function that yields *items* and may show the progress."""

    def __call__(self, items: Iterable[T], label: str) -> Iterator[T]: ...


@dataclass(frozen=True, slots=True)
class Report:
    """A table of strings and numbers; None is an unknown value.

    *totals* is the last row of the table, and not in the JSON. *damaged* counts damaged entries.
    """

    columns: tuple[str, ...]
    rows: Sequence[Row]
    totals: Row | None = None
    damaged: int = 0

    def as_json(self) -> str:
        """Return a JSON array with one object per row."""
        return json.dumps(
            [dict(zip(self.columns, row, strict=True)) for row in self.rows], indent=2
        )

    def as_table(self, *, human: bool = False) -> str:
        """Return aligned columns with headings; *human* shortens sizes."""
        rows = [*self.rows, *([self.totals] if self.totals else [])]
        sizes = {i for i, column in enumerate(self.columns) if human and column in _SIZES}
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
    """Format a size as ``ls -h`` does, such as 1.5G."""
    amount, units = float(size), "KMGTPE"
    if size < 1024:
        return str(size)
    for unit in units:
        amount /= 1024
        if amount < 999.5 or unit == units[-1]:
            break
    return f"{amount:.1f}{unit}" if amount < 9.95 else f"{amount:.0f}{unit}"


def repositories(registry: Registry, progress: Progress) -> Report:
    """List all repositories: numbers of tags, manifests and layers, their bytes, and the damage.

    A blob counts once in a repository, and once in the total. A damaged one counts with 0 bytes. A
    repository that cannot be read counts as damaged.
    ``tagged`` is the time of the latest change of a tag.
    """
    rows: list[Row] = []
    everything: dict[Digest, int] = {}
    counts = [0, 0, 0]
    damaged = 0
    for name in progress(registry.enumerate(), "Reading"):
        try:
            held = _Holdings.of(registry.repository(name))
        except AccessDenied:
            rows.append((name, *[None] * 5, 1))
            damaged += 1
            continue
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
    """The content of a repository; *counts* has the numbers of tags, manifests and layers."""

    counts: tuple[int, int, int]
    sizes: dict[Digest, int]
    tagged: str | None
    damaged: int

    @classmethod
    def of(cls, repository: Repository) -> _Holdings:
        revisions = list(repository.manifests.links.enumerate_all())
        layers = list(repository.layers.enumerate_all())
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
    """Return the time of a tag's latest change in RFC 3339, or None."""
    try:
        mtime_ns = repository.tags.mtime_ns(tag)
    except BROKEN:
        return None
    return format_seconds(mtime_ns / 1e9) if mtime_ns else None


def uploads(found: Iterable[UnfinishedUpload]) -> Report:
    """List unfinished uploads, oldest first; lost ones have no repository."""
    rows: list[Row] = [
        (
            each.repository,
            each.name,
            each.size,
            format_seconds(each.began),
        )
        for each in sorted(found, key=lambda each: each.began or 0.0)
    ]
    return Report(("repository", "name", "bytes", "began"), rows)


def tags(registry: Registry, name: RepositoryName) -> Report:
    """List the tags of a repository: revision, total bytes of the image, and state.

    Raises RepositoryUnknown.
    """
    repository = registry.existing(name)
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
    """Yield the bytes of a blob or manifest in chunks.

    Raises RepositoryUnknown, BlobUnknown, TagUnknown, Corrupt, and DigestMismatch after the last
    chunk if the bytes do not have the digest.
    """
    repository = registry.existing(reference.repository)
    target = reference.target
    digest = target if isinstance(target, Digest) else repository.tags.get(target)
    with registry.blobs.open(_linked(repository, digest)) as reader:
        yield from digest.verified(reader.chunks())


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


def _add_sizes(sizes: dict[Digest, int], links: LinkedBlobStore, digests: Iterable[Digest]) -> int:
    """Add the sizes of the blobs to *sizes*; returns the number of damaged ones."""
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
    """The *sizes* of a manifest and of its references, and messages for *faults* in them."""

    sizes: dict[Digest, int]
    faults: list[str]

    @property
    def state(self) -> str:
        """``ok``, or the first fault with the number of others."""
        more = len(self.faults) - 1
        return (self.faults[0] + (f", and {more} more" if more else "")) if self.faults else OK

    @classmethod
    def of(cls, registry: Registry, repository: Repository, revision: Digest) -> Needs:
        """Read a manifest and its references; for an index, those of its manifests too."""
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
    """Return a message for each blob that is not linked in the repository, or not stored."""
    linked = set(repository.layers.existing(digests))
    canonical = [digest for digest in digests if digest in linked and digest.algorithm == CANONICAL]
    stored = set(registry.blobs.existing(canonical))
    return [f"blob {digest} has no link" for digest in digests if digest not in linked] + [
        f"blob {digest} is missing" for digest in canonical if digest not in stored
    ]

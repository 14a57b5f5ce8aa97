"""The tasks of a pass: module-level functions of picklable arguments, for any executor."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import partial
from typing import Final, NamedTuple

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.factory import concrete_driver_for
from blobfs.drivers.location import Location
from blobfs.drivers.objectstore import ObjectStore
from blobfs.errors import (
    AccessDenied,
    Corrupt,
    DigestInvalid,
    LinkInvalid,
    ManifestInvalid,
    NotAFile,
    PathNotFound,
)
from blobfs.inventory.rows import Classifier, Rows, Target, pack, unpack
from blobfs.inventory.spans import Span
from blobfs.storage.blobstore import MAX_CONTENT
from blobfs.storage.linkfiles import read_link
from blobfs.storage.listing.presence import with_presence
from blobfs.storage.manifest import Manifest

STEP: Final = 10_000
"""Entries of one step: 10 pages of an object store, about 5 MB of rows."""


@dataclass(frozen=True, slots=True)
class Step:
    """The rows of one step, and the rest of its span; None at the end of the span."""

    rows: Rows
    rest: Span | None


_drivers: Final[dict[Location, StorageDriver]] = {}
"""The drivers of this process; tasks share them."""


def opened(storage: Location) -> StorageDriver:
    """Return this process's driver of *storage*, which stays open until ``close_all``.

    After the repositories or the blobs are lost, it raises StorageUnavailable.
    Raises MountRefused, PathNotFound, AccessDenied, StorageUnavailable.
    """
    driver = _drivers.get(storage)
    if driver is None:
        ours = with_presence(concrete_driver_for(storage))
        driver = _drivers.setdefault(storage, ours)
        if driver is not ours:  # another thread was faster
            ours.close()
    return driver


def close_all() -> None:
    """Close the drivers of this process; no task may be under way."""
    while _drivers:
        _drivers.popitem()[1].close()


def scan(storage: Location, numbered: tuple[int, Span]) -> Step:
    """Read the next entries of a span; raises StorageUnavailable."""
    _, span = numbered
    driver = opened(storage)
    rows = Rows()
    read = None if driver.is_object_store else partial(read_link_at, driver)
    classifier = Classifier(rows, read)
    for entry in span.entries(driver):
        classifier.add(entry)
        if len(rows) == STEP:
            return Step(rows, replace(span, after=entry.position))
    return Step(rows, None)


def spans_left(storage: Location, span: Span, step: Step) -> list[Span]:
    """Return the spans that are left of *span* after *step*; raises StorageUnavailable."""
    if step.rest is None:
        return []
    driver = opened(storage)
    is_begun = not (span.after or span.first or span.end)
    if is_begun and isinstance(driver, ObjectStore):
        return step.rest.divided(driver)
    return [step.rest]


def read_link_at(driver: StorageDriver, path: str) -> Target:
    """Read a link; a missing one has neither a digest nor a fault."""
    try:
        return Target(pack(read_link(driver, path)))
    except PathNotFound:
        return Target()
    except LinkInvalid as exc:
        return Target(None, str(exc))
    except AccessDenied:
        return Target(None, f"link {path} cannot be read: access is denied")


def read_links(storage: Location, links: Sequence[tuple[int, str]]) -> list[Target]:
    """Read each link file of *links*, which are numbered paths; raises StorageUnavailable."""
    driver = opened(storage)
    return [read_link_at(driver, path) for _, path in links]


class ReferenceKind(IntEnum):
    """The role of a digest in a manifest."""

    CHILD = 0
    CONFIG = 1
    LAYER = 2
    SUBJECT = 3
    FOREIGN = 4
    """A layer that is downloaded from elsewhere."""
    NAMED = 5
    """A digest in a document that is no known manifest."""


class ReferenceRow(NamedTuple):
    """A digest in a manifest. *detail* is the platform of a child, and a media type otherwise."""

    kind: int
    digest: bytes
    size: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """A manifest, its size in bytes, and the references in it.

    *fault* says why it could not be read or parsed. The references of a document that is no known
    manifest are all digests that its bytes name.
    """

    digest: bytes
    media_type: str = ""
    size: int = 0
    fault: str | None = None
    references: Sequence[ReferenceRow] = ()


ACCESS_DENIED: Final = "cannot be read: access is denied"
"""The fault of a manifest whose references are known once access to it is granted."""


def read_manifests(storage: Location, digests: Sequence[bytes]) -> list[ManifestRow]:
    """Read each manifest of *digests*; raises StorageUnavailable."""
    driver = opened(storage)
    return [read_manifest(driver, unpack(each)) for each in digests]


def read_manifest(driver: StorageDriver, digest: Digest) -> ManifestRow:
    """Read the manifest *digest*; raises StorageUnavailable."""
    row = ManifestRow(pack(digest))
    try:
        payload = driver.read_at(paths.blob_data(digest), 0, MAX_CONTENT + 1)
    except (PathNotFound, NotAFile):
        return replace(row, fault="is missing")
    except AccessDenied:
        return replace(row, fault=ACCESS_DENIED)
    if len(payload) > MAX_CONTENT:
        return replace(row, fault="is too large for a manifest")
    return parse_manifest(digest, payload)


def parse_manifest(digest: Digest, payload: bytes) -> ManifestRow:
    """Return the row of a manifest that was read."""
    row = ManifestRow(pack(digest), size=len(payload))
    found = Digest.of(payload, digest.algorithm)
    if found != digest:
        return replace(row, fault=f"has the digest {found}")
    try:
        manifest = Manifest.parse(payload)
    except ManifestInvalid as exc:
        return replace(row, fault=f"is not a manifest: {exc}", references=_named(payload))
    references = tuple(_references(manifest, payload))
    return replace(row, media_type=manifest.media_type, references=references)


class Hashed(NamedTuple):
    """The result of hashing a blob: None if the bytes have its digest, and else what is wrong."""

    digest: bytes
    fault: str | None


def hash_blobs(storage: Location, blobs: Sequence[tuple[bytes, int]]) -> list[Hashed]:
    """Read and hash each of *blobs*, digests and sizes; raises StorageUnavailable."""
    driver = opened(storage)
    return [Hashed(digest, hash_fault(driver, unpack(digest))) for digest, _ in blobs]


def hash_fault(driver: StorageDriver, digest: Digest, path: str | None = None) -> str | None:
    """Return what is wrong with the bytes of a blob; None if they have its digest, or are gone.

    *path* is by default that of its data.
    """
    try:
        with driver.open(path or paths.blob_data(digest)) as reader:
            found = Digest.of_chunks(reader.chunks(), digest.algorithm)
    except (PathNotFound, NotAFile):
        return None  # gone since it was listed
    except (AccessDenied, Corrupt) as exc:
        return str(exc)
    return None if found == digest else f"the bytes have the digest {found}"


_DIGEST: Final = re.compile(rb"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")


def _named(payload: bytes) -> Sequence[ReferenceRow]:
    digests = dict.fromkeys(text.decode("ascii") for text in _DIGEST.findall(payload))
    return [ReferenceRow(int(ReferenceKind.NAMED), pack(Digest.parse(each))) for each in digests]


def _references(manifest: Manifest, payload: bytes) -> Iterator[ReferenceRow]:
    details = _details(payload)
    for each in manifest.references:
        kind, detail = ReferenceKind.LAYER, each.media_type
        if manifest.is_index:
            kind, detail = ReferenceKind.CHILD, details.platforms.get(str(each.digest), "")
        elif each.digest in manifest.foreign:
            kind = ReferenceKind.FOREIGN
        elif str(each.digest) == details.config:
            kind = ReferenceKind.CONFIG
        yield ReferenceRow(int(kind), pack(each.digest), each.size, detail)
    if details.subject is not None:
        yield ReferenceRow(int(ReferenceKind.SUBJECT), pack(details.subject))


@dataclass(slots=True)
class _Details:
    """Parts of a manifest that ``Manifest`` does not have."""

    config: str = ""
    subject: Digest | None = None
    platforms: dict[str, str] = field(default_factory=dict)


def _details(payload: bytes) -> _Details:
    found = _Details()
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):  # Go reads it, Python does not
        return found
    match document:
        case {"config": {"digest": str(digest)}}:
            found.config = digest
        case {"manifests": [*children]}:
            found.platforms = dict(_platforms(children))
    match document:
        case {"subject": {"digest": str(digest)}}:
            with suppress(DigestInvalid):
                found.subject = Digest.parse(digest)
    return found


def _platforms(children: Sequence[object]) -> Iterator[tuple[str, str]]:
    for child in children:
        match child:
            case {"digest": str(digest), "platform": {**platform}}:
                yield digest, _platform(platform)


def _platform(platform: Mapping[object, object]) -> str:
    parts = (platform.get(key) for key in ("os", "architecture", "variant"))
    joined = "/".join(part for part in parts if isinstance(part, str) and part)
    return joined.encode(errors="replace").decode()  # JSON may have half a surrogate pair

"""Tasks that read from the source of a route. They run in threads, or on other machines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

from blobfs.digest import Digest
from blobfs.errors import (
    AccessDenied,
    BlobfsError,
    DigestInvalid,
    LinkDangling,
    LinkInvalid,
    ManifestUnknown,
    NotFound,
    TagUnknown,
    Unsupported,
)
from blobfs.images.image import platforms_in
from blobfs.inventory.rows import pack, unpack
from blobfs.reference import Tag
from blobfs.transfer.base import Outline, Source
from blobfs.transfer.places import Kind
from blobfs.transfer.route import Cause, Ends, Fault, Route, ends_of
from blobfs.transfer.selection import Selection

_SIGNATURE: Final = re.compile(r"(sha256|sha512)-([0-9a-f]+)(?:\.[a-z]+)?")
"""A tag that names a manifest: signatures of cosign, and referrers by the fallback of OCI 1.1."""


class Listing(NamedTuple):
    """The content of a repository: names, and packed digests.

    *signatures* are the tags that no pattern selects, with the manifests that they name. *blobs*
    have their sizes.
    """

    tags: list[str]
    signatures: list[tuple[str, bytes]]
    manifests: list[bytes]
    blobs: list[tuple[bytes, int]]


def list_repository(
    route: Route, selection: Selection, numbered: tuple[int, str]
) -> Listing | Fault:
    """Return the tags of a repository that are selected, and with everything the rest of it."""
    _, name = numbered
    ends = ends_of(route)
    try:
        return ends.attempt(lambda: _listing(ends.source, selection, name, route))
    except BlobfsError as exc:
        return Fault.of(exc)


def _listing(source: Source, selection: Selection, name: str, route: Route) -> Listing:
    target = selection.part.target
    names = _tags(source, name, is_optional=target is not None)
    found = Listing([tag for tag in names if selection.wants(name, tag)], [], [], [])
    for tag in names:
        signed = None if selection.wants(name, tag) else _signed(tag)
        if signed is not None:
            found.signatures.append((tag, pack(signed)))
    if isinstance(target, Tag) and target not in found.tags:
        found.tags.append(target)
    if isinstance(target, Digest):
        is_blob = route.target.kind is Kind.FILE or not _add_manifest(source, name, target, found)
        found.blobs.extend([(pack(target), source.size(name, target))] if is_blob else [])
        if isinstance(route.target.part.target, Tag):
            found.tags.append(route.target.part.target)
    if selection.everything:
        found.manifests.extend(map(pack, source.revisions(name)))
        found.blobs.extend(_with_sizes(source, name, source.blobs(name)))
    return found


def _tags(source: Source, name: str, *, is_optional: bool) -> list[Tag]:
    """List tags; nothing if that *is_optional*, and the place does not allow it."""
    try:
        return list(source.tags(name))
    except (Unsupported, AccessDenied):
        if not is_optional:
            raise
        return []  # one image can be copied without its signatures


def _with_sizes(source: Source, name: str, blobs: Iterable[Digest]) -> Iterator[tuple[bytes, int]]:
    """Yield blobs with their sizes, but without those of left-over links, or gone meanwhile."""
    for digest in blobs:
        with suppress(NotFound, LinkDangling):
            try:
                size = source.size(name, digest)
            except LinkInvalid:
                size = 0  # the copy of the blob fails with the reason
            yield pack(digest), size


def _add_manifest(source: Source, name: str, digest: Digest, found: Listing) -> bool:
    """Add the manifest *digest*; False if there is none."""
    try:
        source.outline(name, digest)
    except ManifestUnknown:
        return False
    found.manifests.append(pack(digest))
    return True


def _signed(tag: str) -> Digest | None:
    found = _SIGNATURE.fullmatch(tag)
    try:
        return found and Digest(found[1], found[2])
    except DigestInvalid:
        return None


class TagRead(NamedTuple):
    """The *digest* that a tag names, and its *history*; no digest if it is not selected."""

    digest: bytes | None
    history: tuple[Digest, ...] = ()


TagRow = tuple[int, int, str, str]
"""A tag: its number and that of its repository, the name of the repository, and its own."""

ManifestRow = tuple[int, int, str, bytes]
"""A manifest: its number and that of its repository, the name of that, and its digest."""


def read_tags(
    route: Route, selection: Selection, began: float, batch: Sequence[TagRow]
) -> list[TagRead | Fault]:
    """Look at tags, for a copy that *began* at a time in seconds since the epoch."""
    age_s = selection.newer_than_s
    since_ns = None if age_s is None else int((began - age_s) * 1e9)
    ends = ends_of(route)
    found: list[TagRead | Fault] = []
    for _, _, repository, name in batch:
        if isinstance(selection.part.target, Digest) and route.target.part.target == name:
            found.append(TagRead(pack(selection.part.target)))
            continue
        try:
            read = partial(_read_tag, ends.source, selection, since_ns, repository, Tag(name))
            found.append(ends.attempt(read))
        except TagUnknown as exc:
            is_named = selection.part.target == name
            found.append(Fault(str(exc), Cause.OTHER if is_named else Cause.GONE))
        except BlobfsError as exc:
            found.append(Fault.of(exc))
    return found


def _read_tag(
    source: Source, selection: Selection, since_ns: int | None, repository: str, tag: Tag
) -> TagRead:
    if since_ns is not None and source.tagged_ns(repository, tag) < since_ns:
        return TagRead(None)
    digest = source.tagged(repository, tag)
    if selection.platform is not None:
        digest = _of_platform(source, selection, repository, digest)
    history = tuple(source.history(repository, tag)) if selection.history else ()
    return TagRead(pack(digest), history)


def _of_platform(source: Source, selection: Selection, repository: str, digest: Digest) -> Digest:
    """Return the image of an index for the platform; another manifest is returned as it is."""
    children = source.outline(repository, digest).children
    if not children or selection.platform is None:
        return digest
    platforms = platforms_in(source.manifest(repository, digest))
    for child in children:
        platform = platforms.get(str(child))
        if platform is not None and selection.platform.includes(platform):
            return child
    raise ManifestUnknown(f"{digest} for {selection.platform.specifier}")


class ManifestRead(NamedTuple):
    """An outline, its *referrers*, and the foreign layers that the source has, with sizes."""

    outline: Outline
    referrers: tuple[bytes, ...]
    foreign: tuple[tuple[bytes, int], ...]


def read_manifests(route: Route, batch: Sequence[ManifestRow]) -> list[ManifestRead | Fault]:
    """Read manifests, with their referrers."""
    ends = ends_of(route)
    return [_read_manifest(ends, repository, unpack(digest)) for _, _, repository, digest in batch]


def _read_manifest(ends: Ends, repository: str, digest: Digest) -> ManifestRead | Fault:
    source = ends.source

    def read() -> ManifestRead:
        outline = source.outline(repository, digest)
        referrers = tuple(map(pack, source.referrers(repository, digest)))
        foreign = (blob.digest for blob in outline.foreign)
        return ManifestRead(outline, referrers, tuple(_with_sizes(source, repository, foreign)))

    try:
        return ends.attempt(read)
    except BlobfsError as exc:
        return Fault.of(exc)

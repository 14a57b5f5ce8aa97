"""Tasks that write to the target of a route. They run in threads, or on other machines.

Each task stores a few items and makes them durable. An item whose fault is known is not tried
again; the others of its batch are. A repository that denies access to a blob or a manifest is not
tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum
from functools import partial
from typing import NamedTuple, TypeVar

from blobfs.digest import Descriptor, Digest
from blobfs.errors import (
    BlobfsError,
    Corrupt,
    DigestMismatch,
    LinkInvalid,
    NotFound,
    TagUnknown,
    Unsupported,
)
from blobfs.reference import Tag
from blobfs.transfer.places import Kind
from blobfs.transfer.route import (
    Cause,
    Ends,
    Fault,
    Route,
    ends_of,
    of_source,
    target_as_source,
)


class How(Enum):
    """The way in which an item came into the target."""

    THERE = "there"
    LINKED = "linked"
    COPIED = "copied"
    SENT = "sent"


class Done(NamedTuple):
    """The result of an item; *size* is that of its bytes if it is a blob or a manifest."""

    how: How
    size: int = 0


class BlobItem(NamedTuple):
    """A blob of the repository *origin* that the repository *target* gets.

    *repository* and *number* are its numbers in the catalog. *holder* is a repository of the target
    that has it, if one is known.
    """

    repository: int
    number: int
    origin: str
    target: str
    blob: Descriptor
    holder: str | None = None


class ManifestItem(NamedTuple):
    """A manifest of the repository *origin* that the repository *target* gets."""

    number: int
    origin: str
    target: str
    manifest: Descriptor


class TagItem(NamedTuple):
    """A tag of the repository *target*."""

    number: int
    target: str
    tag: Tag
    digest: Digest
    history: tuple[Digest, ...] = ()


T = TypeVar("T", bound=BlobItem | ManifestItem | TagItem)
R = TypeVar("R")


def ask(route: Route, batch: Sequence[BlobItem]) -> list[Done | Fault | None]:
    """Return None for each blob that its repository does not have; all are of one repository."""
    ends = ends_of(route)
    blobs = [item.blob for item in batch]
    missing = _result(ends, batch[0], lambda item: set(ends.target.missing(item.target, blobs)))
    if isinstance(missing, Fault):
        return [missing] * len(batch)
    return [None if item.blob in missing else _found(route, item) for item in batch]


def _found(route: Route, item: BlobItem) -> Done | Fault | None:
    """Return the result of a blob that is there; None if it is verified and wrong."""
    try:
        if route.verifies_target and not _is_right(route, item):
            return None
    except BlobfsError as exc:
        return Fault.of(exc)
    return Done(How.THERE, item.blob.size)


def _is_right(route: Route, item: BlobItem) -> bool:
    """Read a blob of the target; True if it has its digest."""
    try:
        with target_as_source(route).open(item.target, item.blob) as reader:
            for _ in item.blob.digest.verified(ends_of(route).paced(reader.chunks())):
                pass
    except (Corrupt, NotFound):
        return False
    return True


def send(route: Route, batch: Sequence[BlobItem]) -> list[Done | Fault]:
    """Store blobs in their repositories, by a link, a copy of the server, or their bytes."""
    ends = ends_of(route)
    return _each(ends, batch, partial(_send, route, ends))


def _send(route: Route, ends: Ends, item: BlobItem) -> Done:
    try:
        return _store(route, ends, item)
    except Corrupt:
        with of_source():
            size = ends.source.size(item.origin, item.blob.digest)
        if size == item.blob.size:
            raise
    # The manifest has another size than the blob, or none as those of schema 1.
    sized = item._replace(blob=replace(item.blob, size=size))
    if not ends.target.missing(item.target, [sized.blob]):
        return Done(How.THERE, size)
    return _store(route, ends, sized)


def _store(route: Route, ends: Ends, item: BlobItem) -> Done:
    target, blob = ends.target, item.blob
    is_trusted = item.holder is not None or not route.verifies_target
    if is_trusted and target.link(item.target, blob, item.holder):
        return Done(How.LINKED, blob.size)
    if target.copy(ends.source, item.origin, item.target, blob):
        return Done(How.COPIED, blob.size)
    is_wrong = route.verifies_target and not target.missing(item.target, [blob])
    with of_source():
        reader = ends.source.open(item.origin, blob)
    with reader, ends.counted(reader.chunks()) as chunks:
        if reader.size != blob.size:
            raise DigestMismatch(f"blob {blob.digest} has {reader.size} bytes, not {blob.size}")
        target.put_blob(item.target, blob, chunks)
    if is_wrong and route.target.kind is Kind.REGISTRY and not _is_right(route, item):
        raise Unsupported(
            f"{route.target} keeps other bytes for {blob.digest}; quarantine them in its storage"
            " by blobfs verify --content --repair, and copy again"
        )
    return Done(How.SENT, blob.size)


def put_manifests(route: Route, batch: Sequence[ManifestItem]) -> list[Done | Fault]:
    """Store manifests whose references are stored."""
    ends = ends_of(route)
    return _each(ends, batch, partial(_put_manifest, ends))


def _put_manifest(ends: Ends, item: ManifestItem) -> Done:
    digest = item.manifest.digest
    if ends.target.has_manifest(item.target, item.manifest):
        return Done(How.THERE, item.manifest.size)
    with of_source():
        payload = ends.source.manifest(item.origin, digest)
    ends.target.put_manifest(item.target, digest, payload)
    return Done(How.SENT, len(payload))


def ask_tags(route: Route, batch: Sequence[TagItem]) -> list[bool]:
    """Return for each tag if it names its manifest in the target."""
    ends = ends_of(route)
    return [ends.attempt(partial(_tagged, ends, item)) == item.digest for item in batch]


def set_tags(route: Route, batch: Sequence[TagItem]) -> list[Done | Fault]:
    """Set tags to manifests that are stored."""
    ends = ends_of(route)
    return _each(ends, batch, partial(_set_tag, ends))


def _set_tag(ends: Ends, item: TagItem) -> Done:
    is_there = _tagged(ends, item) == item.digest
    if is_there and not item.history:
        return Done(How.THERE)
    ends.target.tag(item.target, item.tag, item.digest, item.history)
    return Done(How.THERE if is_there else How.SENT)


def _tagged(ends: Ends, item: TagItem) -> Digest | None:
    try:
        return ends.target.tagged(item.target, item.tag)
    except (TagUnknown, LinkInvalid):
        return None


def _each(ends: Ends, batch: Sequence[T], call: Callable[[T], Done]) -> list[Done | Fault]:
    """Return the results of *call* for all items, after what it has stored is durable."""
    results = [_result(ends, item, call) for item in batch]
    if all(isinstance(result, Fault) or result.how is How.THERE for result in results):
        return results
    ends.attempt(ends.target.flush)
    return [_flushed(ends, item, result) for item, result in zip(batch, results, strict=True)]


def _result(ends: Ends, item: T, call: Callable[[T], R]) -> R | Fault:
    fault = ends.denied.get(item.target)
    if fault is not None:
        return fault
    try:
        return ends.attempt(lambda: call(item))
    except BlobfsError as exc:
        fault = Fault.of(exc)
    if fault.cause is Cause.DENIED and not isinstance(item, TagItem):  # which may be protected
        ends.denied[item.target] = fault
    return fault


def _flushed(ends: Ends, item: T, result: Done | Fault) -> Done | Fault:
    """Return the result of an item after the flush, which may have been denied."""
    reason = ends.target.refusal(item.target)
    if reason is None or not isinstance(result, Done) or result.how is How.THERE:
        return result
    if isinstance(item, BlobItem) and result.how is How.SENT:
        ends.on_bytes(-result.size)
    return ends.denied.setdefault(item.target, Fault(reason, Cause.DENIED))

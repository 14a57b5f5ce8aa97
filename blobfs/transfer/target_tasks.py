"""Tasks that write to the target of a route. They run in threads, or on other machines.

Each task stores a few items and makes them durable. An item whose fault is known is not tried
again; the others of its batch are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from enum import Enum
from functools import partial
from typing import NamedTuple

from blobfs.digest import Descriptor, Digest
from blobfs.errors import BlobfsError, Corrupt, LinkInvalid, NotFound, TagUnknown, Unsupported
from blobfs.reference import Tag
from blobfs.transfer.places import Kind
from blobfs.transfer.route import Ends, Fault, Route, ends_of, target_as_source


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

    *holder* is a repository of the target that has it, if one is known.
    """

    origin: str
    target: str
    blob: Descriptor
    holder: str | None = None


class ManifestItem(NamedTuple):
    """A manifest of the repository *origin* that the repository *target* gets."""

    origin: str
    target: str
    manifest: Descriptor


class TagItem(NamedTuple):
    """A tag of the repository *target*."""

    target: str
    tag: Tag
    digest: Digest
    history: tuple[Digest, ...] = ()


def ask(route: Route, batch: Sequence[BlobItem]) -> list[bool | Fault]:
    """Return for each blob if its repository has it; all are of one repository."""
    ends = ends_of(route)
    try:
        blobs = [item.blob for item in batch]
        missing = set(ends.attempt(lambda: ends.target.missing(batch[0].target, blobs)))
    except BlobfsError as exc:
        return [Fault.of(exc)] * len(batch)
    is_there = [item.blob not in missing for item in batch]
    if not route.verifies_target:
        return list(is_there)
    return [_is_right(route, item) if there else there
            for item, there in zip(batch, is_there, strict=True)]  # fmt: skip


def _is_right(route: Route, item: BlobItem) -> bool | Fault:
    """Read a blob of the target; True if it has its digest."""
    ends = ends_of(route)
    try:
        with target_as_source(route).open(item.target, item.blob) as reader:
            for _ in item.blob.digest.verified(ends.paced(reader.chunks())):
                pass
    except (Corrupt, NotFound):
        return False
    except BlobfsError as exc:
        return Fault.of(exc)
    return True


def send(route: Route, batch: Sequence[BlobItem]) -> list[Done | Fault]:
    """Store blobs in their repositories, by a link, a copy of the server, or their bytes."""
    ends = ends_of(route)
    return _each(ends, (partial(_send, route, ends, item) for item in batch))


def _send(route: Route, ends: Ends, item: BlobItem) -> Done:
    try:
        return _store(route, ends, item)
    except Corrupt:
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
    with ends.source.open(item.origin, blob) as reader, ends.counted(reader.chunks()) as chunks:
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
    return _each(ends, (partial(_put_manifest, ends, item) for item in batch))


def _put_manifest(ends: Ends, item: ManifestItem) -> Done:
    digest = item.manifest.digest
    if ends.target.has_manifest(item.target, item.manifest):
        return Done(How.THERE, item.manifest.size)
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
    return _each(ends, (partial(_set_tag, ends, item) for item in batch))


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


def _each(ends: Ends, calls: Iterable[Callable[[], Done]]) -> list[Done | Fault]:
    """Return the results of *calls*, after what they have stored is durable."""
    results = list(_results(ends, calls))
    if any(isinstance(result, Done) and result.how is not How.THERE for result in results):
        ends.attempt(ends.target.flush)
    return results


def _results(ends: Ends, calls: Iterable[Callable[[], Done]]) -> Iterator[Done | Fault]:
    for call in calls:
        try:
            yield ends.attempt(call)
        except BlobfsError as exc:
            yield Fault.of(exc)

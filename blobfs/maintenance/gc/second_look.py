"""The second look: which of some blobs a repository links, or a new manifest names, by now."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

from blobfs import paths
from blobfs.drivers.location import Location
from blobfs.errors import AccessDenied
from blobfs.inventory.inventory import Workers
from blobfs.inventory.rows import LinkKind, Rows
from blobfs.inventory.scanning import ReferenceKind, Step, opened, scan, spans_left
from blobfs.inventory.spans import Span, of_repositories
from blobfs.maintenance.gc.plan import blobs_in_record
from blobfs.maintenance.gc.rules import DOWN
from blobfs.maintenance.gc.views import Manifests, is_unreadable_link_path, link_target


@dataclass(slots=True)
class NeededBlobs:
    """The result of a look: the *needed* blobs, and the reason why others may be needed too.

    *has_links* is true if the storage has any link.
    """

    needed: set[bytes] = field(default_factory=set)
    unreadable: str | None = None
    has_links: bool = False


def look(
    storage: Location, digests: set[bytes], manifests: Manifests, workers: Workers
) -> NeededBlobs:
    """List all repositories for links to *digests*; raises StorageUnavailable.

    A registry with a stale cache may store a manifest without a link to its parts. So manifests
    that no pass has read are read, and the records of uploads.
    """
    found = NeededBlobs()
    roots: set[bytes] = set()
    for step in _steps(storage, workers):
        found.has_links = found.has_links or bool(step.rows.links)
        _add_links(storage, step.rows, digests, found, roots)
        _add_uploads(storage, step.rows, digests, found)
        for other in step.rows.others:
            if is_unreadable_link_path(other):
                found.unreadable = f"{other.path} cannot be read, and may have links"
    _add_referenced(digests, found, roots, manifests)
    return found


def _add_referenced(
    digests: set[bytes], found: NeededBlobs, roots: set[bytes], manifests: Manifests
) -> None:
    """Add what *roots*, and those of *digests* that are manifests below them, refer to.

    One of *digests* that was set aside cannot be read. If it is a manifest, it may refer to all.
    """
    pending, known = roots, set[bytes]()
    while pending:
        manifests.read(pending)
        known |= pending
        below: set[bytes] = set()
        for manifest in pending:
            found.unreadable = manifests.problem(manifest) or found.unreadable
            if manifest in digests and manifests.fault(manifest) is not None:
                found.needed |= digests
            for kind, digest in manifests.references(manifest):
                if digest in digests and kind != ReferenceKind.SUBJECT:
                    found.needed.add(digest)
                    below |= {digest} if kind in DOWN else set()
        pending = below - known


def _steps(storage: Location, workers: Workers) -> Iterable[Step]:
    """Yield the rows of all repositories."""
    spans = of_repositories(opened(storage))
    waiting = deque[tuple[int, Span]]((0, span) for span in spans)
    call = partial(scan, storage)
    for (_, span), step in workers.run(call, lambda: waiting.popleft() if waiting else None):
        waiting.extendleft((0, left) for left in spans_left(storage, span, step))
        yield step


def _add_links(
    storage: Location, rows: Rows, digests: set[bytes], found: NeededBlobs, new: set[bytes]
) -> None:
    driver = opened(storage)
    for row in rows.links:
        target = link_target(driver, row)
        if target.fault is not None and row.digest is not None and row.digest[0]:
            found.unreadable = target.fault
        found.needed |= digests & {row.digest, target.digest}
        if target.digest and row.kind in (LinkKind.REVISION, LinkKind.CURRENT):
            new.add(target.digest)


def _add_uploads(storage: Location, rows: Rows, digests: set[bytes], found: NeededBlobs) -> None:
    driver = opened(storage)
    for repository, upload, name, *_ in rows.upload_files:
        if name == "blobfs.json":
            path = f"{paths.REPOSITORIES}/{repository}/_uploads/{upload}/{name}"
            try:
                found.needed |= digests.intersection(blobs_in_record(driver, path))
            except AccessDenied:
                found.unreadable = f"{path} cannot be read, and may name a blob"

"""The plan of a copy: a walk from the selected tags and digests to all that they need."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Final

from blobfs.errors import MountRefused
from blobfs.inventory.inventory import Progress, Workers
from blobfs.inventory.rows import pack
from blobfs.transfer.catalog import Catalog, State
from blobfs.transfer.places import Kind
from blobfs.transfer.route import Cause, Fault, Route, ends_of
from blobfs.transfer.selection import Naming, Selection
from blobfs.transfer.source_tasks import (
    Listing,
    ManifestRead,
    TagRead,
    list_repository,
    read_manifests,
    read_tags,
)

_BATCH: Final = 16
"""Tags or manifests that one task reads."""

_NAMELESS: Final = {Kind.LAYOUT, Kind.ARCHIVE, Kind.FILE}
"""Places whose images need no name of a repository."""

_ADD_BLOB: Final = "INSERT OR IGNORE INTO blob (digest, size) VALUES (?, ?)"
_ADD_LINK: Final = (
    "INSERT OR IGNORE INTO link SELECT ?, id, ?, 'wanted', NULL FROM blob WHERE digest = ?"
)
_ADD_MANIFEST: Final = (
    "INSERT OR IGNORE INTO manifest (repository, digest, root, state) VALUES (?, ?, ?, 'unread')"
)


class Planner:
    """Fills the catalog. A walk that is stopped goes on with what was not read yet."""

    def __init__(
        self,
        catalog: Catalog,
        workers: Workers,
        route: Route,
        selection: Selection,
        progress: Progress = lambda _kind, _count: None,
    ) -> None:
        self.catalog = catalog
        self.workers = workers
        self.route = route
        self.selection = selection
        self._progress = progress
        self.naming = Naming(route.source.part, route.target.part, route.target.kind in _NAMELESS)

    def plan(self) -> None:
        """Complete the plan, unless it is complete.

        Raises MountRefused if two repositories would have one name in the target, and what
        ``Source.repositories`` raises.
        """
        if self.catalog.is_planned:
            return
        self._add_repositories()
        self._list_repositories()
        self.walk()
        self.catalog.set_planned()

    def second(self) -> Planner:
        """Return a planner that asks the source again."""
        return Planner(
            self.catalog,
            self.workers,
            replace(self.route, second_look=True),
            self.selection,
        )

    def walk(self) -> None:
        """Read all tags and manifests that were not read, and those that they lead to."""
        while True:
            self._read_tags()
            while self._read_manifests():
                pass
            if not self._select_signatures():
                return

    def _names(self) -> Iterable[str]:
        part = self.selection.part
        if self.route.source.kind is Kind.FILE:
            return [""]
        if part.repository is not None:
            return [part.repository]
        found = ends_of(self.route).source.repositories()
        return filter(self.selection.wants_repository, found)

    def _add_repositories(self) -> None:
        with self.catalog.transaction() as db:
            for name in self._names():
                target = self.naming.repository(name)
                if db.execute("SELECT 1 FROM repository WHERE name = ?", (name,)).fetchone():
                    continue
                try:
                    db.execute(
                        "INSERT INTO repository (name, target, state) VALUES (?, ?, ?)",
                        (name, target, State.UNREAD),
                    )
                except sqlite3.IntegrityError:
                    raise MountRefused(
                        f"{target} would get the images of two repositories, one of them {name};"
                        " copy one of them, or give !/prefix/ as the target"
                    ) from None

    def _list_repositories(self) -> None:
        call = partial(list_repository, self.route, self.selection)
        waiting = self.catalog.queue("SELECT id, name FROM repository WHERE state = 'unread'", 1)
        for (number, _), found in self.workers.map(call, chain.from_iterable(waiting)):
            with self.catalog.transaction() as db:
                if isinstance(found, Fault):
                    state, fault = State.FAILED, found.text
                else:
                    state, fault = State.WANTED, None
                    _add_listing(db, number, found)
                db.execute("UPDATE repository SET state = ?, fault = ? WHERE id = ?",
                           (state, fault, number))  # fmt: skip
            self._progress("repositories", 1)

    def _read_tags(self) -> None:
        call = partial(read_tags, self.route, self.selection, self.catalog.began)
        waiting = self.catalog.queue(
            "SELECT id, repository, origin, name FROM named_tag WHERE state = 'unread'", _BATCH
        )
        for batch, results in self.workers.map(call, waiting):
            with self.catalog.transaction() as db:
                for (number, repository, *_), found in zip(batch, results, strict=True):
                    _set_tag(db, number, repository, found)
            self._progress("tags", len(batch))

    def _read_manifests(self) -> bool:
        """Read the manifests that were not read; False if there was none."""
        call = partial(read_manifests, self.route)
        waiting = self.catalog.queue(
            "SELECT id, repository, origin, digest FROM named_manifest WHERE state = 'unread'",
            _BATCH,
        )
        count = 0
        for batch, results in self.workers.map(call, waiting):
            with self.catalog.transaction() as db:
                for (number, repository, *_), found in zip(batch, results, strict=True):
                    _set_manifest(db, number, repository, found)
            count += len(batch)
            self._progress("manifests", len(batch))
        return bool(count)

    def _select_signatures(self) -> bool:
        """Select the tags that name a manifest which is copied; False if there is none."""
        with self.catalog.transaction() as db:
            return bool(
                db.execute(
                    "UPDATE tag SET state = ? WHERE state = ? AND EXISTS (SELECT 1 FROM manifest"
                    " WHERE manifest.repository = tag.repository AND manifest.digest = signs"
                    " AND manifest.state IN (?, ?))",
                    (State.UNREAD, State.UNSELECTED, State.WANTED, State.THERE),
                ).rowcount
            )


def _add_listing(db: sqlite3.Connection, repository: int, found: Listing) -> None:
    add_tag = "INSERT OR IGNORE INTO tag (repository, name, signs, state) VALUES (?, ?, ?, ?)"
    db.executemany(add_tag, ((repository, tag, None, State.UNREAD) for tag in found.tags))
    db.executemany(
        add_tag, ((repository, tag, signed, State.UNSELECTED) for tag, signed in found.signatures)
    )
    db.executemany(_ADD_MANIFEST, ((repository, digest, True) for digest in found.manifests))
    _add_blobs(db, repository, found.blobs, are_roots=True)


def _add_blobs(
    db: sqlite3.Connection,
    repository: int,
    blobs: Sequence[tuple[bytes, int]],
    *,
    are_roots: bool = False,
) -> None:
    db.executemany(_ADD_BLOB, blobs)
    db.executemany(_ADD_LINK, ((repository, are_roots, digest) for digest, _ in blobs))


def _set_tag(db: sqlite3.Connection, number: int, repository: int, found: TagRead | Fault) -> None:
    if isinstance(found, Fault):
        if found.cause is Cause.GONE:
            db.execute("DELETE FROM tag WHERE id = ?", (number,))
        else:
            db.execute(
                "UPDATE tag SET state = ?, fault = ? WHERE id = ?",
                (State.FAILED, found.text, number),
            )
        return
    if found.digest is None:
        db.execute("UPDATE tag SET state = ? WHERE id = ?", (State.UNSELECTED, number))
        return
    db.execute(
        "UPDATE tag SET state = ?, digest = ?, history = ?, fault = NULL WHERE id = ?",
        (State.WANTED, found.digest, " ".join(map(str, found.history)), number),
    )
    packed = {found.digest, *map(pack, found.history)}
    db.executemany(_ADD_MANIFEST, ((repository, digest, False) for digest in packed))


def _set_manifest(
    db: sqlite3.Connection, number: int, repository: int, found: ManifestRead | Fault
) -> None:
    if isinstance(found, Fault):
        state = State.GONE if found.cause is Cause.GONE else State.FAILED
        db.execute(
            "UPDATE manifest SET state = ?, fault = ? WHERE id = ?", (state, found.text, number)
        )
        return
    outline = found.outline
    subject = outline.subject and pack(outline.subject)
    db.execute(
        "UPDATE manifest SET state = ?, size = ?, subject = ?, fault = NULL WHERE id = ?",
        (State.WANTED, outline.manifest.size, subject, number),
    )
    children = [pack(digest) for digest in outline.children]
    db.executemany(
        _ADD_MANIFEST, ((repository, digest, False) for digest in (*children, *found.referrers))
    )
    db.executemany(
        "INSERT OR IGNORE INTO follows SELECT ?, id, 1 FROM manifest"
        " WHERE repository = ? AND digest = ?",
        ((number, repository, digest) for digest in children),
    )
    blobs = [(pack(blob.digest), blob.size) for blob in outline.blobs]
    _add_blobs(db, repository, [*blobs, *found.foreign])
    db.executemany(
        "INSERT OR IGNORE INTO needs_blob SELECT ?, id FROM blob WHERE digest = ?",
        ((number, digest) for digest, _ in blobs),
    )

"""The copy of a plan, part by part: blobs, links of blobs, manifests by level, tags."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import chain, groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from blobfs.digest import Descriptor, Digest
from blobfs.errors import Interrupted
from blobfs.inventory.inventory import Workers
from blobfs.inventory.rows import pack, unpack
from blobfs.reference import Tag
from blobfs.transfer.catalog import State
from blobfs.transfer.outcome import failures
from blobfs.transfer.planner import Planner
from blobfs.transfer.route import Cause, Fault, Route
from blobfs.transfer.target_tasks import (
    BlobItem,
    Done,
    How,
    ManifestItem,
    TagItem,
    ask,
    ask_tags,
    put_manifests,
    send,
    set_tags,
)

Item = TypeVar("Item", BlobItem, ManifestItem, TagItem)
Row = tuple[Any, ...]

_ASKED: Final = 512
"""Blobs of a repository that one question to the target names."""

_BATCH: Final = 32
_LOCAL_BATCH: Final = 4096
_BATCH_BYTES: Final = 32 * 2**20
"""Items, and bytes of blobs, that one task stores, if it has more than one.

A local directory is synced after each task: 20,000 small blobs take 23 s of syncs with tasks of 32,
and 3 s with those of 1,024.
"""

_LINKS: Final = """
    SELECT link.repository, blob.id, repository.name, repository.target, digest, size FROM link
    JOIN repository ON repository.id = link.repository JOIN blob ON blob.id = link.blob
    WHERE part = :part AND link.state = 'wanted' ORDER BY link.repository
"""
_BLOBS: Final = """
    SELECT min(link.repository), blob.id, name, target, digest, size, NULL FROM link
    JOIN repository ON repository.id = link.repository JOIN blob ON blob.id = link.blob
    WHERE part = :part AND link.state = 'wanted' AND NOT there
    GROUP BY blob.id ORDER BY size DESC
"""
"""Each blob that is not in the target, with the first repository that gets it; large ones first."""

_OTHER_LINKS: Final = """
    SELECT link.repository, blob.id, repository.name, repository.target, digest, size,
        (SELECT holder.target FROM link AS held JOIN repository AS holder
            ON holder.id = held.repository
            WHERE held.blob = blob.id AND held.state = 'there' LIMIT 1)
    FROM link
    JOIN repository ON repository.id = link.repository JOIN blob ON blob.id = link.blob
    WHERE part = :part AND link.state = 'wanted' AND there
"""
UNMET: Final = """(
    EXISTS (SELECT 1 FROM needs_blob LEFT JOIN link
        ON link.repository = manifest.repository AND link.blob = needs_blob.blob
        WHERE needs_blob.manifest = manifest.id AND link.state IS NOT 'there')
    OR EXISTS (SELECT 1 FROM follows JOIN manifest AS earlier ON earlier.id = follows.earlier
        WHERE follows.manifest = manifest.id AND required AND earlier.state <> 'there'))
"""
"""True for a manifest if a blob or a child that it requires is not in the target."""

_MANIFESTS: Final = f"""
    SELECT manifest.id, name, target, digest, size FROM manifest
    JOIN repository ON repository.id = manifest.repository
    WHERE part = :part AND manifest.state = 'wanted' AND level = :level AND NOT {UNMET}
"""
_WANTED_TAGS: Final = """
    SELECT tag.id, repository.id, target, tag.name, tag.digest, history FROM tag
    JOIN repository ON repository.id = tag.repository
    WHERE part = :part AND tag.state = 'wanted'
"""
_TAGS: Final = f"""{_WANTED_TAGS} AND EXISTS (
    SELECT 1 FROM manifest WHERE manifest.repository = tag.repository
    AND manifest.digest = tag.digest AND manifest.state = 'there')
"""

_SET_LINK: Final = "UPDATE link SET state = ?, fault = ? WHERE repository = ? AND blob = ?"
_SET_LINKS: Final = "UPDATE link SET state = ?, fault = ? WHERE blob = ? AND state = 'wanted'"

_DENY: Final = "UPDATE repository SET fault = ? WHERE target = ? AND fault IS NULL"

_STATES: Final = {Cause.GONE: State.GONE, Cause.REJECTED: State.REJECTED}


class Feedback(Protocol):
    """Receives each item that was copied or has failed, in the thread of the copy."""

    def showing(self, total: int) -> AbstractContextManager[None]:
        """Show the progress of a plan meanwhile, whose blobs have *total* bytes.

        The items of an earlier plan are received again.
        """

    def again(self, blobs: int, size: int) -> None:
        """Receive that so many blobs, and bytes, will be received again."""

    def add_bytes(self, count: int) -> None:
        """Receive the size of a blob that was not read here; a negative one takes it back."""

    def item(self, kind: str, repository: str, name: str, result: Done | Fault) -> None:
        """Receive the result of an item of *kind*: ``blob``, ``manifest`` or ``tag``."""


class Crew(NamedTuple):
    """The workers of a copy: those of a *cluster*, if there is one, do what writes."""

    threads: Workers
    cluster: Workers | None = None


class Copier:
    """Copies what the catalog of *planner* wants; a second planner looks again at what is gone.

    With *fail_fast* the first failure raises Interrupted.
    """

    def __init__(
        self, planner: Planner, crew: Crew, feedback: Feedback, *, fail_fast: bool = False
    ) -> None:
        self._catalog = planner.catalog
        self._threads = crew.threads
        self._workers = crew.cluster or crew.threads
        self._is_remote = crew.cluster is not None
        self._route = planner.route
        self._batch = _LOCAL_BATCH if self._route.target.is_directory else _BATCH
        self._second = planner.second()
        self._feedback = feedback
        self._fail_fast = fail_fast

    def copy(self) -> None:
        """Copy all parts."""
        for part in self._catalog.parts():
            self._store(part)
            if self._catalog.reset_gone(part):
                self._second.walk()
                self._catalog.set_levels()
                self._feedback.again(*self._catalog.asked_again())
                first, self._route = self._route, self._second.route
                self._store(part)
                self._route = first
            self._catalog.conclude(part, UNMET)
            if self._fail_fast and self._catalog.has_failed(part):
                raise Interrupted(f"stopped at the first failure: {next(failures(self._catalog))}")

    def ask(self) -> None:
        """Ask the target for the blobs and tags of all parts, and change nothing."""
        for part in self._catalog.parts():
            self._ask(part)
            self._ask_tags(part)

    def _store(self, part: int) -> None:
        self._ask(part)
        while self._send(part, _BLOBS):
            pass  # a blob that one repository does not have is taken from the next one
        self._send(part, _OTHER_LINKS)
        for level in range(self._catalog.levels(part) + 1):
            self._put_manifests(part, level)
        self._set_tags(part)

    def _ask(self, part: int) -> None:
        rows = self._catalog.queue(_LINKS, _ASKED, part=part)
        groups = (list(group) for batch in rows for _, group in groupby(batch, key=itemgetter(0)))
        if self._route.verifies_target:  # so it reads them
            groups = (part for group in groups for part in _by_size(group, _ASKED))
        call = partial(_ask, self._route)
        for batch, results in self._threads.run(call, lambda: next(groups, None)):
            done = [Done(How.THERE, row[5]) if found is True else found
                    for row, found in zip(batch, results, strict=True)]  # fmt: skip
            self._set_links(batch, done)

    def _send(self, part: int, select: str) -> bool:
        """Send the blobs of *select*, or link them; False if there was none."""
        rows = self._catalog.queue(select, self._batch, part=part)
        batches = _by_size(chain.from_iterable(rows), self._batch)
        call = partial(_send, self._route)
        any_sent = False
        for batch, results in self._workers.run(call, lambda: next(batches, None)):
            any_sent = True
            self._set_links(batch, results)
        return any_sent

    def _set_links(self, batch: Sequence[Row], results: Sequence[Done | Fault | bool]) -> None:
        """Store the results of links; False is for a blob that the target does not have."""
        found = [
            (row, result)
            for row, result in zip(batch, results, strict=True)
            if not isinstance(result, bool)
        ]
        with self._catalog.transaction() as db:
            for (repository, blob, *_), result in found:
                if _is_lost(result):
                    db.execute(_SET_LINKS, (*_state(result), blob))
                else:
                    db.execute(_SET_LINK, (*_state(result), repository, blob))
                if isinstance(result, Done):
                    self._set_there(db, blob, result)
        for (_, _, _, target, digest, *_), result in found:
            self._note("blob", target, str(unpack(digest)), result)

    def _set_there(self, db: sqlite3.Connection, blob: int, result: Done) -> None:
        """Note that a blob is in the target, and count its bytes once."""
        is_first = db.execute(
            "UPDATE blob SET there = 1, size = ? WHERE id = ? AND NOT there", (result.size, blob)
        ).rowcount
        is_counted = result.how is How.SENT and not self._is_remote  # while it was sent
        if is_first != is_counted:
            self._feedback.add_bytes(result.size if is_first else -result.size)

    def _put_manifests(self, part: int, level: int) -> None:
        rows = self._catalog.queue(_MANIFESTS, self._batch, part=part, level=level)
        call = partial(_put_manifests, self._route)
        for batch, results in self._workers.run(call, lambda: next(rows, None)):
            self._set_states("manifest", batch, results)
            for (_, _, target, digest, _), result in zip(batch, results, strict=True):
                self._note("manifest", target, str(unpack(digest)), result)

    def _set_tags(self, part: int) -> None:
        rows = self._catalog.queue(_TAGS, self._batch, part=part)
        batches = (self._with_history(batch) for batch in rows)
        call = partial(_set_tags, self._route)
        for batch, results in self._workers.run(call, lambda: next(batches, None)):
            self._set_states("tag", batch, results)
            for (_, item), result in zip(batch, results, strict=True):
                self._note("tag", item.target, item.tag, result)

    def _ask_tags(self, part: int) -> None:
        rows = self._catalog.queue(_WANTED_TAGS, _BATCH, part=part)
        batches = (self._with_history(batch) for batch in rows)
        call = partial(_ask_tags, self._route)
        for batch, results in self._threads.run(call, lambda: next(batches, None)):
            there = [each for each, found in zip(batch, results, strict=True) if found]
            self._set_states("tag", there, [Done(How.THERE)] * len(there))

    def _with_history(self, batch: Sequence[Row]) -> list[tuple[int, TagItem]]:
        """Return tags with their numbers, and the part of their history that is in the target."""
        found = []
        for number, repository, target, name, digest, history in batch:
            digests = [
                each
                for each in map(Digest.parse, history.split())
                if self._catalog.one(
                    "SELECT 1 FROM manifest"
                    " WHERE repository = :repository AND digest = :digest AND state = 'there'",
                    repository=repository, digest=pack(each),
                )
            ]  # fmt: skip
            tag = self._second.naming.tag(Tag(name))
            found.append((number, TagItem(target, tag, unpack(digest), tuple(digests))))
        return found

    def _set_states(
        self, table: str, batch: Sequence[Row], results: Sequence[Done | Fault]
    ) -> None:
        with self._catalog.transaction() as db:
            db.executemany(
                f"UPDATE {table} SET state = ?, fault = ? WHERE id = ?",
                ((*_state(result), row[0]) for row, result in zip(batch, results, strict=True)),
            )

    def _note(self, kind: str, repository: str, name: str, result: Done | Fault) -> None:
        self._feedback.item(kind, repository, name, result)
        if isinstance(result, Fault) and result.cause is Cause.DENIED:
            with self._catalog.transaction() as db:
                db.execute(_DENY, (result.text, repository))
        if self._fail_fast and isinstance(result, Fault) and not result.is_looked_at_again:
            raise Interrupted(
                f"stopped at the first failure: {repository}: {kind} {name}: {result.text}"
            )


def _state(result: Done | Fault | bool) -> tuple[State, str | None]:
    """Return the state of an item, and its fault unless that is the one of its repository."""
    if not isinstance(result, Fault):
        return State.THERE, None
    text = None if result.cause is Cause.DENIED else result.text
    return _STATES.get(result.cause, State.FAILED), text


def _is_lost(result: object) -> bool:
    """True if the bytes are wrong or unreadable, so that no repository has right ones."""
    return isinstance(result, Fault) and result.cause in {Cause.DAMAGED, Cause.UNAVAILABLE}


def _by_size(rows: Iterable[Row], most: int) -> Iterator[list[Row]]:
    """Divide blobs into batches of *most* blobs and ``_BATCH_BYTES`` at most, or of one blob."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        if batch and (len(batch) == most or size + row[5] > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += row[5]
    if batch:
        yield batch


def _blob(row: Row) -> BlobItem:
    _, _, origin, target, digest, size, *holder = row
    return BlobItem(origin, target, Descriptor(unpack(digest), size), *holder)


def _ask(route: Route, batch: Sequence[Row]) -> list[bool | Fault]:
    return ask(route, [_blob(row) for row in batch])


def _send(route: Route, batch: Sequence[Row]) -> list[Done | Fault]:
    return send(route, [_blob(row) for row in batch])


def _put_manifests(route: Route, batch: Sequence[Row]) -> list[Done | Fault]:
    return put_manifests(
        route,
        [
            ManifestItem(origin, target, Descriptor(unpack(digest), size))
            for _, origin, target, digest, size in batch
        ],
    )


def _ask_tags(route: Route, batch: Sequence[tuple[int, TagItem]]) -> list[bool]:
    return ask_tags(route, [item for _, item in batch])


def _set_tags(route: Route, batch: Sequence[tuple[int, TagItem]]) -> list[Done | Fault]:
    return set_tags(route, [item for _, item in batch])

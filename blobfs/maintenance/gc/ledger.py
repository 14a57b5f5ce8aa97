"""The part of the journal that outlives a pass: removed links, and blobs that wait."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

from blobfs.inventory.journal import Journal
from blobfs.maintenance.gc.rules import Link, Rules

_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS gc_removed ("
    " repository TEXT, kind INTEGER, tag TEXT, digest BLOB, target BLOB, mtime INTEGER, at REAL,"
    " PRIMARY KEY (repository, kind, tag, digest)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS gc_removed_target ON gc_removed (target)",
    "CREATE TABLE IF NOT EXISTS gc_rules ("
    " at REAL PRIMARY KEY, before INTEGER, layers INTEGER, untagged INTEGER)",
    "CREATE TABLE IF NOT EXISTS gc_unlinked ("
    " digest BLOB PRIMARY KEY, since REAL, repository TEXT) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS gc_emptied (repositories TEXT)",
    "CREATE TABLE IF NOT EXISTS gc_lost (repositories TEXT)",
    "CREATE TABLE IF NOT EXISTS gc_mount_point (path BLOB)",
    "CREATE TABLE IF NOT EXISTS gc_freed (at REAL, repository TEXT, blobs INTEGER, size INTEGER)",
)
_NOT_UNLINKED: Final = "DELETE FROM gc_unlinked WHERE digest = ?"
_NOT_REMOVED: Final = "DELETE FROM gc_removed WHERE target = ?"
_RULES: Final = (
    "SELECT min(before), max(layers), max(untagged) FROM gc_rules"
    " WHERE at IN (SELECT at FROM gc_removed WHERE repository = ?)"
)
_UNLINKED_FROM: Final = "SELECT repository FROM gc_unlinked WHERE digest = ?"
_FORGET_LINKED: Final = (
    "DELETE FROM gc_unlinked WHERE digest NOT IN (SELECT digest FROM blob)"
    " OR EXISTS (SELECT 1 FROM link WHERE target = gc_unlinked.digest)"
)
_NOTE_UNLINKED: Final = (
    "INSERT OR IGNORE INTO gc_unlinked SELECT digest,"
    " coalesce((SELECT max(at) FROM gc_removed WHERE target = blob.digest), ?),"
    " coalesce((SELECT repository FROM gc_removed WHERE target = blob.digest LIMIT 1), '')"
    " FROM blob WHERE NOT EXISTS (SELECT 1 FROM link WHERE target = blob.digest)"
)


class Freed(NamedTuple):
    """The number and the size of deleted blobs whose last link *repository* had.

    It is ``""`` if that is not known.
    """

    repository: str
    blobs: int
    size: int


class Ledger:
    """Records what a collection is about to do, before it does it.

    It adds tables to the journal of the inventory, whose passes leave them alone. Every change is
    one transaction, which is durable when the method returns.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        # In WAL mode a commit is durable only with FULL.
        journal.db.execute("PRAGMA synchronous = FULL")
        for statement in _TABLES:
            journal.db.execute(statement)

    def forget_linked(self) -> None:
        """End the grace of each blob that the last pass has found with a link, or not at all.

        A pass that could not read all links does so too: the run may remove those that it has read.
        """
        with self.journal.transaction() as db:
            db.execute(_FORGET_LINKED)

    def note_unlinked(self, now: float) -> None:
        """Start the grace of each blob that the last pass has found without a link.

        If a run has removed the last link, the grace began then.
        """
        with self.journal.transaction() as db:
            db.execute(_NOTE_UNLINKED, (now,))

    def remove(self, repository: str, links: Iterable[Link], rules: Rules, now: float) -> None:
        """Record links that are about to be removed by *rules*."""
        with self.journal.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO gc_rules VALUES (?, ?, ?, ?)",
                (now, rules.before_ns, rules.layers, rules.untagged),
            )
            db.executemany(
                "INSERT OR REPLACE INTO gc_removed VALUES (?, ?, ?, ?, ?, ?, ?)",
                ((repository, *link, now) for link in links),
            )

    def restored(self, repository: str, links: Iterable[Link]) -> None:
        """Drop the record of links that exist again."""
        with self.journal.transaction() as db:
            db.executemany(
                "DELETE FROM gc_removed"
                " WHERE repository = ? AND kind = ? AND tag = ? AND digest = ?",
                ((repository, *link[:3]) for link in links),
            )

    def repositories(self) -> list[str]:
        """The repositories with removed links whose blobs were not deleted."""
        found = self.journal.db.execute("SELECT DISTINCT repository FROM gc_removed ORDER BY 1")
        return [name for (name,) in found]

    def removed(self, repository: str) -> list[Link]:
        """The removed links of a repository whose blobs were not deleted."""
        found = self.journal.db.execute(
            "SELECT kind, tag, digest, target, mtime FROM gc_removed WHERE repository = ?",
            (repository,),
        )
        return [Link(*row) for row in found]

    def rules(self, repository: str) -> Rules | None:
        """The rules by which the removed links of a repository were dead.

        They join those of several runs: what is younger than the first of them is kept.
        """
        [(before_ns, layers, untagged)] = self.journal.db.execute(_RULES, (repository,))
        return None if before_ns is None else Rules(before_ns, bool(layers), bool(untagged))

    def forget_removed(self, before: float) -> None:
        """Drop the links that were removed before a time: pushes that began then have ended."""
        with self.journal.transaction() as db:
            db.execute("DELETE FROM gc_removed WHERE at < ?", (before,))
            db.execute("DELETE FROM gc_rules WHERE at NOT IN (SELECT at FROM gc_removed)")

    def note_emptied(self, repositories: str | None) -> None:
        """Record the identity of the repositories whose last links are about to be removed.

        None if a pass has found links that may stay.
        """
        with self.journal.transaction() as db:
            db.execute("DELETE FROM gc_emptied")
            if repositories is not None:
                db.execute("INSERT INTO gc_emptied VALUES (?)", (repositories,))

    def emptied(self) -> str | None:
        """The identity that ``note_emptied`` has recorded."""
        found = self.journal.db.execute("SELECT repositories FROM gc_emptied").fetchone()
        return None if found is None else str(found[0])

    def note_lost(self, repositories: str | None) -> None:
        """Record the identity of repositories whose links are lost; None if they are not."""
        if repositories != self.lost():
            with self.journal.transaction() as db:
                db.execute("DELETE FROM gc_lost")
                if repositories is not None:
                    db.execute("INSERT INTO gc_lost VALUES (?)", (repositories,))

    def lost(self) -> str | None:
        """The identity that ``note_lost`` has recorded."""
        found = self.journal.db.execute("SELECT repositories FROM gc_lost").fetchone()
        return None if found is None else str(found[0])

    def note_mount_points(self, paths: AbstractSet[str]) -> None:
        """Record the paths of mount points instead of the earlier ones."""
        if paths != self.mount_points():
            with self.journal.transaction() as db:
                db.execute("DELETE FROM gc_mount_point")
                db.executemany(
                    "INSERT INTO gc_mount_point VALUES (?)",
                    ((os.fsencode(path),) for path in paths),
                )

    def mount_points(self) -> set[str]:
        """The paths that ``note_mount_points`` has recorded."""
        found = self.journal.db.execute("SELECT path FROM gc_mount_point")
        return {os.fsdecode(path) for (path,) in found}

    def back(self, digests: Iterable[bytes]) -> None:
        """End the grace of blobs that are back in their place."""
        with self.journal.transaction() as db:
            db.executemany(_NOT_UNLINKED, ((digest,) for digest in digests))

    def deleted(self, sizes: Mapping[bytes, int | None], now: float) -> list[Freed]:
        """Record blobs that were deleted with their *sizes*, and drop all else about them.

        Returns the sums of each repository that had the last link. A blob whose size is None was
        gone already, and is not counted.
        """
        sums = defaultdict[str, list[int]](list)
        with self.journal.transaction() as db:
            for digest, size in sizes.items():
                found = db.execute(_UNLINKED_FROM, (digest,)).fetchone()
                if size is not None:
                    sums[found[0] if found else ""].append(size)
                for statement in (_NOT_UNLINKED, _NOT_REMOVED):
                    db.execute(statement, (digest,))
            freed = [Freed(name, len(found), sum(found)) for name, found in sorted(sums.items())]
            db.executemany(
                "INSERT INTO gc_freed VALUES (?, ?, ?, ?)", ((now, *each) for each in freed)
            )
        return freed

"""The journal of a pass: a SQLite file with what was found, and with what is left to do."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Final, Self

from blobfs.drivers.base import Closing
from blobfs.errors import MountRefused
from blobfs.inventory.rows import LinkKind, LinkRow, Rows, Target, UploadFileRow, link_path
from blobfs.inventory.scanning import Hashed, ManifestRow
from blobfs.inventory.spans import Span
from blobfs.inventory.statefile import connect

_VERSION: Final = 1

_CACHE_KIB: Final = 64 * 1024
"""SQLite's page cache."""

_TABLES: Final = """
CREATE TABLE pass (storage TEXT, began REAL, ended REAL);
CREATE TABLE span (id INTEGER PRIMARY KEY, directory TEXT, first TEXT, "end" TEXT, after TEXT);
CREATE TABLE repository (id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL);
CREATE TABLE blob (digest BLOB, size INTEGER, mtime INTEGER);
CREATE TABLE link (
    id INTEGER PRIMARY KEY, repository INTEGER, kind INTEGER, tag TEXT, digest BLOB, target BLOB,
    fault TEXT, size INTEGER, mtime INTEGER
);
CREATE TABLE upload_file (repository INTEGER, upload TEXT, name TEXT, size INTEGER, mtime INTEGER);
CREATE TABLE other (path TEXT, kind INTEGER, size INTEGER, mtime INTEGER);
CREATE TABLE manifest (digest BLOB PRIMARY KEY, media_type TEXT, size INTEGER, fault TEXT);
CREATE TABLE hashed (digest BLOB PRIMARY KEY, fault TEXT);
CREATE TABLE reference (
    manifest BLOB, position INTEGER, kind INTEGER, digest BLOB, size INTEGER, detail TEXT,
    PRIMARY KEY (manifest, position)
) WITHOUT ROWID;
"""
_ADD_SPAN: Final = 'INSERT INTO span (directory, first, "end", after) VALUES (?, ?, ?, ?)'
_INDEXES: Final = {
    "blob_by_digest": "blob (digest, size)",
    "link_by_target": "link (target, repository, kind)",
    "link_by_repository": "link (repository, kind, digest)",
    "link_by_tag": "link (repository, tag) WHERE tag IS NOT NULL",
    "reference_to": "reference (digest)",
}
_CLEARED: Final = (
    "DELETE FROM pass",
    "DELETE FROM span",
    "DELETE FROM repository",
    "DELETE FROM blob",
    "DELETE FROM link",
    "DELETE FROM upload_file",
    "DELETE FROM other",
    "DELETE FROM hashed",
    "DELETE FROM reference WHERE manifest IN (SELECT digest FROM manifest WHERE fault IS NOT NULL)",
    "DELETE FROM manifest WHERE fault IS NOT NULL",
)
"""What a new pass deletes. Manifests stay, as the content of a digest never changes."""

_BATCH: Final = 256
"""Links, manifests or blobs that one task reads."""

_BATCH_BYTES: Final = 64 * 2**20
"""Bytes of blobs that one task hashes, if it has more than one."""


class Journal(Closing):
    """A SQLite file, used by one thread at a time of one process.

    The tables hold what the pass has found; ``rows`` has the meaning of the columns. Each method
    that stores is one transaction. *path* is None for a temporary journal.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path | None) -> None:
        self.db = connection
        self.path = path
        self._repositories: dict[str, int] = {}

    @classmethod
    def opened(cls, path: Path | None, storage: str) -> Self:
        """Open or create the journal at *path*; None is a temporary file without a name.

        Raises MountRefused if the file is no journal of *storage*, or another process uses it.
        """
        name = f"--state {path}"
        connection = connect(path, _TABLES, _VERSION, cache_kib=_CACHE_KIB, name=name)
        found = connection.execute("SELECT storage FROM pass").fetchone()
        if found and found[0] != storage:
            connection.close()
            raise MountRefused(f"{name} is of {found[0]}, not of {storage}; give another")
        journal = cls(connection, path)
        journal._repositories = dict(connection.execute("SELECT name, id FROM repository"))
        return journal

    def close(self) -> None:
        self.db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit what the block does, or nothing of it if it raises."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield self.db
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    def begin(self, storage: str, spans: Iterable[Span]) -> None:
        """Begin a pass over *spans*; of the last one only the manifests without a fault stay."""
        with self.transaction() as db:
            for name in _INDEXES:
                db.execute(f"DROP INDEX IF EXISTS {name}")
            for statement in _CLEARED:
                db.execute(statement)
            db.execute("INSERT INTO pass VALUES (?, ?, NULL)", (storage, time.time()))
            db.executemany(_ADD_SPAN, map(astuple, spans))
        self._repositories.clear()

    def forget_manifests(self) -> None:
        """Delete the manifests of earlier passes, so that the next pass reads them again."""
        with self.transaction() as db:
            db.execute("DELETE FROM manifest")
            db.execute("DELETE FROM reference")

    @property
    def is_under_way(self) -> bool:
        """True if a pass has begun and not ended."""
        return bool(self.db.execute("SELECT count(*) FROM pass WHERE ended IS NULL").fetchone()[0])

    def spans(self) -> list[tuple[int, Span]]:
        """The spans that are left, with their numbers."""
        found = self.db.execute('SELECT id, directory, first, "end", after FROM span ORDER BY id')
        return [(number, Span(*span)) for number, *span in found]

    def add(self, number: int, rows: Rows, left: Sequence[Span]) -> list[tuple[int, Span]]:
        """Store the rows of a step of the span *number*, and return what is *left* with numbers."""
        with self.transaction() as db:
            db.execute("DELETE FROM span WHERE id = ?", (number,))
            numbers = [db.execute(_ADD_SPAN, astuple(span)).lastrowid or 0 for span in left]
            db.executemany("INSERT INTO blob VALUES (?, ?, ?)", rows.blobs)
            db.executemany(
                "INSERT INTO link VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)", self._numbered(rows.links)
            )
            db.executemany(
                "INSERT INTO upload_file VALUES (?, ?, ?, ?, ?)", self._numbered(rows.upload_files)
            )
            db.executemany("INSERT INTO other VALUES (?, ?, ?, ?)", rows.others)
        return list(zip(numbers, left, strict=True))

    def _numbered(
        self, rows: Sequence[LinkRow] | Sequence[UploadFileRow]
    ) -> Iterator[tuple[object, ...]]:
        """Yield *rows* with the number of the repository instead of its name."""
        for name, *rest in rows:
            number = self._repositories.get(name)
            if number is None:
                added = self.db.execute("INSERT INTO repository (name) VALUES (?)", (name,))
                number = self._repositories[name] = added.lastrowid or 0
            yield number, *rest

    def unread_links(self, *, every: bool) -> Iterator[list[tuple[int, str]]]:
        """Yield batches of links that no step has read: their numbers and paths.

        Without *every* only those whose path and size do not show their content: the current links
        of tags, those of another length than their digest, and aliases.
        """
        last = 0
        while True:
            found = self.db.execute(
                "SELECT link.id, name, kind, tag, digest"
                " FROM link JOIN repository ON repository.id = repository"
                " WHERE link.id > ? AND target IS NULL AND fault IS NULL"
                " AND (? OR digest IS NULL OR substr(digest, 1, 1) <> x'00' OR size <> 71)"
                " ORDER BY link.id LIMIT ?",
                (last, every, _BATCH),
            ).fetchall()
            if not found:
                return
            last = found[-1][0]
            yield [(number, link_path(*row)) for number, *row in found]

    def set_targets(self, targets: Iterable[tuple[int, Target]]) -> None:
        """Store the content of links by number; one that is gone meanwhile is removed."""
        with self.transaction() as db:
            for number, target in targets:
                if target == Target():
                    db.execute("DELETE FROM link WHERE id = ?", (number,))
                else:
                    db.execute(
                        "UPDATE link SET target = ?, fault = ? WHERE id = ?", (*target, number)
                    )

    def assume_targets(self) -> None:
        """Let each link that was not read refer to the digest in its path."""
        with self.transaction() as db:
            db.execute("UPDATE link SET target = digest WHERE target IS NULL AND fault IS NULL")
        self._index("link_by_target")

    def unread_manifests(self) -> Iterator[list[bytes]]:
        """Yield batches of digests of manifests that were never read."""
        last = b""
        while True:
            found = self.db.execute(
                "SELECT DISTINCT target FROM link WHERE target > ? AND kind IN (?, ?)"
                " AND target NOT IN (SELECT digest FROM manifest) ORDER BY target LIMIT ?",
                (last, LinkKind.REVISION, LinkKind.CURRENT, _BATCH),
            ).fetchall()
            if not found:
                return
            last = found[-1][0]
            yield [digest for (digest,) in found]

    def add_manifests(self, rows: Sequence[ManifestRow]) -> None:
        """Store manifests and their references; those of an earlier read are replaced."""
        with self.transaction() as db:
            for row in rows:
                manifest = (row.digest, row.media_type, row.size, row.fault)
                db.execute("INSERT OR REPLACE INTO manifest VALUES (?, ?, ?, ?)", manifest)
                db.executemany(
                    "INSERT OR REPLACE INTO reference VALUES (?, ?, ?, ?, ?, ?)",
                    ((row.digest, n, *each) for n, each in enumerate(row.references)),
                )

    def unhashed(self) -> Iterator[list[tuple[bytes, int]]]:
        """Yield batches of blobs, digests and sizes, that ``add_hashed`` does not have."""
        last = b""
        while True:
            found = self.db.execute(
                "SELECT digest, size FROM blob WHERE digest > ?"
                " AND digest NOT IN (SELECT digest FROM hashed) ORDER BY digest LIMIT ?",
                (last, _BATCH),
            ).fetchall()
            if not found:
                return
            last = found[-1][0]
            yield from _by_size(found)

    def add_hashed(self, results: Iterable[Hashed]) -> None:
        """Store the results of hashing."""
        with self.transaction() as db:
            db.executemany("INSERT OR REPLACE INTO hashed VALUES (?, ?)", results)

    def intact(self) -> list[Hashed]:
        """Return the results of the blobs that have their digest."""
        found = self.db.execute("SELECT digest, fault FROM hashed WHERE fault IS NULL")
        return [Hashed(*row) for row in found]

    def end(self) -> None:
        """Build the indexes, and mark the pass as ended."""
        for name in _INDEXES:
            self._index(name)
        with self.transaction() as db:
            db.execute("ANALYZE")
            self._set_ended(time.time())

    @contextmanager
    def reopened(self) -> Iterator[None]:
        """Let the pass be under way in the block, so that a run which is stopped there goes on."""
        self._set_ended(None)
        yield
        self._set_ended(time.time())

    def _set_ended(self, ended: float | None) -> None:
        self.db.execute("UPDATE pass SET ended = ?", (ended,))

    def _index(self, name: str) -> None:
        self.db.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {_INDEXES[name]}")


def _by_size(blobs: Sequence[tuple[bytes, int]]) -> Iterator[list[tuple[bytes, int]]]:
    """Divide *blobs* into batches of at most ``_BATCH_BYTES``, or of one blob."""
    batch: list[tuple[bytes, int]] = []
    for blob in blobs:
        if batch and sum(size for _, size in batch) + blob[1] > _BATCH_BYTES:
            yield batch
            batch = []
        batch.append(blob)
    yield batch

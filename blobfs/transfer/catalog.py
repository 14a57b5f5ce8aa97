"""The journal of a copy: a SQLite file with everything that is to be copied, and what is there.

A manifest requires blobs and children in its repository, and follows its subject. A tag, a manifest
and the link of a blob have a state, by repository. A blob is in the target if ``there`` is 1, then
another repository needs a link only.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Self

from blobfs.drivers.base import Closing
from blobfs.errors import MountRefused
from blobfs.inventory.statefile import connect

_VERSION: Final = 2

_CACHE_KIB: Final = 32 * 1024
"""SQLite's page cache."""

_COMMIT_S: Final = 1.0
"""The age at which a transaction is committed: each commit writes whole pages.

The target is asked for what is not noted, so that nothing is sent again.
"""

PART_BLOBS: Final = 50_000
PART_BYTES: Final = 32 * 2**30
"""The size of a part of a copy, unless a repository has more."""


class State(StrEnum):
    """The state of an item."""

    UNREAD = "unread"
    """A manifest, tag or repository that was not looked at."""
    WANTED = "wanted"
    THERE = "there"
    FAILED = "failed"
    GONE = "gone"
    """The source did not have it, so its repository is looked at again."""
    REJECTED = "rejected"
    """The target did not accept a manifest, so it is asked again for what that needs."""
    UNSELECTED = "unselected"
    """A tag that is not copied, unless it names a signature of a manifest that is."""


_TABLES: Final = """
CREATE TABLE copy (name TEXT, began REAL, planned REAL, ended REAL);
CREATE TABLE repository (
    id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, target TEXT UNIQUE NOT NULL,
    part INTEGER, state TEXT NOT NULL, fault TEXT
);
CREATE TABLE blob (
    id INTEGER PRIMARY KEY, digest BLOB UNIQUE NOT NULL, size INTEGER NOT NULL,
    there INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE link (
    repository INTEGER, blob INTEGER, root INTEGER NOT NULL, state TEXT NOT NULL, fault TEXT,
    PRIMARY KEY (repository, blob)
) WITHOUT ROWID;
CREATE TABLE manifest (
    id INTEGER PRIMARY KEY, repository INTEGER NOT NULL, digest BLOB NOT NULL,
    size INTEGER NOT NULL DEFAULT 0, level INTEGER NOT NULL DEFAULT 0,
    subject BLOB, root INTEGER NOT NULL, state TEXT NOT NULL, fault TEXT,
    UNIQUE (repository, digest)
);
CREATE TABLE needs_blob (
    manifest INTEGER, blob INTEGER, PRIMARY KEY (manifest, blob)
) WITHOUT ROWID;
CREATE TABLE follows (
    manifest INTEGER, earlier INTEGER, required INTEGER, PRIMARY KEY (manifest, earlier)
) WITHOUT ROWID;
CREATE TABLE tag (
    id INTEGER PRIMARY KEY, repository INTEGER NOT NULL, name TEXT NOT NULL, signs BLOB,
    digest BLOB, history TEXT NOT NULL DEFAULT '', state TEXT NOT NULL, fault TEXT,
    UNIQUE (repository, name)
);
CREATE VIEW named_link AS
    SELECT link.*, part, name AS origin, target, digest, size, there FROM link
    JOIN repository ON repository.id = link.repository JOIN blob ON blob.id = link.blob;
CREATE VIEW named_manifest AS
    SELECT manifest.*, part, name AS origin, target FROM manifest
    JOIN repository ON repository.id = manifest.repository;
CREATE VIEW named_tag AS
    SELECT tag.*, part, repository.name AS origin, target FROM tag
    JOIN repository ON repository.id = tag.repository;
CREATE INDEX link_by_blob ON link (blob, state);
CREATE INDEX needs_by_blob ON needs_blob (blob);
CREATE INDEX follows_by_earlier ON follows (earlier);
CREATE INDEX manifest_by_level ON manifest (level) WHERE level > 0;
CREATE INDEX manifest_by_state ON manifest (state, repository);
CREATE INDEX repository_by_part ON repository (part);
"""

LEVELS: Final = 1000
"""Levels of manifests at the most. A link that lies about its digest can make a circle of them."""

_ALL: Final = (
    "copy", "repository", "blob", "link", "manifest", "needs_blob", "follows", "tag"
)  # fmt: skip

UNMET: Final = """(
    EXISTS (SELECT 1 FROM needs_blob LEFT JOIN link
        ON link.repository = manifest.repository AND link.blob = needs_blob.blob
        WHERE needs_blob.manifest = manifest.id AND link.state IS NOT 'there')
    OR EXISTS (SELECT 1 FROM follows JOIN manifest AS earlier ON earlier.id = follows.earlier
        WHERE follows.manifest = manifest.id AND required AND earlier.state <> 'there'))
"""
"""True for a manifest if a blob or a child that it requires is not in the target."""

_PART: Final = "IN (SELECT id FROM repository WHERE part = :part)"

_CHANGED: Final = "repository IN (SELECT repository FROM temp.changed)"

_FORGET_EDGES: Final = (
    "DELETE FROM follows WHERE manifest NOT IN (SELECT id FROM manifest)",
    "DELETE FROM needs_blob WHERE manifest NOT IN (SELECT id FROM manifest)",
)

_RESET: Final = (
    "DROP TABLE IF EXISTS temp.again",
    f"""CREATE TEMP TABLE again AS
        SELECT repository, blob, state = 'there' AS was_there, size FROM link
        JOIN blob ON blob.id = blob WHERE blob.there AND {_CHANGED}""",
    f"UPDATE tag SET state = 'unread' WHERE state IN ('wanted', 'failed') AND {_CHANGED}",
    f"DELETE FROM manifest WHERE state <> 'there' AND NOT root AND {_CHANGED}",
    f"UPDATE manifest SET state = 'unread' WHERE state <> 'there' AND {_CHANGED}",
    *_FORGET_EDGES,
    f"UPDATE blob SET there = 0 WHERE id IN (SELECT blob FROM link WHERE {_CHANGED})",
    f"""DELETE FROM link WHERE NOT root AND {_CHANGED} AND NOT EXISTS (
        SELECT 1 FROM needs_blob JOIN manifest ON manifest.id = needs_blob.manifest
        WHERE needs_blob.blob = link.blob AND manifest.repository = link.repository)""",
    f"UPDATE link SET state = 'wanted' WHERE {_CHANGED}",
)
"""Statements after which the changed repositories are walked again, from their tags and roots.

Roots are the manifests and blobs that are copied for themselves.
"""

_DROP_ROOTS: Final = f"""
DELETE FROM manifest WHERE repository {_PART} AND state = 'gone'
    AND NOT EXISTS (SELECT 1 FROM tag WHERE tag.repository = manifest.repository
        AND tag.digest = manifest.digest AND tag.state = 'wanted')
    AND NOT EXISTS (SELECT 1 FROM follows WHERE earlier = manifest.id AND required)
"""
"""Manifests that nothing in the source needs were removed there."""

_CONCLUDE: Final = (
    f"UPDATE manifest SET state = 'failed' WHERE repository {_PART}"
    " AND state IN ('gone', 'rejected')",
    f"""UPDATE link SET state = 'failed' WHERE repository {_PART} AND state = 'gone'
        AND EXISTS (SELECT 1 FROM needs_blob JOIN manifest ON manifest.id = needs_blob.manifest
            WHERE needs_blob.blob = link.blob AND manifest.repository = link.repository)""",
    f"DELETE FROM link WHERE repository {_PART} AND state = 'gone'",
)


class Catalog(Closing):
    """A SQLite file, used by one thread of one process.

    A program that is killed loses the last second. *path* is None for a temporary catalog.
    *is_resumed* is true for the catalog of a copy that was stopped.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path | None, key: str) -> None:
        self.db = connection
        self.is_resumed = False
        self._path = path
        self._key = key
        self._has_ended = False
        self._commit_at = 0.0

    @classmethod
    def opened(cls, path: Path | None, copy: str, *, restart: bool = False) -> Self:
        """Open or create the catalog of *copy*, the key of its places and its selection.

        A copy that has ended, and with *restart* any, begins anew. Raises MountRefused if the file
        is no catalog of this copy, or another process uses it.
        """
        connection = connect(path, _TABLES, _VERSION, cache_kib=_CACHE_KIB, name=str(path))
        catalog = cls(connection, path, copy)
        found = connection.execute("SELECT name, ended FROM copy").fetchone()
        if found and found[0] != copy:
            catalog.close()
            raise MountRefused(f"{path} is of another copy; remove it")
        catalog.is_resumed = bool(found) and found[1] is None and not restart
        if not catalog.is_resumed:
            catalog.begin()
        return catalog

    def close(self) -> None:
        self.db.commit()
        self.db.close()
        if self._has_ended and self._path is not None:
            for suffix in ("", "-wal"):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)

    def begin(self) -> None:
        """Begin anew, without a plan."""
        self.is_resumed = False
        with self.transaction() as db:
            for table in _ALL:
                db.execute(f"DELETE FROM {table}")
            db.execute("INSERT INTO copy VALUES (?, ?, NULL, NULL)", (self._key, time.time()))

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Store what the block does, or nothing of it if it raises; it is committed in a second."""
        if not self.db.in_transaction:
            self.db.execute("BEGIN IMMEDIATE")
            self._commit_at = time.monotonic() + _COMMIT_S
        self.db.execute("SAVEPOINT block")
        try:
            yield self.db
        except BaseException:
            if self.db.in_transaction:  # a full disk ends it
                self.db.execute("ROLLBACK TO block")
            raise
        self.db.execute("RELEASE block")
        if time.monotonic() >= self._commit_at:
            self.db.commit()

    def rows(self, select: str, /, **values: object) -> list[Any]:
        """Return the rows of a query."""
        return self.db.execute(select, values).fetchall()

    def one(self, select: str, /, **values: object) -> Any:  # noqa: ANN401
        """Return the only value of a query's first row; None without a row."""
        found = self.db.execute(select, values).fetchone()
        return None if found is None else found[0]

    def queue(self, select: str, size: int, /, **values: object) -> Iterator[list[Any]]:
        """Yield batches of the rows that a query has now, while others are stored.

        Only one queue is in use at a time.
        """
        self.db.execute("DROP TABLE IF EXISTS temp.queue")
        self.db.execute(f"CREATE TEMP TABLE queue AS {select}", values)
        last = 0
        while True:
            found = self.rows(
                "SELECT rowid, * FROM temp.queue WHERE rowid > :last ORDER BY rowid LIMIT :size",
                last=last,
                size=size,
            )
            if not found:
                return
            last = found[-1][0]
            yield [row[1:] for row in found]

    @property
    def began(self) -> float:
        """The time at which the copy began, in seconds since the epoch."""
        return float(self.one("SELECT began FROM copy"))

    @property
    def is_planned(self) -> bool:
        """True once the plan is complete."""
        return self.one("SELECT planned FROM copy") is not None

    def set_planned(self) -> None:
        """Note that the plan is complete, after levels and parts were set."""
        self.set_levels()
        with self.transaction() as db:
            _divide(db)
            db.execute("UPDATE copy SET planned = ?", (time.time(),))

    def end(self) -> None:
        """Note that the copy has ended; the file is removed when the catalog is closed."""
        with self.transaction() as db:
            db.execute("UPDATE copy SET ended = ?", (time.time(),))
        self._has_ended = True

    def set_levels(self) -> None:
        """Give each manifest a higher level than those that must be stored before it.

        Those that are nested too deeply fail.
        """
        with self.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO follows SELECT manifest.id, earlier.id, 0 FROM manifest"
                " JOIN manifest AS earlier ON earlier.repository = manifest.repository"
                " AND earlier.digest = manifest.subject"
            )
            db.execute("UPDATE manifest SET level = 0 WHERE level > 0")
            found = db.execute("UPDATE manifest SET level = 1 WHERE id IN"
                               " (SELECT manifest FROM follows)")  # fmt: skip
            for level in range(1, LEVELS):
                if not found.rowcount:
                    break
                found = db.execute(
                    "UPDATE manifest SET level = :next WHERE id IN"
                    " (SELECT follows.manifest FROM manifest AS earlier"
                    " JOIN follows ON follows.earlier = earlier.id"
                    " WHERE earlier.level = :level AND earlier.level > 0)",
                    {"level": level, "next": level + 1},
                )
            db.execute(
                "UPDATE manifest SET state = 'failed', fault = ? WHERE level = ? AND level > 0"
                " AND state <> 'there'",
                (f"it refers to itself, or is one of more than {LEVELS} that refer to each other",
                 LEVELS),
            )  # fmt: skip

    def levels(self, part: int) -> int:
        """The highest level of a manifest of *part*."""
        return self.one(f"SELECT max(level) FROM manifest WHERE repository {_PART}", part=part) or 0

    def reset_gone(self, part: int) -> bool:
        """Let the repositories of *part* that lack an item be read again; False if none does.

        Their tags are read again, and the target is asked again for their blobs.
        """
        with self.transaction() as db:
            db.execute("DROP TABLE IF EXISTS temp.changed")
            db.execute(
                "CREATE TEMP TABLE changed AS SELECT repository FROM manifest"
                f" WHERE state IN ('gone', 'rejected') AND repository {_PART}"
                " UNION SELECT repository FROM link"
                f" WHERE state = 'gone' AND repository {_PART}",
                {"part": part},
            )
            for statement in _RESET:
                db.execute(statement)
            return bool(db.execute("SELECT count(*) FROM temp.changed").fetchone()[0])

    def asked_again(self) -> tuple[int, int]:
        """The links that were copied and are copied again, and the bytes of such blobs.

        They are those of the last ``reset_gone``, without what is not needed any more.
        """
        again = "FROM temp.again JOIN link USING (repository, blob)"
        links = self.one(f"SELECT CAST(total(was_there) AS INTEGER) {again}")
        size = self.one(f"SELECT total(size) FROM (SELECT DISTINCT blob, size {again})")
        return links, int(size)

    def conclude(self, part: int) -> None:
        """Let what was not copied of *part* fail, unless the source does not have it any more."""
        names = {"part": part}
        with self.transaction() as db:
            while db.execute(_DROP_ROOTS, names).rowcount:
                for statement in _FORGET_EDGES:
                    db.execute(statement)
            for statement in _CONCLUDE:
                db.execute(statement, names)
            for level in range(self.levels(part) + 1):
                db.execute(
                    f"UPDATE manifest SET state = 'failed' WHERE repository {_PART}"
                    f" AND state = 'wanted' AND level = :level AND {UNMET}",
                    {**names, "level": level},
                )
            db.execute(
                f"UPDATE tag SET state = 'failed' WHERE repository {_PART} AND state = 'wanted'",
                names,
            )

    def has_failed(self, part: int) -> bool:
        """True if a tag, manifest or blob of *part* could not be copied."""
        return any(
            self.one(
                f"SELECT 1 FROM {table} WHERE state = 'failed' AND repository {_PART} LIMIT 1",
                part=part,
            )
            for table in ("tag", "manifest", "link")
        )

    def parts(self) -> list[int]:
        """The numbers of the parts that have something to copy or to look at, in order."""
        found = self.rows("SELECT DISTINCT part FROM repository WHERE part IS NOT NULL ORDER BY 1")
        return [part for (part,) in found]


def _divide(db: sqlite3.Connection) -> None:
    """Number the parts: consecutive repositories, whose blobs were in no earlier part."""
    part = blobs = size = 0
    # A blob counts for its first repository.
    firsts = "SELECT blob, min(repository) AS repository FROM link GROUP BY blob"
    sizes = db.execute(
        "SELECT repository.id, count(blob.id), CAST(total(blob.size) AS INTEGER) FROM repository"
        f" LEFT JOIN ({firsts}) AS first ON first.repository = repository.id"
        " LEFT JOIN blob ON blob.id = first.blob GROUP BY repository.id ORDER BY repository.id"
    ).fetchall()
    numbers: list[tuple[int, int]] = []
    for repository, count, total in sizes:
        if blobs and (blobs + count > PART_BLOBS or size + total > PART_BYTES):
            part, blobs, size = part + 1, 0, 0
        blobs, size = blobs + count, size + total
        numbers.append((part, repository))
    db.executemany("UPDATE repository SET part = ? WHERE id = ?", numbers)

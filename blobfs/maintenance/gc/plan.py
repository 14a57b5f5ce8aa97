"""The plan of a collection: tables of dead links and blobs, made from the journal of a pass."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from blobfs import paths
from blobfs.digest import Digest
from blobfs.drivers.base import StorageDriver
from blobfs.errors import AccessDenied, DigestInvalid, NameInvalid, NotAFile, PathNotFound
from blobfs.inventory.inventory import Inventory
from blobfs.inventory.rows import LinkKind, pack
from blobfs.inventory.scanning import ReferenceKind, opened
from blobfs.inventory.spans import EntryKind
from blobfs.maintenance.gc.directories import empty_directories
from blobfs.maintenance.gc.ledger import Ledger
from blobfs.maintenance.gc.mount_points import note_mounted_or_missing, problem_of
from blobfs.maintenance.gc.no_links import problem_of_links
from blobfs.maintenance.gc.rules import (
    Link,
    RepositoryView,
    Rules,
    dead_links,
    old_registry_problem,
)
from blobfs.maintenance.gc.views import Views
from blobfs.reference import RepositoryName
from blobfs.storage.blobstore import MAX_CONTENT
from blobfs.storage.uploads.metadata import UploadRecord

KINDS: Final = {
    LinkKind.LAYER: "layer",
    LinkKind.REVISION: "revision",
    LinkKind.INDEX: "history",
}
BLOB: Final = "blob"

_TABLES: Final = (
    "CREATE TEMP TABLE gc_dead (id INTEGER PRIMARY KEY)",
    "CREATE TEMP TABLE gc_plan (repository TEXT, kind TEXT, link_kind INTEGER, tag TEXT,"
    " digest BLOB, target BLOB, mtime INTEGER, size INTEGER, reason TEXT, due REAL,"
    " is_linked INTEGER)",
    "CREATE INDEX temp.gc_plan_by_kind ON gc_plan (kind, repository)",
    "CREATE TEMP TABLE gc_kept (digest BLOB PRIMARY KEY) WITHOUT ROWID",
    "CREATE TEMP TABLE gc_live (digest BLOB PRIMARY KEY) WITHOUT ROWID",
)
_DROPPED: Final = tuple(
    f"DROP TABLE IF EXISTS temp.{name}" for name in ("gc_dead", "gc_plan", "gc_kept", "gc_live")
)
_LINK: Final = (
    "SELECT id, coalesce((SELECT max(size) FROM blob WHERE digest = link.target), 0) FROM link"
    " WHERE repository = (SELECT id FROM repository WHERE name = ?)"
    " AND kind = ? AND digest = ? AND coalesce(tag, '') = ?"
)
_NAMED_BY_PATHS: Final = (
    "INSERT OR IGNORE INTO gc_kept SELECT digest FROM link"
    " WHERE digest IS NOT NULL AND (target IS NULL OR target <> digest)"
)
_LIVE: Final = f"""
INSERT OR IGNORE INTO gc_live
WITH RECURSIVE live(digest) AS (
    SELECT target FROM link WHERE kind IN ({LinkKind.REVISION:d}, {LinkKind.CURRENT:d})
        AND target IS NOT NULL AND id NOT IN (SELECT id FROM gc_dead)
    UNION
    SELECT reference.digest FROM live JOIN reference ON reference.manifest = live.digest
        WHERE reference.kind IN ({ReferenceKind.CHILD:d}, {ReferenceKind.NAMED:d})
        AND reference.digest IN (SELECT digest FROM manifest)
)
SELECT digest FROM live
"""  # noqa: S608  (numbers of enumerations)
_UNREAD_CHILDREN: Final = f"""
SELECT DISTINCT reference.digest FROM gc_live
JOIN reference ON reference.manifest = gc_live.digest
JOIN blob ON blob.digest = reference.digest
WHERE reference.kind IN ({ReferenceKind.CHILD:d}, {ReferenceKind.NAMED:d})
    AND blob.size <= {MAX_CONTENT} AND reference.digest NOT IN (SELECT digest FROM manifest)
"""  # noqa: S608
_DEAD_BLOBS: Final = f"""
INSERT INTO gc_plan
SELECT
    coalesce(
        (SELECT min(name) FROM link JOIN repository ON repository.id = link.repository
            WHERE target = blob.digest),
        (SELECT repository FROM gc_unlinked WHERE digest = blob.digest), ''),
    'blob', NULL, '', blob.digest, blob.digest, max(blob.mtime), max(blob.size),
    CASE WHEN EXISTS (SELECT 1 FROM link WHERE target = blob.digest)
        THEN 'its links go' ELSE 'no repository links it' END,
    CASE WHEN EXISTS (SELECT 1 FROM link WHERE target = blob.digest)
        THEN ? ELSE coalesce((SELECT since FROM gc_unlinked WHERE digest = blob.digest), ?) + ?
    END,
    EXISTS (SELECT 1 FROM link WHERE target = blob.digest)
FROM blob
WHERE NOT EXISTS (
        SELECT 1 FROM link WHERE target = blob.digest AND id NOT IN (SELECT id FROM gc_dead))
    AND NOT EXISTS (SELECT 1 FROM gc_kept WHERE digest = blob.digest)
    AND NOT EXISTS (
        SELECT 1 FROM reference JOIN gc_live ON gc_live.digest = reference.manifest
        WHERE reference.digest = blob.digest AND reference.kind <> {ReferenceKind.SUBJECT:d})
GROUP BY blob.digest HAVING max(blob.mtime) < ?
"""  # noqa: S608
_LIVE_WITH_FAULTS: Final = (
    "SELECT digest FROM gc_live JOIN manifest USING (digest) WHERE fault IS NOT NULL"
)
_HAS_LINKS: Final = "SELECT EXISTS (SELECT 1 FROM link)"
_HAS_BLOBS: Final = (
    "SELECT EXISTS (SELECT 1 FROM blob) OR EXISTS (SELECT 1 FROM other WHERE path GLOB ?)"
)
_KEEPS_LINKS: Final = "SELECT EXISTS (SELECT 1 FROM link WHERE id NOT IN (SELECT id FROM gc_dead))"
_ASIDE: Final = f"{paths.BLOBS}/*/{paths.ASIDE}*"
_IN_PATH: Final = re.compile("/(sha256|sha384|sha512)/([0-9a-f]{64,128})(?=/)")
_RECORDS: Final = (
    "SELECT repository.name, upload FROM upload_file JOIN repository ON repository.id = repository"
    " WHERE upload_file.name = 'blobfs.json'"
)


class Entry(NamedTuple):
    """An entry of a plan. *size* is the blob's, also for a link to it.

    *due* is the time from which a blob may be deleted; links have none. *digest* is packed.
    *repository* is ``""`` for a blob whose repository is not known.
    """

    kind: str
    repository: str
    tag: str
    digest: bytes
    size: int
    reason: str
    due: float | None = None


class Sum(NamedTuple):
    """The number of entries of a kind, the bytes of blobs, and the time when the last is due."""

    repository: str
    kind: str
    number: int
    size: int
    due: float | None


Approval = Callable[[Entry], bool]
"""Decides if an entry may be in the plan. A manifest that may not keeps what it needs."""


class Plan:
    """The dead links and blobs of the last pass, as temporary tables of its journal.

    *skipped* has the reason for each repository whose links all stay, *blocked* the reason why no
    blob may be deleted, or None. A link whose removal the plan does not have keeps its blob.
    """

    def __init__(self, inventory: Inventory, ledger: Ledger, rules: Rules) -> None:
        self._inventory = inventory
        self._db = inventory.journal.db
        self.ledger = ledger
        self.rules = rules
        self.skipped: dict[str, str] = {}
        self.blocked: str | None = None
        self._unmounted: list[str] = []

    @classmethod
    def made(
        cls,
        inventory: Inventory,
        ledger: Ledger,
        rules: Rules,
        approve: Approval | None = None,
    ) -> Plan:
        """Plan by *rules* what goes; only what *approve* returns true for.

        Raises StorageUnavailable.
        """
        plan = cls(inventory, ledger, rules)
        for statement in (*_DROPPED, *_TABLES):
            plan._db.execute(statement)
        now = time.time()
        plan._check_links()
        plan._keep_named()
        ledger.forget_linked()
        if plan.blocked is None:
            ledger.note_unlinked(now)
        views = Views(inventory.storage, inventory.journal, rules)
        for view in views.recorded():
            plan._add_links(view, approve)
        plan._add_blobs(views, now)
        if approve is not None:
            plan._drop_refused(approve)
        return plan

    def entries(self) -> Iterator[Entry]:
        """Yield the entries by repository, the blobs last."""
        found = self._db.execute(
            "SELECT kind, repository, tag, digest, size, reason, due FROM gc_plan"
            " ORDER BY kind = 'blob', repository, kind, tag, digest"
        )
        return (Entry(*row) for row in found)

    def summary(self) -> list[Sum]:
        """Return the sums of the plan by repository and kind."""
        found = self._db.execute(
            "SELECT repository, kind, count(*), sum(CASE kind WHEN 'blob' THEN size ELSE 0 END),"
            " max(due) FROM gc_plan GROUP BY repository, kind ORDER BY repository, kind = 'blob'"
        )
        return [Sum(*row) for row in found]

    def links(self) -> Iterator[tuple[str, set[tuple[int, str, bytes]]]]:
        """Yield each repository with its dead links: kind, tag and digest of each."""
        names = self._db.execute(
            "SELECT DISTINCT repository FROM gc_plan WHERE kind <> 'blob' ORDER BY repository"
        ).fetchall()
        for (name,) in names:
            found = self._db.execute(
                "SELECT link_kind, tag, digest FROM gc_plan"
                " WHERE repository = ? AND kind <> 'blob'",
                (name,),
            )
            yield name, set(found)

    @property
    def removes_all_links(self) -> bool:
        """True if no link of the storage would stay."""
        return self._has(_HAS_LINKS) and not self._has(_KEEPS_LINKS)

    def due(self, now: float) -> dict[bytes, int]:
        """Return the blobs without links whose grace has ended, with their sizes.

        None of them if ``blocked``.
        """
        if self.blocked is not None:
            return {}
        found = self._db.execute(
            "SELECT digest, size FROM gc_plan WHERE kind = 'blob' AND NOT is_linked AND due <= ?",
            (now,),
        )
        return dict(found)

    def last_due(self, now: float) -> float | None:
        """Return the time at which the grace of the last blob ends, or None if there is none."""
        [found] = self._db.execute(
            "SELECT max(due) FROM gc_plan WHERE kind = 'blob' AND (is_linked OR due > ?)", (now,)
        ).fetchone()
        return found if isinstance(found, float) else None

    def set_aside_earlier(self) -> list[str]:
        """Return the paths of blobs that an interrupted run has set aside."""
        found = self._db.execute(
            "SELECT path FROM other WHERE path GLOB ? AND kind = ?",
            (_ASIDE, EntryKind.FILE),
        )
        return [path for (path,) in found]

    def empty_directories(self) -> list[str]:
        """Return the directories that ``directories.remove`` may remove."""
        return empty_directories(self._inventory.journal, self.rules.before_ns, self._unmounted)

    def exists(self, kind: str, repository: str, tag: str, digest: bytes) -> bool:
        """True if the pass has found that link or blob, planned or not."""
        if kind == BLOB:
            found = self._db.execute("SELECT 1 FROM blob WHERE digest = ? LIMIT 1", (digest,))
        else:
            number = next(number for number, name in KINDS.items() if name == kind)
            found = self._db.execute(_LINK, (repository, number, digest, tag))
        return found.fetchone() is not None

    def _add_links(self, view: RepositoryView, approve: Approval | None) -> None:
        problem = _name_problem(view.name) or next(iter(view.problems), None)
        if problem is None and self.rules.need_manifests:
            problem = old_registry_problem(view)
        if problem is not None:
            self.skipped[view.name] = problem
            return
        dead = self._dead(view)
        if approve is not None:
            refused = [
                link.target
                for link, _, entry in dead
                if link.kind == LinkKind.REVISION and not approve(entry)
            ]
            dead = [each for each in self._dead(view, refused) if approve(each[2])]
        for link, number, entry in dead:
            self._db.execute("INSERT OR IGNORE INTO gc_dead VALUES (?)", (number,))
            self._db.execute(
                "INSERT INTO gc_plan VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, 1)",
                (view.name, entry.kind, *link, entry.size, entry.reason),
            )

    def _dead(
        self, view: RepositoryView, needed: Iterable[bytes] = ()
    ) -> list[tuple[Link, int, Entry]]:
        """Return the dead links of *view* with their row numbers and entries."""
        found: list[tuple[Link, int, Entry]] = []
        for link, reason in dead_links(view, self.rules, needed):
            if link.digest is not None:  # current links never die
                number, size = self._row_of(view.name, link)
                kind = KINDS[LinkKind(link.kind)]
                entry = Entry(kind, view.name, link.tag, link.digest, size, reason)
                found.append((link, number, entry))
        return found

    def _row_of(self, repository: str, link: Link) -> tuple[int, int]:
        found: tuple[int, int] = self._db.execute(
            _LINK, (repository, link.kind, link.digest, link.tag)
        ).fetchone()
        return found

    def _has(self, question: str, *values: str) -> bool:
        return bool(self._db.execute(question, values).fetchone()[0])

    def _check_links(self) -> None:
        """Block the deletion of blobs if the links may be lost."""
        storage, ledger = self._inventory.storage, self.ledger
        driver = opened(storage)
        has_links, has_blobs = self._has(_HAS_LINKS), self._has(_HAS_BLOBS, _ASIDE)
        problem = problem_of_links(driver, ledger, has_links=has_links, has_blobs=has_blobs)
        self._unmounted = note_mounted_or_missing(storage, driver, ledger)
        self.blocked = problem_of(self._unmounted, ledger) or problem

    def _keep_named(self) -> None:
        """Keep what aliases, damaged links, stray files and records of uploads may name.

        Blocks the deletion of blobs if a link that names an unknown one could not be read.
        """
        self._db.execute(_NAMED_BY_PATHS)
        for (path,) in self._db.execute(
            "SELECT path FROM other WHERE kind = ? AND path GLOB ?",
            (EntryKind.UNREADABLE, f"{paths.REPOSITORIES}*"),
        ):
            self.blocked = f"{path} cannot be read, and may have links"
        for name, fault in self._db.execute(
            "SELECT name, fault FROM link JOIN repository ON repository.id = repository"
            " WHERE fault IS NOT NULL AND digest IS NOT NULL AND substr(digest, 1, 1) <> x'00'"
        ):
            self.blocked = f"repository {name}: {fault}, and it may be the only link of a blob"
        strays = self._db.execute(
            "SELECT path FROM other WHERE kind = ? AND path GLOB ?",
            (EntryKind.FILE, f"{paths.REPOSITORIES}*"),
        ).fetchall()
        self._keep([digest for (path,) in strays for digest in _digests_in_path(path)])
        driver = opened(self._inventory.storage)
        for name, upload in self._db.execute(_RECORDS).fetchall():
            path = f"{paths.REPOSITORIES}/{name}/_uploads/{upload}/blobfs.json"
            try:
                self._keep(blobs_in_record(driver, path))
            except AccessDenied:
                self.blocked = f"{path} cannot be read, and may name a blob"

    def _keep(self, digests: list[bytes]) -> None:
        self._db.executemany(
            "INSERT OR IGNORE INTO gc_kept VALUES (?)", ((digest,) for digest in digests)
        )

    def _add_blobs(self, views: Views, now: float) -> None:
        self._db.execute(_LIVE)
        while unread := [digest for (digest,) in self._db.execute(_UNREAD_CHILDREN)]:
            views.manifests.read(unread)
            self._db.execute(_LIVE)
        for (digest,) in self._db.execute(_LIVE_WITH_FAULTS).fetchall():
            self.blocked = views.manifests.problem(digest) or self.blocked
        grace_s = self.rules.grace_s
        self._db.execute(_DEAD_BLOBS, (now + grace_s, now, grace_s, self.rules.before_ns))

    def _drop_refused(self, approve: Approval) -> None:
        found = self._db.execute(
            "SELECT kind, repository, tag, digest, size, reason, due, rowid FROM gc_plan"
            " WHERE kind = 'blob'"
        ).fetchall()
        refused = [(number,) for *row, number in found if not approve(Entry(*row))]
        self._db.executemany("DELETE FROM gc_plan WHERE rowid = ?", refused)


def _name_problem(name: str) -> str | None:
    try:
        RepositoryName(name)
    except NameInvalid as exc:
        return str(exc)
    return None


def _digests_in_path(path: str) -> Iterator[bytes]:
    for algorithm, encoded in _IN_PATH.findall(path):
        with suppress(DigestInvalid):
            yield pack(Digest(algorithm, encoded))


def blobs_in_record(driver: StorageDriver, path: str) -> list[bytes]:
    """Return the blobs that the record of an upload names; raises AccessDenied."""
    try:
        record = UploadRecord.of_json(driver.read_at(path, 0, 2**14))
    except (PathNotFound, NotAFile):
        return []
    found = (record.digest, record.moved_to, record.target_digest)
    return [pack(digest) for digest in found if digest is not None]

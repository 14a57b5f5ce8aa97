"""Readers of one repository's links: from the journal of a pass, or from the storage now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from blobfs import paths
from blobfs.digest import CANONICAL
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.location import Location
from blobfs.inventory.journal import Journal
from blobfs.inventory.rows import LinkKind, LinkRow, OtherRow, Rows, Target, link_path, unpack
from blobfs.inventory.scanning import ACCESS_DENIED, opened, read_link_at, read_manifests, scan
from blobfs.inventory.spans import EntryKind, Span
from blobfs.logs import printable
from blobfs.maintenance.gc.rules import Link, Reference, RepositoryView, Rules

_LINK_SIZE: Final = 71
"""The bytes of a link that holds a canonical digest."""

_LINKS: Final = (
    "SELECT kind, coalesce(tag, ''), digest, target, mtime, fault FROM link"
    " WHERE repository = (SELECT id FROM repository WHERE name = ?)"
)
_REFERENCES: Final = "SELECT kind, digest FROM reference WHERE manifest = ?"
_MANIFEST: Final = "SELECT fault FROM manifest WHERE digest = ?"
_UNREADABLE: Final = "SELECT path FROM other WHERE kind = ?"


class Manifests:
    """The references in manifests. Those that the journal does not have are read and added."""

    def __init__(self, storage: Location, journal: Journal) -> None:
        self._storage = storage
        self._journal = journal

    def read(self, digests: Iterable[bytes]) -> None:
        """Read those manifests that no pass has read without a fault."""
        found = [digest for digest in digests if not self._is_read(digest)]
        for start in range(0, len(found), 256):
            self._journal.add_manifests(read_manifests(self._storage, found[start : start + 256]))

    def references(self, digest: bytes) -> list[Reference]:
        """Return the references in a manifest that was read."""
        return list(self._journal.db.execute(_REFERENCES, (digest,)))

    def fault(self, digest: bytes) -> str | None:
        """Return the fault of a manifest whose references are unknown; else None."""
        [fault] = self._journal.db.execute(_MANIFEST, (digest,)).fetchone()
        return fault if fault and not self.references(digest) else None

    def problem(self, digest: bytes) -> str | None:
        """Return why a manifest that was read may name any blob; None if it does not."""
        if self._journal.db.execute(_MANIFEST, (digest,)).fetchone() == (ACCESS_DENIED,):
            return f"manifest {unpack(digest)} {ACCESS_DENIED}, and may need any blob"
        return None

    def _is_read(self, digest: bytes) -> bool:
        return bool(self._journal.db.execute(_MANIFEST, (digest,)).fetchone() == (None,))


class Views:
    """Makes the views of repositories. Rules decide if manifests are needed."""

    def __init__(self, storage: Location, journal: Journal, rules: Rules) -> None:
        self._storage = storage
        self._journal = journal
        self._rules = rules
        self.manifests = Manifests(storage, journal)

    def recorded(self) -> Iterator[RepositoryView]:
        """Yield each repository as the pass has found it."""
        db = self._journal.db
        unreadable = [path for (path,) in db.execute(_UNREADABLE, (EntryKind.UNREADABLE,))]
        for (name,) in db.execute("SELECT name FROM repository ORDER BY name").fetchall():
            view = RepositoryView(name)
            directory = paths.repository(name)
            inside = (path for path in unreadable if path.startswith(f"{directory}/_"))
            _add_problems(view, inside)
            for *row, fault in db.execute(_LINKS, (name,)):
                if fault is None:
                    view.links.append(Link(*row))
                else:
                    view.problems.append(printable(fault))
            self._complete(view, self._rules)
            yield view

    def read(self, name: str) -> Rows:
        """Read the links of a repository from the storage now; raises StorageUnavailable.

        Several threads may do so at the same time.
        """
        return _rows_of(self._storage, name)

    def current(
        self, name: str, rows: Rows, rules: Rules, removed: Sequence[Link] = ()
    ) -> RepositoryView:
        """Return the view of *rows*, with the *removed* links as if they existed, and were old."""
        view = RepositoryView(name)
        _add_problems(view, (row.path for row in rows.others if row.kind == EntryKind.UNREADABLE))
        driver = opened(self._storage)
        for row in rows.links:
            target, fault = link_target(driver, row)
            if fault is not None:
                view.problems.append(printable(fault))
            elif target is not None:  # else it was removed meanwhile
                view.links.append(Link(row.kind, row.tag or "", row.digest, target, row.mtime))
        present = {(link.kind, link.tag, link.digest) for link in view.links}
        view.links += [each._replace(mtime=0) for each in removed if each[:3] not in present]
        self._complete(view, rules)
        return view

    def _complete(self, view: RepositoryView, rules: Rules) -> None:
        """Add the references in the manifests of *view*."""
        if not rules.need_manifests or view.problems:
            return
        roots = view.roots()
        self.manifests.read(roots)
        for digest in roots:
            if fault := self.manifests.fault(digest):
                view.problems.append(f"manifest {unpack(digest)} {fault}")
        view.references = {digest: self.manifests.references(digest) for digest in roots}


def _add_problems(view: RepositoryView, unreadable: Iterable[str]) -> None:
    view.problems += [f"{printable(path)} cannot be read" for path in unreadable]


def _rows_of(storage: Location, name: str) -> Rows:
    """Return the rows of the links of one repository, without those of repositories below it."""
    found = Rows()
    for part in ("_layers", "_manifests"):
        rest: Span | None = Span(f"{paths.repository(name)}/{part}")
        while rest is not None:
            step = scan(storage, (0, rest))
            found.links += step.rows.links
            found.others += step.rows.others
            rest = step.rest
    return found


def link_target(driver: StorageDriver, row: LinkRow) -> Target:
    """Return the content of a link; it is read if its listing does not show it."""
    if row.target is not None or row.fault is not None:
        return Target(row.target, row.fault)
    if row.digest is not None:
        is_canonical = unpack(row.digest).algorithm == CANONICAL
        if row.kind == LinkKind.SIGNATURE or (is_canonical and row.size == _LINK_SIZE):
            return Target(row.digest)
    return read_link_at(driver, link_path(row.repository, row.kind, row.tag, row.digest))


def is_unreadable_link_path(row: OtherRow) -> bool:
    """True if links may be below a path that could not be read."""
    return row.kind == EntryKind.UNREADABLE and row.path.startswith(paths.REPOSITORIES)

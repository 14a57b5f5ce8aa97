"""The content of a storage, as an inventory has found it: no request for any question."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from blobfs import paths
from blobfs.concurrency import CallLock
from blobfs.digest import ALGORITHMS, Descriptor, Digest
from blobfs.drivers.location import Location
from blobfs.errors import (
    BlobUnknown,
    LinkDangling,
    LinkInvalid,
    ManifestInvalid,
    ManifestUnknown,
    MountRefused,
    RepositoryUnknown,
    TagUnknown,
)
from blobfs.inventory.inventory import Inventory, Progress
from blobfs.inventory.journal import Journal
from blobfs.inventory.rows import LinkKind, pack, unpack
from blobfs.inventory.scanning import ReferenceKind, ReferenceRow
from blobfs.inventory.spans import EntryKind
from blobfs.reference import Tag, is_repository_name
from blobfs.transfer.base import Outline
from blobfs.transfer.outlines import outline
from blobfs.transfer.views import StorageView

log = logging.getLogger(__name__)

_CACHE_KIB: Final = 16 * 1024
"""SQLite's page cache for single rows. A pass, which sorts, has more."""


class SurveyedView(StorageView):
    """The content of a storage as *inventory* has found it, which it closes.

    What was noted since is a part of it. Thread-safe: ``_querying`` is for the connection.
    """

    def __init__(self, inventory: Inventory) -> None:
        super().__init__()
        self._inventory = inventory
        self._db = inventory.journal.db
        self._db.executescript(f"PRAGMA cache_size = -{_CACHE_KIB}; PRAGMA shrink_memory")
        self._querying = CallLock()
        self._numbers: dict[str, int] = dict(self._rows("SELECT name, id FROM repository"))
        self.unreadable = {
            path.removeprefix(f"{paths.REPOSITORIES}/").partition("/_")[0]
            for (path,) in self._rows(
                "SELECT path FROM other WHERE kind = ? AND path GLOB ?",
                int(EntryKind.UNREADABLE),
                f"{paths.REPOSITORIES}/*",
            )
        }
        self._db.execute("BEGIN")  # the notes are for this process, and are never committed
        empty = [pack(Digest.of(b"", algorithm)) for algorithm in ALGORITHMS]
        self._db.execute("DELETE FROM blob WHERE size = 0 AND digest NOT IN (?, ?, ?)", empty)

    def _rows(self, query: str, *arguments: object) -> list[Any]:
        with self._querying:
            return self._db.execute(query, arguments).fetchall()

    def _first(self, query: str, *arguments: object) -> Any:  # noqa: ANN401  (a row of any query)
        return next(iter(self._rows(f"{query} LIMIT 1", *arguments)), None)

    def repositories(self) -> Sequence[str]:
        return sorted(filter(is_repository_name, {*self._numbers, *self.unreadable}))

    def _number(self, repository: str) -> int:
        try:
            return self._numbers[repository]
        except KeyError:
            raise RepositoryUnknown(repository) from None

    def tags(self, repository: str) -> Iterator[Tag]:
        query = "SELECT tag FROM link WHERE repository = ? AND kind = ?"
        found = self._rows(query, self._number(repository), LinkKind.CURRENT)
        return (Tag(tag) for (tag,) in found)

    def tagged(self, repository: str, tag: Tag) -> Digest:
        target, fault, _ = self._current(repository, tag)
        if target is None:
            raise LinkInvalid(fault or f"tag {repository}:{tag} was not read")
        return unpack(target)

    def tagged_ns(self, repository: str, tag: Tag) -> int:
        return int(self._current(repository, tag)[2])

    def _current(self, repository: str, tag: Tag) -> tuple[bytes | None, str | None, int]:
        found: tuple[bytes | None, str | None, int] | None = self._first(
            "SELECT target, fault, mtime FROM link WHERE repository = ? AND tag = ? AND kind = ?",
            self._numbers.get(repository),
            tag,
            LinkKind.CURRENT,
        )
        if found is None:
            raise TagUnknown(tag)
        return found

    def history(self, repository: str, tag: Tag) -> Sequence[Digest]:
        found = self._rows(
            "SELECT digest FROM link WHERE repository = ? AND tag = ? AND kind = ? ORDER BY mtime",
            self._numbers.get(repository),
            tag,
            LinkKind.INDEX,
        )
        return [unpack(digest) for (digest,) in found]

    def digests(self, repository: str, kind: LinkKind) -> Iterator[Digest]:
        query = "SELECT digest FROM link WHERE repository = ? AND kind = ?"
        return (unpack(digest) for (digest,) in self._rows(query, self._number(repository), kind))

    def referrers(self, repository: str, digest: Digest) -> Sequence[Digest]:
        found = self._rows(
            "SELECT link.digest FROM reference JOIN link ON link.target = reference.manifest"
            " WHERE reference.digest = ? AND reference.kind = ?"
            " AND link.repository = ? AND link.kind = ?",
            pack(digest),
            ReferenceKind.SUBJECT,
            self._numbers.get(repository),
            LinkKind.REVISION,
        )
        return [unpack(each) for (each,) in found]

    def outline(self, repository: str, digest: Digest) -> Outline:
        try:
            target = pack(self.resolve(repository, LinkKind.REVISION, digest))
        except BlobUnknown:
            raise ManifestUnknown(digest) from None
        found = self._first("SELECT media_type, size, fault FROM manifest WHERE digest = ?", target)
        if found is None:
            return super().outline(repository, digest)
        media_type, size, fault = found
        if fault is not None:
            raise ManifestInvalid(f"manifest {digest} {fault}")
        rows = self._rows(
            "SELECT kind, digest, size, detail FROM reference WHERE manifest = ? ORDER BY position",
            target,
        )
        references = [ReferenceRow(*row) for row in rows]
        layers = self._layers_among_children(repository, references)
        return outline(Descriptor(digest, size, media_type), references, layers)

    def _layers_among_children(
        self, repository: str, references: Sequence[ReferenceRow]
    ) -> set[Digest]:
        """The children of an index that are layers of the repository, as in a build cache."""
        children = [unpack(row.digest) for row in references if row.kind == ReferenceKind.CHILD]
        layers = self.sizes(repository, LinkKind.LAYER, children).keys()
        return layers - self.sizes(repository, LinkKind.REVISION, children).keys()

    def resolve(self, repository: str, kind: LinkKind, digest: Digest) -> Digest:
        found = self._first(
            "SELECT target, fault FROM link WHERE repository = ? AND kind = ? AND digest = ?",
            self._numbers.get(repository),
            kind,
            pack(digest),
        )
        if found is None:
            raise BlobUnknown(digest)
        target, fault = found
        if target is None:
            raise LinkInvalid(fault or f"link {digest} of {repository} was not read")
        return unpack(target)

    def size(self, repository: str, digest: Digest) -> int:
        target = self.resolve(repository, LinkKind.LAYER, digest)
        size = self.stored_size(target)
        if size is None:
            raise LinkDangling(f"a link of {repository} names {target}, which is missing or empty")
        return size

    def sizes(
        self, repository: str, kind: LinkKind, digests: Sequence[Digest]
    ) -> Mapping[Digest, int]:
        number = self._numbers.get(repository)
        query = (
            "SELECT blob.size FROM link JOIN blob ON blob.digest = target"
            " WHERE repository = ? AND kind = ? AND link.digest = ? LIMIT 1"
        )
        with self._querying:
            found = [
                (digest, self._db.execute(query, (number, int(kind), pack(digest))).fetchone())
                for digest in digests
            ]
        return {digest: row[0] for digest, row in found if row is not None}

    def stored_size(self, digest: Digest) -> int | None:
        found = self._first("SELECT size FROM blob WHERE digest = ?", pack(digest))
        return None if found is None else int(found[0])

    def note_link(self, repository: str, kind: LinkKind, digest: Digest, target: Digest) -> None:
        key = (self._made_number(repository), int(kind), pack(digest))
        with self._querying:
            self._db.execute(
                "DELETE FROM link WHERE repository = ? AND kind = ? AND digest = ?", key
            )
            self._db.execute(
                "INSERT INTO link (repository, kind, digest, target) VALUES (?, ?, ?, ?)",
                (*key, pack(target)),
            )

    def note_blob(self, digest: Digest, size: int) -> None:
        with self._querying:
            self._db.execute("DELETE FROM blob WHERE digest = ?", (pack(digest),))
            self._db.execute("INSERT INTO blob VALUES (?, ?, 0)", (pack(digest), size))

    def note_tag(self, repository: str, tag: Tag, digest: Digest | None) -> None:
        key = (self._made_number(repository), tag)
        with self._querying:
            if digest is None:
                self._db.execute("DELETE FROM link WHERE repository = ? AND tag = ?", key)
                return
            current = (*key, int(LinkKind.CURRENT))
            self._db.execute(
                "DELETE FROM link WHERE repository = ? AND tag = ? AND kind = ?", current
            )
            self._db.execute(
                "INSERT INTO link (repository, tag, kind, target, mtime) VALUES (?, ?, ?, ?, ?)",
                (*current, pack(digest), time.time_ns()),
            )

    def _made_number(self, repository: str) -> int:
        """The number of a repository, which may be new."""
        number = self._numbers.get(repository)
        if number is None:
            with self._querying:
                self._db.execute(
                    "INSERT OR IGNORE INTO repository (name) VALUES (?)", (repository,)
                )
                query = "SELECT id FROM repository WHERE name = ?"
                [number] = self._db.execute(query, (repository,)).fetchone()
            self._numbers[repository] = number
        return int(number)

    def close(self) -> None:
        self._inventory.close()


def survey_source(storage: Location, state: Path | None, progress: Progress) -> Inventory:
    """Take the inventory of a source, with the manifests that earlier ones in *state* have read.

    Another process may use *state*, or it may be of another version: then no file is used.
    """
    try:
        return Inventory.taken(storage, state=state, progress=progress)
    except MountRefused as exc:
        if state is None:
            raise
        log.info("%s; all manifests are read", exc)
        return Inventory.taken(storage, progress=progress)


def empty_inventory(storage: Location) -> Inventory:
    """Return the inventory of a storage that does not exist yet."""
    journal = Journal.opened(None, storage.url)
    journal.begin(storage.url, ())
    journal.end()
    return Inventory(storage, journal)

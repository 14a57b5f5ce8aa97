"""The disk usage of repositories, prefixes and tags, with each blob counted once.

``du`` on the storage counts bytes per directory, and no blob is in a repository's directory. The
usage of a set of repositories has three sizes:

- *size*: the blobs that the set links, each once;
- *freed*: those that nothing outside of the set links, so the bytes that its removal frees;
- *shared*: the rest.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Final

from blobfs.concurrency import SingleFlight, guard
from blobfs.drivers.location import Location
from blobfs.inventory.inventory import Depth, Inventory
from blobfs.inventory.rows import LinkKind
from blobfs.inventory.scanning import ReferenceKind
from blobfs.inventory.spans import EntryKind

_HOLDING: Final = (LinkKind.LAYER, LinkKind.REVISION, LinkKind.SIGNATURE)
"""Links that keep a blob; a tag's links name revisions."""

_KEPT_S: Final = 600.0
"""Time for which a mount shows the usage that a pass has found."""

_HELD: Final = """
SELECT link.target, blob.size, link.repository
FROM link JOIN blob ON blob.digest = link.target
WHERE link.kind IN (?, ?, ?)
ORDER BY link.target
"""
_COUNTED: Final = """
SELECT repository.id, name, count(*) FILTER (WHERE kind = ?), count(*) FILTER (WHERE kind = ?)
FROM repository LEFT JOIN link ON link.repository = repository.id
GROUP BY repository.id ORDER BY name
"""
_UNLINKED: Final = """
SELECT coalesce(sum(size), 0) FROM blob
WHERE NOT EXISTS (SELECT 1 FROM link WHERE target = blob.digest AND kind IN (?, ?, ?))
"""
_UNREADABLE: Final = "SELECT path FROM other WHERE kind = ? ORDER BY path"
_TAGGED: Final = """
SELECT tag, target FROM link JOIN repository ON repository.id = link.repository
WHERE name = ? AND kind = ? ORDER BY tag
"""
_REACHED: Final = """
WITH RECURSIVE reached (digest) AS (
    VALUES (?)
    UNION
    SELECT reference.digest FROM reference JOIN reached ON manifest = reached.digest
    WHERE reference.kind <> ?
)
SELECT blob.digest, blob.size FROM reached JOIN blob ON blob.digest = reached.digest
"""
_HELD_ELSEWHERE: Final = """
SELECT 1 FROM link JOIN repository ON repository.id = link.repository
WHERE target = ? AND kind IN (?, ?, ?) AND name <> ? LIMIT 1
"""


@dataclass(slots=True, eq=False)
class Usage:
    """The usage of a repository, a prefix of names, or a tag; sizes in bytes."""

    name: str
    layers: int = 0
    tags: int = 0
    size: int = 0
    freed: int = 0

    @property
    def shared(self) -> int:
        """Bytes of the blobs that others link too."""
        return self.size - self.freed


@dataclass(frozen=True, slots=True)
class StorageUsage:
    """The usage of a whole storage; sizes in bytes.

    *repositories* has the usage of each by itself, *prefixes* that of each prefix of names with
    everything below it. *unlinked* blobs are in no repository, *uploads* are files of open uploads.
    Everything below the *unreadable* paths is not counted.
    """

    repositories: dict[str, Usage]
    prefixes: dict[str, Usage]
    layers: int
    tags: int
    blobs: int
    size: int
    unlinked: int
    uploads: int
    unreadable: tuple[str, ...]

    def of(self, prefix: str) -> Usage:
        """Return the usage of a prefix with everything below it, or of all for ``""``.

        It is zero for a name that the storage does not have.
        """
        if not prefix:
            return Usage("", self.layers, self.tags, self.size, self.size)
        return self.prefixes.get(prefix) or Usage(prefix)


def of_storage(inventory: Inventory) -> StorageUsage:
    """Compute the usage of every repository and every prefix."""
    db = inventory.journal.db
    repositories: dict[str, Usage] = {}
    prefixes: dict[str, Usage] = {}
    counted_in: dict[int, list[Usage]] = {}
    for number, name, layers, tags in db.execute(_COUNTED, (LinkKind.LAYER, LinkKind.CURRENT)):
        repositories[name] = Usage(name, layers, tags)
        counted_in[number] = [repositories[name]]
        for prefix in _with_parents(name):
            usage = prefixes.setdefault(prefix, Usage(prefix))
            usage.layers += layers
            usage.tags += tags
            counted_in[number].append(usage)
    for _, rows in groupby(db.execute(_HELD, _HOLDING), itemgetter(0)):
        _count_blob(rows, counted_in)
    [[blobs, size]] = db.execute("SELECT count(*), coalesce(sum(size), 0) FROM blob")
    [[unlinked]] = db.execute(_UNLINKED, _HOLDING)
    [[uploads]] = db.execute("SELECT coalesce(sum(size), 0) FROM upload_file")
    layers = sum(usage.layers for usage in repositories.values())
    tags = sum(usage.tags for usage in repositories.values())
    unreadable = tuple(path for (path,) in db.execute(_UNREADABLE, (EntryKind.UNREADABLE,)))
    return StorageUsage(
        repositories, prefixes, layers, tags, blobs, size, unlinked, uploads, unreadable
    )


class RecentUsage:
    """The usage of a storage, by a pass that is made when it is asked for. Thread-safe.

    The result is kept for ``_KEPT_S``. The guard is not held during a pass.
    """

    def __init__(self, storage: Location) -> None:
        self._storage = storage
        self._passes: SingleFlight[str, StorageUsage] = SingleFlight()
        self._lock = guard()
        self._found: StorageUsage | None = None
        self._until = 0.0  # monotonic

    def of_storage(self) -> StorageUsage:
        """Return the usage that was found last, or make a pass; raises StorageUnavailable."""
        return self._recent() or self._passes.run("", self._passed)

    def _recent(self) -> StorageUsage | None:
        with self._lock:
            return self._found if time.monotonic() < self._until else None

    def _passed(self) -> StorageUsage:
        if (found := self._recent()) is not None:
            return found
        with Inventory.taken(self._storage, depth=Depth.LINKS) as inventory:
            found = of_storage(inventory)
        with self._lock:
            self._found, self._until = found, time.monotonic() + _KEPT_S
        return found


def _count_blob(
    rows: Iterable[tuple[bytes, int, int]], counted_in: Mapping[int, Sequence[Usage]]
) -> None:
    """Add a blob to the usage of everything that links it; *rows* are its links."""
    sizes = {repository: size for _, size, repository in rows}
    touched = Counter(usage for repository in sizes for usage in counted_in[repository])
    size = next(iter(sizes.values()))
    for usage, links in touched.items():
        usage.size += size
        if links == len(sizes):
            usage.freed += size


def _with_parents(name: str) -> Iterator[str]:
    """Yield *name* and each prefix of it that ends before a slash."""
    while name:
        yield name
        name = name.rpartition("/")[0]


def of_tags(inventory: Inventory, repository: str) -> list[Usage]:
    """Compute the usage of each tag, in the order of their names.

    Its size is that of the manifests and blobs that it leads to. Freed is what no other tag of the
    repository leads to and no other repository links: what a collection of untagged manifests and
    of unneeded layers can remove once the tag is gone.
    """
    db = inventory.journal.db
    reached = {
        tag: dict(db.execute(_REACHED, (target, ReferenceKind.SUBJECT)).fetchall())
        for tag, target in db.execute(_TAGGED, (repository, LinkKind.CURRENT)).fetchall()
    }
    tags_of = Counter(digest for sizes in reached.values() for digest in sizes)

    def is_freed(digest: bytes) -> bool:
        return (
            tags_of[digest] == 1
            and not db.execute(_HELD_ELSEWHERE, (digest, *_HOLDING, repository)).fetchone()
        )

    return [
        Usage(
            tag,
            layers=len(sizes),
            tags=1,
            size=sum(sizes.values()),
            freed=sum(size for digest, size in sizes.items() if is_freed(digest)),
        )
        for tag, sizes in reached.items()
    ]

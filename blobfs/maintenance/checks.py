"""The checks of ``verify`` that need no more than an inventory, each a question in SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from sqlite3 import Connection
from typing import Any, Final

from blobfs import paths
from blobfs.digest import ALGORITHMS, Digest
from blobfs.inventory.rows import LinkKind, link_path, pack, unpack
from blobfs.inventory.scanning import ReferenceKind
from blobfs.inventory.spans import EntryKind
from blobfs.maintenance.faults import Fault, FaultKind
from blobfs.reference import is_repository_name

_LAYER, _REVISION = int(LinkKind.LAYER), int(LinkKind.REVISION)

Check = Callable[[Connection], Iterator[Fault]]


def _rows(db: Connection, question: str, **values: int | bytes) -> list[tuple[Any, ...]]:
    """Return the answers; they are few, as each becomes a line of a report."""
    return db.execute(question, values).fetchall()


_INVALID_LINKS: Final = """
SELECT name, kind, tag, digest, fault FROM link JOIN repository ON repository.id = repository
WHERE fault IS NOT NULL
"""
_ELSEWHERE: Final = """
SELECT name, kind, tag, digest, target FROM link JOIN repository ON repository.id = repository
WHERE digest <> target AND substr(digest, 1, 1) = substr(target, 1, 1)
"""


def invalid_links(db: Connection) -> Iterator[Fault]:
    """Find links that do not hold one digest, or another than their path has."""
    for name, kind, tag, digest, fault in _rows(db, _INVALID_LINKS):
        path = link_path(name, kind, tag, digest)
        yield Fault(FaultKind.LINK_INVALID, path, fault, name, _text(digest), path)
    for name, kind, tag, digest, target in _rows(db, _ELSEWHERE):
        path = link_path(name, kind, tag, digest)
        detail = f"it holds {unpack(target)}"
        yield Fault(FaultKind.LINK_ELSEWHERE, path, detail, name, _text(digest), path)


_DANGLING: Final = """
SELECT name, link.digest, target, (
    SELECT min(manifest.kind) FROM reference
    JOIN link AS manifest ON manifest.target = reference.manifest AND manifest.kind IN (1, 2)
    WHERE reference.digest IN (link.digest, link.target)
    AND manifest.repository = link.repository
)
FROM link JOIN repository ON repository.id = repository
WHERE kind = :kind AND target NOT IN (SELECT digest FROM blob)
ORDER BY name
"""
_UNKNOWN_MANIFESTS: Final = """
SELECT name FROM repository WHERE NOT EXISTS (SELECT 1 FROM blob) UNION
SELECT name FROM link JOIN repository ON repository.id = repository
WHERE kind IN (1, 2) AND (
    fault IS NOT NULL OR target NOT IN (SELECT digest FROM blob) OR target IN (
        SELECT digest FROM manifest
        WHERE fault IS NOT NULL AND digest NOT IN (SELECT manifest FROM reference)
    )
)
"""


def dangling_links(db: Connection) -> Iterator[Fault]:
    """Find links of layers and of revisions whose blob is gone.

    A layer that a revision needs is found by ``references`` too, and is left to that. If a manifest
    of the repository cannot be read, or all blobs are missing, each layer may be needed.
    """
    unknown = set(_with_unknown_manifests(db))
    for name, digest, target, needed_by in _rows(db, _DANGLING, kind=_LAYER):
        if needed_by is None and name not in unknown:
            yield _without_blob(FaultKind.LINK_LEFT_OVER, name, _LAYER, digest, target)
        elif needed_by != _REVISION:
            found = _without_blob(FaultKind.BLOB_MISSING, name, _LAYER, digest, target)
            yield replace(found, detail="linked, and a manifest that cannot be read may need it")
    for name, digest, target, _ in _rows(db, _DANGLING, kind=_REVISION):
        yield _without_blob(FaultKind.MANIFEST_MISSING, name, _REVISION, digest, target)


def _with_unknown_manifests(db: Connection) -> Iterator[str]:
    """Yield the repositories whose manifests may need more than the references show."""
    for (name,) in _rows(db, _UNKNOWN_MANIFESTS):
        yield name
    for (path,) in _rows(db, "SELECT path FROM other WHERE kind = :k", k=EntryKind.UNREADABLE):
        name, manifests, _ = path.removeprefix(f"{paths.REPOSITORIES}/").partition("/_manifests")
        if manifests:
            yield name


def _without_blob(kind: FaultKind, name: str, link: int, digest: bytes, target: bytes) -> Fault:
    path = link_path(name, link, None, digest)
    return Fault(
        kind,
        path if kind is FaultKind.LINK_LEFT_OVER else f"{name}@{unpack(digest)}",
        "",
        name,
        str(unpack(target)),
        present=(path,),
        absent=(paths.blob_data(unpack(target)),),
    )


_INVALID_MANIFESTS: Final = """
SELECT DISTINCT name, link.digest, target, manifest.fault
FROM manifest JOIN link ON target = manifest.digest JOIN repository ON repository.id = repository
WHERE manifest.fault IS NOT NULL AND kind = 1 AND target IN (SELECT digest FROM blob)
"""


def invalid_manifests(db: Connection) -> Iterator[Fault]:
    """Find revisions whose blob is no manifest, or cannot be read."""
    for name, digest, target, fault in _rows(db, _INVALID_MANIFESTS):
        place = f"{name}@{unpack(digest)}"
        path = link_path(name, _REVISION, None, digest)
        yield Fault(FaultKind.MANIFEST_INVALID, place, fault, name, _text(target), present=(path,))


_MISSING: Final = """
SELECT name, revision.digest, reference.digest, reference.kind,
    reference.digest IN (SELECT digest FROM blob)
FROM link AS revision
JOIN repository ON repository.id = revision.repository
JOIN reference ON manifest = revision.target
WHERE revision.kind = 1 AND reference.kind IN (0, 1, 2)
AND NOT EXISTS (
    SELECT 1 FROM link JOIN blob ON blob.digest = link.target
    WHERE link.repository = revision.repository AND link.kind IN (0, 1)
    AND link.digest = reference.digest
)
"""


def references(db: Connection) -> Iterator[Fault]:
    """Find what manifests need and their repository does not have."""
    for name, manifest, digest, kind, is_stored in _rows(db, _MISSING):
        needed = unpack(digest)
        revision = link_path(name, _REVISION, None, manifest)
        layer = link_path(name, _LAYER, None, digest)
        is_child = kind == ReferenceKind.CHILD
        own = link_path(name, _REVISION if is_child else _LAYER, None, digest)
        found = Fault(
            FaultKind.BLOB_UNLINKED,
            f"{name}@{needed}",
            f"{ReferenceKind(kind).name.lower()} of {unpack(manifest)}",
            name,
            str(needed),
            own,
            present=(revision, paths.blob_data(needed)),
            absent=(own, layer),
        )
        if not is_stored:
            missing = FaultKind.CHILD_MISSING if is_child else FaultKind.BLOB_MISSING
            gone = (paths.blob_data(needed),)
            found = replace(found, kind=missing, present=(revision,), absent=gone)
        yield found


_SUBJECTS: Final = """
SELECT name, revision.digest, reference.digest
FROM link AS revision
JOIN repository ON repository.id = revision.repository
JOIN reference ON manifest = revision.target
WHERE revision.kind = 1 AND reference.kind = 3
AND NOT EXISTS (
    SELECT 1 FROM link WHERE link.repository = revision.repository AND link.kind = 1
    AND link.digest = reference.digest
)
"""


def subjects(db: Connection) -> Iterator[Fault]:
    """Find referrers whose subject the repository does not have."""
    for name, referrer, subject in _rows(db, _SUBJECTS):
        place = f"{name}@{unpack(referrer)}"
        yield Fault(
            FaultKind.SUBJECT_MISSING,
            place,
            f"subject {unpack(subject)}",
            name,
            _text(referrer),
            present=(link_path(name, _REVISION, None, referrer),),
            absent=(link_path(name, _REVISION, None, subject),),
        )


_SIZES: Final = """
SELECT blob.digest, blob.size, min(reference.size), count(DISTINCT manifest)
FROM reference JOIN blob ON blob.digest = reference.digest
WHERE kind IN (0, 1, 2) AND reference.size <> blob.size
GROUP BY blob.digest
"""
_EMPTY: Final = "SELECT digest FROM blob WHERE size = 0"


def sizes(db: Connection) -> Iterator[Fault]:
    """Find blobs that are empty, or of another size than manifests say."""
    empty = {digest for (digest,) in _rows(db, _EMPTY)}
    empty -= {pack(Digest.of(b"", algorithm)) for algorithm in ALGORITHMS}
    for digest in sorted(empty):
        yield _of_blob(FaultKind.BLOB_EMPTY, digest)
    for digest, size, wanted, manifests in _rows(db, _SIZES):
        if digest not in empty:
            detail = f"{size} bytes, and {wanted} in {manifests} manifest(s)"
            yield replace(_of_blob(FaultKind.BLOB_SIZE, digest, detail), size=wanted)


def _of_blob(kind: FaultKind, packed: bytes, detail: str = "") -> Fault:
    digest = unpack(packed)
    path = paths.blob_data(digest)
    return Fault(kind, str(digest), detail, digest=str(digest), present=(path,))


_ORPHANS: Final = """
SELECT digest, size FROM blob WHERE mtime < :before
AND NOT EXISTS (SELECT 1 FROM link WHERE target = blob.digest AND kind <> 3)
AND NOT EXISTS (SELECT 1 FROM reference WHERE reference.digest = blob.digest)
AND digest NOT IN (SELECT digest FROM link WHERE fault IS NOT NULL AND digest IS NOT NULL)
"""


def orphans(db: Connection, before_ns: int) -> Iterator[Fault]:
    """Find blobs that no repository links and no manifest needs, stored before a time."""
    for digest, size in _rows(db, _ORPHANS, before=before_ns):
        yield _of_blob(FaultKind.BLOB_ORPHAN, digest, f"{size} bytes")


_CONTENT: Final = "SELECT digest, fault FROM hashed WHERE fault IS NOT NULL"


def contents(db: Connection) -> Iterator[Fault]:
    """Find blobs whose bytes do not have their digest, if blobs were hashed."""
    for digest, fault in _rows(db, _CONTENT):
        yield _of_blob(FaultKind.BLOB_CONTENT, digest, fault)


_TAGS: Final = """
SELECT name, current.tag, current.target
FROM link AS current JOIN repository ON repository.id = current.repository
WHERE current.kind = 2 AND current.target IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM link WHERE link.repository = current.repository AND link.kind IN (0, 1)
    AND link.digest = current.target
)
"""
_OWNERS: Final = """
SELECT name FROM link JOIN repository ON repository.id = repository
WHERE target = :digest AND kind = 1 LIMIT 3
"""
_UNSET: Final = """
SELECT name, history.tag, min(history.digest)
FROM link AS history JOIN repository ON repository.id = history.repository
WHERE history.kind = 3 AND NOT EXISTS (
    SELECT 1 FROM link WHERE link.repository = history.repository AND link.tag = history.tag
    AND link.kind = 2
)
GROUP BY name, history.tag
HAVING max(history.mtime) < (SELECT (began - 3600) * 1e9 FROM pass)
"""
"""A registry writes the history first, so a young tag may be about to get its current link."""

_HISTORY: Final = """
SELECT name, current.tag, current.target
FROM link AS current JOIN repository ON repository.id = current.repository
WHERE current.kind = 2 AND current.target IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM link WHERE link.repository = current.repository AND link.tag = current.tag
    AND link.kind = 3 AND link.digest = current.target
)
"""


def tags(db: Connection) -> Iterator[Fault]:
    """Find tags of missing revisions, and tags and histories that do not belong together."""
    for name, tag, target in _rows(db, _TAGS):
        owners = [owner for (owner,) in _rows(db, _OWNERS, digest=target)]
        detail = f"{unpack(target)}" + (f", a revision of {', '.join(owners)}" if owners else "")
        gone = (link_path(name, _REVISION, None, target), link_path(name, _LAYER, None, target))
        yield _of_tag(FaultKind.TAG_DANGLING, (name, tag, target), detail, *gone)
    for name, tag, past in _rows(db, _UNSET):
        current = (link_path(name, int(LinkKind.CURRENT), tag, None),)
        history = (link_path(name, int(LinkKind.INDEX), tag, past),)
        place = f"{name}:{tag}"
        yield Fault(FaultKind.TAG_UNSET, place, "", name, present=history, absent=current)
    for name, tag, target in _rows(db, _HISTORY):
        entry = link_path(name, int(LinkKind.INDEX), tag, target)
        yield _of_tag(FaultKind.TAG_HISTORY, (name, tag, target), str(unpack(target)), entry)


def _of_tag(kind: FaultKind, tagged: tuple[str, str, bytes], detail: str, *absent: str) -> Fault:
    """Return a fault of a tag that should have the first link of *absent*."""
    name, tag, target = tagged
    current = link_path(name, int(LinkKind.CURRENT), tag, None)
    place, digest = f"{name}:{tag}", str(unpack(target))
    return Fault(kind, place, detail, name, digest, absent[0], present=(current,), absent=absent)


_OTHERS: Final = "SELECT path, kind FROM other"


def others(db: Connection) -> Iterator[Fault]:
    """Find paths that a registry does not store, cannot read, or has left empty."""
    for path, kind in _rows(db, _OTHERS):
        found = _other(path, EntryKind(kind))
        if found is not None:
            yield Fault(found, path, present=(path,))
    for (name,) in _rows(db, "SELECT name FROM repository"):
        if not is_repository_name(name):
            path = paths.repository(name)
            yield Fault(FaultKind.REPOSITORY_NAME, name, "", name, present=(path,))


def _other(path: str, kind: EntryKind) -> FaultKind | None:
    """Return the fault of a path that is neither a blob nor a link; None if it has none."""
    if kind is EntryKind.EMPTY_DIRECTORY:
        return _empty_directory(path)
    if kind is EntryKind.UNREADABLE:
        return FaultKind.UNREADABLE
    if "/_trash/" in path:
        return None
    name = path.rpartition("/")[2]
    is_aside = name.startswith(paths.ASIDE) or name == "data.damaged"
    return FaultKind.BLOB_ASIDE if path.startswith(paths.BLOBS) and is_aside else FaultKind.STRAY


def _empty_directory(path: str) -> FaultKind | None:
    """Return the fault; None for what a registry leaves behind when it deletes a file."""
    if path.rpartition("/")[2] in {"data", "link"}:
        return FaultKind.STRAY
    below = path.removeprefix(paths.REPOSITORIES)
    return FaultKind.REPOSITORY_EMPTY if below != path and "/_" not in below else None


def _text(digest: bytes | None) -> str:
    return "" if digest is None else str(unpack(digest))


CHECKS: Final[tuple[Check, ...]] = (
    invalid_links,
    dangling_links,
    invalid_manifests,
    references,
    subjects,
    sizes,
    contents,
    tags,
    others,
)
"""All checks but ``orphans``, which needs a time."""

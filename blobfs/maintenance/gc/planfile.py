"""The plan as a file of JSON lines, which a person can read, edit and have applied."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

from blobfs.digest import Digest
from blobfs.errors import DigestInvalid, MountRefused
from blobfs.inventory.rows import pack, unpack
from blobfs.maintenance.gc.plan import BLOB, KINDS, Entry, Plan
from blobfs.timestamps import format_seconds


class Key(NamedTuple):
    """The identity of an entry. A blob has no repository, since its last one may differ."""

    kind: str
    repository: str
    tag: str
    digest: bytes

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """Return the key of an entry."""
        repository = "" if entry.kind == BLOB else entry.repository
        return cls(entry.kind, repository, entry.tag, entry.digest)

    def __str__(self) -> str:
        place = f"{self.repository}:{self.tag} " if self.tag else f"{self.repository} "
        return f"{self.kind} {place.lstrip()}{unpack(self.digest)}"


class PlanFile:
    """The entries that a person has approved."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = set(keys)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a plan; raises MountRefused with the line that is wrong, OSError."""
        return cls(_keys(path))

    def approve(self, entry: Entry) -> bool:
        """True if the file has *entry*."""
        return Key.of(entry) in self._keys

    def refused(self, plan: Plan) -> list[Key]:
        """Return the approved entries that exist, and that *plan* does not have."""
        planned = map(Key.of, plan.entries())
        return [key for key in sorted(self._keys.difference(planned)) if plan.exists(*key)]


def write(path: Path, entries: Iterable[Entry]) -> None:
    """Write *entries* to a new file, or replace it; raises OSError."""
    with path.open("w", encoding="ascii") as file:
        file.writelines(f"{json.dumps(_document(entry))}\n" for entry in entries)


def _document(entry: Entry) -> dict[str, str | int]:
    texts = {"kind": entry.kind, "repository": entry.repository, "tag": entry.tag}
    found: dict[str, str | int] = {key: text for key, text in texts.items() if text}
    found |= {"digest": str(unpack(entry.digest)), "size": entry.size, "reason": entry.reason}
    if entry.due is not None:
        found["due"] = format_seconds(entry.due) or ""
    return found


def _keys(path: Path) -> Iterator[Key]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if line.strip() and not line.startswith("#"):
                try:
                    yield _key(json.loads(line))
                except (ValueError, RecursionError, DigestInvalid) as exc:
                    raise MountRefused(
                        f"{path}:{number}: {exc}; give a line that --plan has written"
                    ) from None


def _key(document: object) -> Key:
    match document:
        case {"kind": str(kind), "digest": str(digest), **rest} if kind in {BLOB, *KINDS.values()}:
            repository, tag = rest.get("repository", ""), rest.get("tag", "")
            if isinstance(repository, str) and isinstance(tag, str):
                packed = pack(Digest.parse(digest))
                return Key(kind, "" if kind == BLOB else repository, tag, packed)
    raise ValueError("not an entry of a plan")

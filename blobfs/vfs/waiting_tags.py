"""Tags, and entries of their history, that a program has copied before the revisions."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass
from typing import Final

from blobfs.concurrency import guard
from blobfs.digest import Digest
from blobfs.errors import (
    BlobfsError,
    BlobUnknown,
    Corrupt,
    NameInvalid,
    StorageFull,
    TagUnknown,
)
from blobfs.logs import about
from blobfs.reference import Tag
from blobfs.storage.repository import Repository
from blobfs.vfs.kept_tags import WaitingRow

log = logging.getLogger(__name__)

_MOST: Final = 100_000
"""Maximum number of waiting tags and entries of one repository (about 500 bytes each)."""

_TEMPORARY: Final = re.compile(r"\.(?P<tag>.+)\.[A-Za-z0-9]{6}")
"""Name of a symlink of rsync(1), before it is renamed to the tag that it replaces."""


@dataclass(frozen=True, slots=True)
class WaitingTag:
    """A symlink to a revision that is not there yet, and the time at which it was made.

    *before* is the revision that the tag had then.
    """

    digest: Digest
    mtime_ns: int
    before: Digest | None = None


class WaitingTags:
    """The tags of one repository that wait for their revisions. Thread-safe.

    They are not in the storage, since a registry would show a tag without a revision. So do the
    entries of the history wait until there is the tag. A tag that is set elsewhere meanwhile stays.
    The lock guards the tables; no storage is asked under it.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._lock = guard()
        self._tags: dict[str, WaitingTag] = {}
        self._history: dict[Tag, dict[Digest, int]] = {}
        self._entries = 0  # added to histories, at most

    @property
    def is_empty(self) -> bool:
        """True if nothing waits."""
        return not self._tags and not self._history

    def names(self) -> list[str]:
        """Return the names of the symlinks that wait."""
        with self._lock:
            return list(self._tags)

    def get(self, name: str) -> WaitingTag | None:
        """Return the symlink *name* if it still waits; its revision may have arrived elsewhere."""
        found = self._tags.get(name)
        if found is not None and self._is_there(found.digest):
            self.arrived(found.digest)
        return self._tags.get(name)

    def _is_there(self, digest: Digest) -> bool:
        try:
            self._repository.manifests.links.stat_now(digest)
        except BlobUnknown:
            return False
        return True

    def add(self, name: str, digest: Digest) -> None:
        """Set the tag *name*, or let it wait; raises NameInvalid."""
        temporary = _TEMPORARY.fullmatch(name)
        tag = Tag(temporary["tag"] if temporary else name)
        before = None if temporary else self._current(tag)
        with self._lock:
            self._check_room()
            self._tags[name] = WaitingTag(digest, time.time_ns(), before)
        try:
            if not temporary and self._is_there(digest):
                self._set(name, tag, digest)
        except BlobfsError:
            self.discard(name)
            raise

    def _current(self, tag: Tag) -> Digest | None:
        """Return the revision that a tag has; None if it is missing or damaged."""
        try:
            return self._repository.tags.get_now(tag)
        except (TagUnknown, Corrupt):
            return None

    def _set(self, name: str, tag: Tag, digest: Digest) -> None:
        self._repository.tags.tag(tag, digest)
        with self._lock:
            self._tags.pop(name, None)
            history = self._history.pop(tag, {})
        self._repository.tags.add_history(tag, history)

    def discard(self, name: str) -> bool:
        """Remove the symlink *name*; False if it does not wait."""
        with self._lock:
            return self._tags.pop(name, None) is not None

    def rename(self, name: str, new_name: str) -> bool:
        """Rename the symlink *name*, which replaces another; False if it does not wait."""
        found = self._tags.get(name)
        if found is None:
            return False
        self.add(new_name, found.digest)
        self.discard(name)
        return True

    def arrived(self, digest: Digest) -> None:
        """Set the tags that wait for the revision *digest*; failures are logged."""
        with self._lock:
            found = [each for each in self._tags.items() if each[1].digest == digest]
        for name, waiting in found:
            try:
                self._set_unchanged(name, Tag(name), waiting)
            except NameInvalid:
                pass  # it is renamed to the tag later
            except BlobfsError as exc:
                log.warning("%s cannot be set: %s", self._label(name), exc)

    def _set_unchanged(self, name: str, tag: Tag, waiting: WaitingTag) -> None:
        """Set a tag, unless it was set elsewhere since it began to wait."""
        if self._current(tag) in (waiting.before, waiting.digest):
            self._set(name, tag, waiting.digest)
            return
        self.discard(name)
        log.warning("%s was set elsewhere, and stays as it is", self._label(name))

    def begin_history(self, tag: Tag) -> None:
        """Make an empty history for a tag that does not exist yet."""
        with self._lock:
            self._check_room()
            self._history.setdefault(tag, {})

    def history(self, tag: Tag) -> dict[Digest, int] | None:
        """Return the entries that wait for *tag*, with their times; None without a history."""
        return self._history.get(tag)

    def add_history(self, tag: Tag, digest: Digest) -> None:
        """Add an entry to the history of *tag*, or let it wait for the tag."""
        if self._repository.tags.exists(tag):
            self._repository.tags.add_history(tag, [digest])
            return
        with self._lock:
            self._check_room()
            self._entries += 1
            self._history.setdefault(tag, {})[digest] = time.time_ns()

    def discard_history(self, tag: Tag, digest: Digest | None = None) -> bool:
        """Remove one entry that waits, or all of *tag*; False if there is none."""
        with self._lock:
            if digest is None:
                return self._history.pop(tag, None) is not None
            return self._history.get(tag, {}).pop(digest, None) is not None

    def rows(self) -> list[WaitingRow]:
        """Return all that waits."""
        name = self._repository.name
        with self._lock:
            return [
                *(
                    WaitingRow(name, tag, str(each.digest), each.mtime_ns,
                               None if each.before is None else str(each.before))
                    for tag, each in self._tags.items()
                ),
                *(
                    WaitingRow(name, tag, str(digest), mtime_ns, is_history=True)
                    for tag, entries in self._history.items()
                    for digest, mtime_ns in entries.items()
                ),
            ]  # fmt: skip

    def restore(self, row: WaitingRow) -> None:
        """Let wait again what waited in an earlier mount; raises NameInvalid, DigestInvalid."""
        digest = Digest.parse(row.digest)
        with self._lock:
            if row.is_history:
                self._entries += 1
                self._history.setdefault(Tag(row.tag), {})[digest] = row.mtime_ns
                return
            before = None if row.before is None else Digest.parse(row.before)
            self._tags[row.tag] = WaitingTag(digest, row.mtime_ns, before)

    def report_lost(self) -> None:
        """Log the tags that the end of the mount loses."""
        for name, waiting in self._tags.items():
            extra = about(repository=self._repository.name, digest=waiting.digest)
            log.warning(
                "%s is lost: revision %s has not arrived; copy it again",
                self._label(name),
                waiting.digest,
                extra=extra,
            )

    def _label(self, name: str) -> str:
        return f"tag {name} of {self._repository.name}"

    def _check_room(self) -> None:
        if not self._history:
            self._entries = 0
        if len(self._tags) + len(self._history) + self._entries >= _MOST:
            raise StorageFull(f"{self._repository.name}: too many tags wait for their revisions")

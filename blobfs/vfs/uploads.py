"""All ``_uploads`` directories of a mount, and what waits for uploads."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final, TypedDict

from blobfs.concurrency import guard, start_thread
from blobfs.digest import Digest
from blobfs.errors import AccessDenied, BlobfsError, Invalid
from blobfs.logs import about
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository
from blobfs.storage.uploads.base import ContentStore
from blobfs.storage.uploads.inventory import of_repository
from blobfs.storage.uploads.metadata import state_of
from blobfs.timestamps import format_seconds
from blobfs.vfs.kept_tags import KeptTags, WaitingRow
from blobfs.vfs.upload import MOUNT_ENDS, Upload
from blobfs.vfs.upload_set import UploadSet
from blobfs.vfs.waiting_tags import WaitingTags

log = logging.getLogger(__name__)

DELAYED: Final = ".~tmp~"
"""Directory of ``rsync --delay-updates``; names of uploads in it begin with it and a slash."""

_FRESH_S: Final = 1.0
"""Time for which the storage's list of a repository's uploads is cached."""

_MAX_RECEIPTS: Final = 10_000
"""Maximum number of receipts of one directory; the oldest are dropped."""

_LONG_S: Final = 0.005
"""Maximum time of a count on the event loop; after a longer one, a thread counts."""

_MAX_IDLE: Final = 1024
"""Number of remembered directories at which empty ones are dropped."""


class Uploads:
    """All ``_uploads`` directories of a mount. Thread-safe: the lock guards the table of them.

    *kept* keeps the tags that wait at the end of the mount; without it they are lost.
    """

    def __init__(self, receipt_ttl_s: float = 3600.0, kept: KeptTags | None = None) -> None:
        self._receipt_ttl_s = receipt_ttl_s
        self._kept = kept
        self.made: set[str] = set()  # paths of directories of algorithms, made by programs
        self._lock = guard()
        self._sets: dict[str, UploadSet] = {}
        self._tags: dict[str, WaitingTags] = {}  # by the repository's path
        self._most = _MAX_IDLE
        self._counts = _Counts(self._count)

    def at(self, path: str, store: ContentStore) -> UploadSet:
        """Return the directory at *path* in the tree, with the uploads of *store*."""
        with self._lock:
            found = self._sets.get(path)
            if found is None:
                self._drop_idle()
                found = UploadSet(path, store, self._receipt_ttl_s, self._arrived)
                self._sets[path] = found
            return found

    def _arrived(self, path: str, digest: Digest) -> None:
        """Commit what waits for *digest* in the repository with the uploads at *path*."""
        repository = repository_of(path)
        waiting = self._sets.get(f"{repository}/_manifests/_uploads")
        if waiting is not None:
            waiting.arrived(digest)
        tags = self._tags.get(repository)
        if tags is not None:
            tags.arrived(digest)

    def linked(self, path: str, *digests: Digest) -> None:
        """Commit what waits for a blob or manifest that was linked in the repository at *path*."""
        for digest in dict.fromkeys(digests):
            self._arrived(path, digest)

    def waiting_tags(self, repository: Repository) -> WaitingTags:
        """Return the tags of a repository that wait for their revisions."""
        path = f"/{repository.name}"
        with self._lock:
            found = self._tags.get(path)
            if found is None:
                self._tags = {path: tags for path, tags in self._tags.items() if not tags.is_empty}
                found = self._tags[path] = WaitingTags(repository)
            return found

    def known_waiting_tags(self, repository: Repository) -> WaitingTags | None:
        """Return ``waiting_tags`` if there may be some."""
        return self._tags.get(f"/{repository.name}")

    def restore(self, registry: Registry) -> None:
        """Let wait again what an earlier mount has kept."""
        for row in () if self._kept is None else self._kept.read():
            try:
                self.waiting_tags(registry.repository(row.repository)).restore(row)
            except Invalid as exc:
                log.warning("a tag that waited is lost: %s", exc)

    def waiting(self) -> list[WaitingEntry]:
        """Return all that waits in this mount; no I/O."""
        tags = [entry_of(row) for found in list(self._tags.values()) for row in found.rows()]
        return tags + [
            WaitingEntry(
                repository=repository_of(path)[1:],
                kind="manifest",
                name=name,
                waits_for=str(missing),
            )
            for path, found in list(self._sets.items())
            for name, missing in found.waiting()
        ]

    def interrupt(self) -> None:
        """Stop all commits before the mount ends."""
        for upload in self.kept():
            upload.interrupt(MOUNT_ENDS)

    def suspend(self, within_s: float) -> None:
        """Make all received bytes durable before the mount ends; failures are logged.

        It stops commits, and waits for them for little longer than *within_s*. Uploads without a
        call in progress come first, since that call may hang.
        """
        end = time.monotonic() + within_s
        self.interrupt()
        self._keep_tags()
        for upload in sorted(self.kept(), key=lambda upload: upload.lock.locked()):
            try:
                upload.suspend(max(end - time.monotonic(), 0.0))
            except BlobfsError as exc:
                extra = about(path=upload.path)
                log.warning("upload %s loses unsynced bytes: %s", upload.path, exc, extra=extra)

    def _keep_tags(self) -> None:
        waiting = list(self._tags.values())
        try:
            if self._kept is not None:
                self._kept.write([row for tags in waiting for row in tags.rows()])
                return
        except BlobfsError as exc:
            log.warning("the tags that wait cannot be kept: %s", exc)
        for tags in waiting:
            tags.report_lost()

    def holds(self, path: str) -> bool:
        """True if this mount has an upload or a receipt in the directory at *path*."""
        with self._lock:
            found = self._sets.get(path)
        return found is not None and bool(found.kept())

    def count(self, state: str) -> int:
        """Return the number of uploads in ``kept`` whose state begins with *state*.

        It never waits. If there are very many, it returns an older number, and a thread counts.
        """
        return self._counts.of(state)

    def _count(self) -> Counter[str]:
        sets = list(self._sets.values())
        return Counter(state.partition(":")[0] for found in sets for state in found.states())

    def _drop_idle(self) -> None:
        if len(self._sets) > self._most:
            self._sets = {path: found for path, found in self._sets.items() if found.kept()}
            self._most = max(_MAX_IDLE, 2 * len(self._sets))  # so that most scans drop many

    def kept(self) -> list[Upload]:
        """Return the uploads with a writer, a receipt or a failure in this mount."""
        with self._lock:
            sets = list(self._sets.values())
        return [upload for found in sets for upload in found.kept()]


class _Counts:
    """Number of uploads by state, counted on request, or in a thread if that takes long."""

    def __init__(self, count: Callable[[], Counter[str]]) -> None:
        self._count = count
        self._known: Counter[str] = Counter()
        self._until = 0.0
        self._took_s = 0.0
        self._is_counting = False

    def of(self, state: str) -> int:
        """Return the latest number in *state*."""
        if time.monotonic() >= self._until and not self._is_counting:
            self._is_counting = True
            if self._took_s < _LONG_S:
                self._run()
            else:
                start_thread("counting", self._run)
        return self._known[state]

    def _run(self) -> None:
        began = time.monotonic()
        try:
            self._known = self._count()
        finally:
            ended = time.monotonic()
            self._took_s = ended - began
            self._until = ended + 10 * self._took_s
            self._is_counting = False


def repository_of(path: str) -> str:
    """Return the path of the repository whose uploads, of blobs or manifests, are at *path*."""
    return path.removesuffix("/_uploads").removesuffix("/_manifests")


class UploadEntry(TypedDict):
    """An entry of ``uploads.json``: *offset* in bytes, *age* in seconds, *started* in RFC 3339."""

    repository: str
    name: str
    uuid: str
    offset: int
    started: str
    age: float
    state: str


class WaitingEntry(TypedDict):
    """An entry of ``waiting.json``: a ``tag``, an entry of a ``history``, or a ``manifest``."""

    repository: str
    kind: str
    name: str
    waits_for: str


def entry_of(row: WaitingRow) -> WaitingEntry:
    """Return the entry of a tag, which waits for its revision, or of a history, for its tag."""
    if row.is_history:
        name = f"{row.tag} {row.digest}"
        return WaitingEntry(repository=row.repository, kind="history", name=name, waits_for=row.tag)
    return WaitingEntry(repository=row.repository, kind="tag", name=row.tag, waits_for=row.digest)


def upload_states(registry: Registry, uploads: Uploads) -> list[UploadEntry]:
    """Return the unfinished uploads of this mount, others and registries; walks everything."""
    ours = [upload for upload in uploads.kept() if upload.receipt is None]
    known = {upload.id for upload in ours}
    found = [state for upload in ours for state in _state(upload)]
    for name in registry.enumerate():
        with suppress(AccessDenied):
            for stored in of_repository(registry.repository(name), without=known):
                if stored.began is not None and stored.size is not None:
                    key = (name, stored.name, stored.id)
                    found.append(_entry(key, stored.size, stored.began, state_of(stored.reason)))
    return sorted(found, key=lambda state: (state["repository"], state["name"], state["uuid"]))


def _state(upload: Upload) -> Iterator[UploadEntry]:
    """Yield the entry of *upload*; nothing if it has ended or the storage fails."""
    repository = repository_of(upload.directory)[1:]
    try:
        size, began = upload.info().size, upload.started_at()
    except BlobfsError:
        return
    yield _entry((repository, upload.name, upload.id), size, began, upload.state)


def _entry(key: tuple[str, str, str], size: int, began: float, state: str) -> UploadEntry:
    repository, name, upload_id = key
    return {
        "repository": repository,
        "name": name,
        "uuid": upload_id,
        "offset": size,
        "started": format_seconds(began) or "",
        "age": round(max(time.time() - began, 0.0), 1),
        "state": state,
    }

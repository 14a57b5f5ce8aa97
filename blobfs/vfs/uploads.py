"""The files of the ``_uploads`` directories: open and failed uploads, and receipts."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final, TypedDict

from blobfs.concurrency import SingleFlight, guard, start_thread
from blobfs.errors import BlobfsError, Busy, Exists, Invalid, NotEmpty, UploadUnknown
from blobfs.logs import about
from blobfs.storage.registry import Registry
from blobfs.storage.uploads.base import ContentStore
from blobfs.storage.uploads.inventory import of_repository
from blobfs.storage.uploads.metadata import is_file_name, state_of
from blobfs.timestamps import format_seconds
from blobfs.vfs.upload import MOUNT_ENDS, Upload

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


class UploadSet:
    """The files of one ``_uploads`` directory. Thread-safe.

    The lock guards the table of names, and is never held during a request to the storage. One
    thread at a time lists the storage; others wait for its result, but never an event loop.
    """

    def __init__(self, path: str, store: ContentStore, receipt_ttl_s: float) -> None:
        self.path = path
        self._store = store
        self._receipt_ttl_s = receipt_ttl_s
        self._lock = guard()
        self._by_name: dict[str, Upload] = {}
        self._fresh_until = 0.0
        self._has_delayed = False
        self._loading: SingleFlight[tuple[()], None] = SingleFlight()
        self._ended: set[str] = set()  # ids that left the table since the last listing began

    @property
    def is_delaying(self) -> bool:
        """True if the directory ``DELAYED`` exists."""
        return self._has_delayed or self._delays_some()

    def _delays_some(self) -> bool:
        return any(name.startswith(f"{DELAYED}/") for name in list(self._by_name))

    def begin_delaying(self) -> None:
        """Make the directory ``DELAYED``; raises Exists."""
        with self._lock:
            if self.is_delaying or DELAYED in self._by_name:
                raise Exists(f"{self.path}/{DELAYED}")
            self._has_delayed = True

    def end_delaying(self) -> None:
        """Remove the directory ``DELAYED``; raises NotEmpty."""
        with self._lock:
            if self._delays_some():
                raise NotEmpty(f"{self.path}/{DELAYED} is not empty")
            self._has_delayed = False

    @property
    def is_fresh(self) -> bool:
        """True if ``get`` asks no storage."""
        return time.monotonic() < self._fresh_until

    def get(self, name: str) -> Upload:
        """Return the upload *name*; raises UploadUnknown."""
        self._refresh()
        upload = self._by_name.get(name)
        if upload is None:
            raise UploadUnknown(f"{self.path} has no {name[:160]!r}")
        return upload

    def names(self) -> list[str]:
        """Return the names of all uploads and receipts."""
        self._fresh_until = 0.0
        self._refresh()
        with self._lock:
            return list(self._by_name)

    def begin(self, name: str) -> Upload:
        """Begin an upload; raises Exists, Invalid."""
        if not is_file_name(name):
            raise Invalid(f"not a valid name of a file: {name[:160]!r}")
        self._refresh()
        with self._lock:
            if name in self._by_name:
                raise Exists(f"{self.path}/{name}")
            upload = Upload.begun(self.path, self._store, name)
            self._by_name[name] = upload
            return upload

    def replace(self, receipt: Upload) -> Upload:
        """Begin a new upload in place of a *receipt* that no program has open."""
        with self._lock:
            receipt.is_gone = True
            self._note_end(receipt)
            upload = Upload.begun(self.path, self._store, receipt.name)
            self._by_name[receipt.name] = upload
            return upload

    def rename(self, name: str, new_name: str, *, replace: bool) -> None:
        """Rename an upload; with *replace* it may replace another. Raises Exists, Busy, Invalid."""
        if not is_file_name(new_name.removeprefix(f"{DELAYED}/")):
            raise Invalid(f"not a valid name of a file: {new_name[:160]!r}")
        upload = self.get(name)
        replaced = self._by_name.get(new_name)
        if replaced is upload:
            return
        if replaced is not None and not replace:
            raise Exists(f"{self.path}/{new_name}")
        if replaced is not None and replaced.is_open:
            raise Busy(f"{self.path}/{new_name} is being written")
        upload.rename(new_name)
        with self._lock:
            self._by_name.pop(name, None)
            self._by_name[new_name] = upload
            if replaced is not None:
                self._note_end(replaced)
        if replaced is not None:
            replaced.cancel()

    def remove(self, name: str) -> None:
        """Cancel an upload, or remove a receipt; raises UploadUnknown."""
        upload = self.get(name)
        upload.cancel()
        with self._lock:
            self._by_name.pop(name, None)
            self._note_end(upload)

    def states(self) -> Iterator[str]:
        """Return the state of each upload in ``kept``, without a lock."""
        return (upload.state for upload in list(self._by_name.values()) if upload.is_kept)

    def end_receipt(self, upload: Upload) -> None:
        """Remove a receipt whose blob was removed from the repository."""
        with self._lock:
            if self._by_name.get(upload.name) is upload:
                del self._by_name[upload.name]
                upload.is_gone = True

    def kept(self) -> list[Upload]:
        """Return the uploads with a writer, a receipt or a failure in this mount."""
        with self._lock:
            self._drop_receipts()
            return [upload for upload in self._by_name.values() if upload.is_kept]

    def _refresh(self) -> None:
        """Add the uploads that others have begun, and drop those that have ended."""
        if not self.is_fresh:
            self._loading.run((), self._load)

    def _load(self) -> None:
        if self.is_fresh:
            return
        with self._lock:
            self._ended.clear()
            self._drop_receipts()
            # Before the listing: an upload that is held now may move to the storage during it.
            unheld = [(name, u) for name, u in self._by_name.items() if not u.is_held]
            known = {upload.id for upload in self._by_name.values()}
        stored = self._store.stored
        found = set[str]() if stored is None else set(stored.enumerate())
        others = [
            Upload(self.path, self._store, record.name or upload_id, upload_id, record.reason)
            for upload_id, record in (stored.records(sorted(found - known)) if stored else ())
        ]
        with self._lock:
            for name, upload in unheld:
                is_there = upload.id in found or upload.is_held
                if not is_there and self._by_name.get(name) is upload:
                    del self._by_name[name]
            known = {upload.id for upload in self._by_name.values()} | self._ended
            for other in others:
                if other.id not in known:
                    self._add(other)
            self._fresh_until = time.monotonic() + _FRESH_S

    def _add(self, upload: Upload) -> None:
        if upload.name in self._by_name:
            upload.name = upload.id
        self._by_name.setdefault(upload.name, upload)

    def _note_end(self, upload: Upload) -> None:
        """Prevent a listing in progress from adding the upload again."""
        self._ended.add(upload.id)

    def _drop_receipts(self) -> None:
        old = time.monotonic() - self._receipt_ttl_s
        receipts = [
            (upload.receipt.since, name)
            for name, upload in self._by_name.items()
            if upload.receipt is not None and not upload.is_open
        ]
        if len(receipts) > _MAX_RECEIPTS:
            old = max(old, sorted(receipts)[-_MAX_RECEIPTS][0])
        for since, name in receipts:
            if since < old:
                self._by_name.pop(name).is_gone = True


class Uploads:
    """All ``_uploads`` directories of a mount. Thread-safe: the lock guards the table of them."""

    def __init__(self, receipt_ttl_s: float = 3600.0) -> None:
        self._receipt_ttl_s = receipt_ttl_s
        self._lock = guard()
        self._sets: dict[str, UploadSet] = {}
        self._most = _MAX_IDLE
        self._counts = _Counts(self._count)

    def at(self, path: str, store: ContentStore) -> UploadSet:
        """Return the directory at *path* in the tree, with the uploads of *store*."""
        with self._lock:
            found = self._sets.get(path)
            if found is None:
                self._drop_idle()
                found = self._sets[path] = UploadSet(path, store, self._receipt_ttl_s)
            return found

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
        for upload in sorted(self.kept(), key=lambda upload: upload.lock.locked()):
            try:
                upload.suspend(max(end - time.monotonic(), 0.0))
            except BlobfsError as exc:
                extra = about(path=upload.path)
                log.warning("upload %s loses unsynced bytes: %s", upload.path, exc, extra=extra)

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


class UploadEntry(TypedDict):
    """An entry of ``uploads.json``: *offset* in bytes, *age* in seconds, *started* in RFC 3339."""

    repository: str
    name: str
    uuid: str
    offset: int
    started: str
    age: float
    state: str


def upload_states(registry: Registry, uploads: Uploads) -> list[UploadEntry]:
    """Return the unfinished uploads of this mount, others and registries; walks everything."""
    ours = [upload for upload in uploads.kept() if upload.receipt is None]
    known = {upload.id for upload in ours}
    found = [state for upload in ours for state in _state(upload)]
    for name in registry.enumerate():
        for stored in of_repository(registry.repository(name), without=known):
            if stored.began is not None and stored.size is not None:
                key = (name, stored.name, stored.id)
                found.append(_entry(key, stored.size, stored.began, state_of(stored.reason)))
    return sorted(found, key=lambda state: (state["repository"], state["name"], state["uuid"]))


def _state(upload: Upload) -> Iterator[UploadEntry]:
    """Yield the entry of *upload*; nothing if it has ended or the storage fails."""
    repository = upload.directory.removesuffix("/_uploads").removesuffix("/_manifests")[1:]
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

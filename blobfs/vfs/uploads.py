"""What an ``_uploads`` directory holds: uploads under way, waiting, and receipts."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from threading import Lock, Thread
from typing import Final

from blobfs.errors import BlobfsError, Busy, Exists, Invalid, NotEmpty, UploadUnknown
from blobfs.eventloop import refuse_to_take_long
from blobfs.logs import about
from blobfs.storage.uploads.base import ContentStore
from blobfs.storage.uploads.metadata import is_file_name
from blobfs.vfs.upload import MOUNT_ENDS, Upload

log = logging.getLogger(__name__)

DELAYED: Final = ".~tmp~"
"""Directory of ``rsync --delay-updates``; names of uploads in it begin with it and a slash."""

_FRESH_S: Final = 1.0
"""How long what the storage has of a repository's uploads is taken to be still so."""

_MAX_RECEIPTS: Final = 10_000
"""Receipts kept of one directory, the latest."""

_SUSPEND_S: Final = 5.0
"""Time that the end of the mount waits for commits that it has stopped."""

_LONG_S: Final = 0.005
"""The longest that uploads may be counted on the event loop, but for the first time."""

_MAX_IDLE: Final = 1024
"""Directories that are remembered although nothing is in them."""


class UploadSet:
    """The files of one ``_uploads`` directory. Thread-safe.

    The lock guards the table of names, and is never held while the storage is asked. One thread at
    a time asks it; others that need the answer wait for that, which no event loop does.
    """

    def __init__(self, path: str, store: ContentStore, receipt_ttl_s: float) -> None:
        self.path = path
        self._store = store
        self._receipt_ttl_s = receipt_ttl_s
        self._lock = Lock()
        self._by_name: dict[str, Upload] = {}
        self._fresh_until = 0.0
        self._has_delayed = False
        self._loading: Future[None] | None = None
        self._ended: set[str] = set()  # ids that left the table while the storage is asked

    @property
    def is_delaying(self) -> bool:
        """Whether there is a directory ``DELAYED``."""
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
                raise NotEmpty(f"{self.path}/{DELAYED} holds something")
            self._has_delayed = False

    @property
    def is_fresh(self) -> bool:
        """Whether ``get`` need not ask the storage."""
        return time.monotonic() < self._fresh_until

    def get(self, name: str) -> Upload:
        """The upload called *name*; raises UploadUnknown."""
        self._refresh()
        upload = self._by_name.get(name)
        if upload is None:
            raise UploadUnknown(f"{self.path} has no {name[:160]!r}")
        return upload

    def names(self) -> list[str]:
        """The names of all uploads, and of all receipts."""
        self._fresh_until = 0.0
        self._refresh()
        with self._lock:
            return list(self._by_name)

    def begin(self, name: str) -> Upload:
        """Begin an upload; raises Exists, Invalid."""
        if not is_file_name(name):
            raise Invalid(f"no file can be called {name[:160]!r}")
        self._refresh()
        with self._lock:
            if name in self._by_name:
                raise Exists(f"{self.path}/{name}")
            upload = Upload.begun(self.path, self._store, name)
            self._by_name[name] = upload
            return upload

    def replace(self, receipt: Upload) -> Upload:
        """Begin another upload under the name of a *receipt*, whose descriptors are all closed."""
        with self._lock:
            receipt.is_gone = True
            self._note_end(receipt)
            upload = Upload.begun(self.path, self._store, receipt.name)
            self._by_name[receipt.name] = upload
            return upload

    def rename(self, name: str, new_name: str, *, replace: bool) -> None:
        """Call one otherwise, in place of what is called so; raises Exists, Busy, Invalid."""
        if not is_file_name(new_name.removeprefix(f"{DELAYED}/")):
            raise Invalid(f"no file can be called {new_name[:160]!r}")
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
        """Cancel an upload, or drop a receipt; raises UploadUnknown."""
        upload = self.get(name)
        upload.cancel()
        with self._lock:
            self._by_name.pop(name, None)
            self._note_end(upload)

    def states(self) -> Iterator[str]:
        """The state of each upload that is kept, without waiting for a lock."""
        return (upload.state for upload in list(self._by_name.values()) if upload.is_kept)

    def end_receipt(self, upload: Upload) -> None:
        """Forget a receipt whose blob has left the repository."""
        with self._lock:
            if self._by_name.get(upload.name) is upload:
                del self._by_name[upload.name]
                upload.is_gone = True

    def kept(self) -> list[Upload]:
        """Those that this mount knows more of than the storage."""
        with self._lock:
            self._drop_receipts()
            return [upload for upload in self._by_name.values() if upload.is_kept]

    def _refresh(self) -> None:
        """Take up what others have begun, and drop what has ended."""
        while not self.is_fresh:
            with self._lock:
                loading = self._loading
                if loading is None:
                    self._loading = Future()
            if loading is None:
                self._load()
                return
            refuse_to_take_long()
            if isinstance(failure := loading.exception(), BlobfsError):
                raise failure

    def _load(self) -> None:
        """Ask the storage for the others who wait for it, too."""
        loading = self._loading
        failure: BaseException | None = None
        try:
            self._load_stored()
        except BaseException as exc:
            failure = exc
            raise
        finally:
            with self._lock:
                self._loading = None
                self._ended.clear()
            if loading is not None:
                loading.set_exception(failure) if failure else loading.set_result(None)

    def _load_stored(self) -> None:
        with self._lock:
            self._drop_receipts()
            # Before the storage is asked: what is held now may be in the storage in a moment.
            unheld = [(name, u) for name, u in self._by_name.items() if not u.is_held]
            known = {upload.id for upload in self._by_name.values()}
        found = set(self._store.enumerate())
        others = [
            Upload(self.path, self._store, record.name or upload_id, upload_id, record.reason)
            for upload_id, record in self._store.records(sorted(found - known))
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
        """Keep an answer that is under way from bringing the upload back."""
        if self._loading is not None:
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
    """Every ``_uploads`` directory of a mount. Thread-safe."""

    def __init__(self, receipt_ttl_s: float = 3600.0) -> None:
        self._receipt_ttl_s = receipt_ttl_s
        self._lock = Lock()
        self._sets: dict[str, UploadSet] = {}
        self._most = _MAX_IDLE
        self._counts = _Counts(self._count)

    def at(self, path: str, store: ContentStore) -> UploadSet:
        """The directory at *path* in the tree, whose uploads are *store*'s."""
        with self._lock:
            found = self._sets.get(path)
            if found is None:
                self._forget_idle()
                found = self._sets[path] = UploadSet(path, store, self._receipt_ttl_s)
            return found

    def interrupt(self) -> None:
        """Stop the commits that are under way, as the mount is about to end."""
        for upload in self.kept():
            upload.interrupt(MOUNT_ENDS)

    def suspend(self) -> None:
        """Make durable what was received, as the mount is about to end; failures are logged.

        It waits little longer than ``_SUSPEND_S`` for commits, which it stops.
        """
        end = time.monotonic() + _SUSPEND_S
        self.interrupt()
        for upload in self.kept():
            try:
                upload.suspend(max(end - time.monotonic(), 0.0))
            except BlobfsError as exc:
                fields = about(path=upload.path)
                log.warning(
                    "upload %s is lost but for what was synced: %s", upload.path, exc, extra=fields
                )

    def holds(self, path: str) -> bool:
        """Whether this mount has an upload, or a receipt, in the directory at *path*."""
        with self._lock:
            found = self._sets.get(path)
        return found is not None and bool(found.kept())

    def count(self, state: str) -> int:
        """How many of all that are kept have a state that begins with *state*.

        It waits for nobody. Of very many it is an older number, until a thread has counted anew.
        """
        return self._counts.of(state)

    def _count(self) -> Counter[str]:
        sets = list(self._sets.values())
        return Counter(state.partition(":")[0] for found in sets for state in found.states())

    def _forget_idle(self) -> None:
        if len(self._sets) > self._most:
            self._sets = {path: found for path, found in self._sets.items() if found.kept()}
            self._most = max(_MAX_IDLE, 2 * len(self._sets))  # so that few looks are in vain

    def kept(self) -> list[Upload]:
        """Every upload that this mount knows more of than the storage."""
        with self._lock:
            sets = list(self._sets.values())
        return [upload for found in sets for upload in found.kept()]


class _Counts:
    """The uploads by state: counted when asked for, or in a thread once that takes long."""

    def __init__(self, count: Callable[[], Counter[str]]) -> None:
        self._count = count
        self._known: Counter[str] = Counter()
        self._until = 0.0
        self._took_s = 0.0
        self._is_counting = False

    def of(self, state: str) -> int:
        """The last number of those in a *state*."""
        if time.monotonic() >= self._until and not self._is_counting:
            self._is_counting = True
            if self._took_s < _LONG_S:
                self._run()
            else:
                Thread(target=self._run, name="blobfs-counting", daemon=True).start()
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

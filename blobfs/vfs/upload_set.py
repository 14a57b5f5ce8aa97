"""The files of one ``_uploads`` directory: open and failed uploads, and receipts."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from blobfs.concurrency import SingleFlight, guard
from blobfs.digest import Descriptor, Digest
from blobfs.errors import BlobfsError, Busy, Exists, Invalid, NotEmpty, UploadUnknown
from blobfs.logs import about
from blobfs.storage.uploads.base import ContentStore
from blobfs.storage.uploads.metadata import is_file_name
from blobfs.vfs.copied_upload import CopiedUpload, Placeholder
from blobfs.vfs.declarations import declared_by
from blobfs.vfs.upload import Receipt, Upload

log = logging.getLogger(__name__)

U = TypeVar("U", bound=Upload)

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

    def __init__(
        self,
        path: str,
        store: ContentStore,
        receipt_ttl_s: float,
        arrived: Callable[[str, Digest], None],
    ) -> None:
        """*arrived* is called with the path and each digest that a commit has made available."""
        self.path = path
        self._store = store
        self._receipt_ttl_s = receipt_ttl_s
        self._lock = guard()
        self._by_name: dict[str, Upload] = {}
        self._fresh_until = 0.0
        self._has_delayed = False
        self._loading: SingleFlight[tuple[()], None] = SingleFlight()
        self._ended: set[str] = set()  # ids that left the table since the last listing began
        self._arrived = arrived
        self._waiting: set[CopiedUpload] = set()

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

    def peek(self, name: str) -> Upload:
        """Do the same as ``get`` without the storage: uploads of other mounts may be missing."""
        upload = self._by_name.get(name)
        if upload is None:
            raise UploadUnknown(f"{self.path} has no {name[:160]!r}")
        return upload

    def names(self) -> list[str]:
        """Return the names of all uploads and receipts, but those of copied files."""
        self._fresh_until = 0.0
        self._refresh()
        with self._lock:
            named = list(self._by_name.items())
        return [name for name, upload in named if not (upload.is_copy and upload.receipt)]

    def begin(self, name: str) -> Upload:
        """Begin an upload; raises Exists, Invalid."""
        return self._begin(Upload, name)

    def begin_placeholder(self, name: str) -> Placeholder:
        """Do the same as ``begin``, for a file that stands for a symlink."""
        return self._begin(Placeholder, name)

    def _begin(self, kind: type[U], name: str) -> U:
        if not is_file_name(name):
            raise Invalid(f"not a valid name of a file: {name[:160]!r}")
        self._refresh()
        with self._lock:
            if name in self._by_name:
                raise Exists(f"{self.path}/{name}")
            upload = kind.begun(self.path, self._store, name, self)
            self._by_name[name] = upload
            return upload

    def begin_copy(self, name: str) -> CopiedUpload:
        """Begin the upload of a copied file; an older one that nobody writes is replaced."""
        try:
            return self._begin(CopiedUpload, name)
        except Exists:
            if self.get(name).is_open:
                raise Busy(f"{self.path}/{name} is being written") from None
        self.remove(name)
        return self._begin(CopiedUpload, name)

    def add_receipt(self, name: str, descriptor: Descriptor, *, is_copy: bool = False) -> None:
        """Add a receipt of a blob under another name; raises Exists, Invalid."""
        if not is_file_name(name):
            raise Invalid(f"not a valid name of a file: {name[:160]!r}")
        self._refresh()
        kind = CopiedUpload if is_copy else Upload
        receipt = kind(self.path, self._store, name, str(uuid.uuid4()), self)
        receipt.receipt = Receipt(descriptor, time.monotonic())
        receipt.declare(digest=declared_by(name))
        with self._lock:
            if name in self._by_name:
                raise Exists(f"{self.path}/{name}")
            self._by_name[name] = receipt

    def committed(self, upload: Upload, declared: Digest | None) -> None:
        """Commit the manifests that have waited for *upload*; see ``UploadObserver``."""
        if isinstance(upload, CopiedUpload):
            with self._lock:
                self._waiting.discard(upload)
            self._end_copy(upload)
        if upload.receipt is not None:
            digest = upload.receipt.descriptor.digest
            for each in {digest, declared or digest}:
                self._arrived(self.path, each)

    def _end_copy(self, upload: CopiedUpload) -> None:
        """Drop the receipt of a copied file that has its final name."""
        is_final = upload.name == str(declared_by(upload.name))
        with self._lock:
            if is_final and upload.receipt and self._by_name.get(upload.name) is upload:
                del self._by_name[upload.name]
                self._note_end(upload)
                upload.is_gone = True

    def waits(self, upload: CopiedUpload) -> None:
        """Note a manifest that waits; see ``UploadObserver``."""
        with self._lock:
            self._waiting.add(upload)

    def waiting(self) -> list[tuple[str, object]]:
        """Return the manifests that wait, by name, and the digest for which each does."""
        with self._lock:
            return [(each.name, each.missing) for each in self._waiting if each.missing]

    def arrived(self, digest: Digest) -> None:
        """Commit the manifests to which nothing but *digest* was missing; failures are logged."""
        with self._lock:
            waiting = [upload for upload in self._waiting if upload.missing in (None, digest)]
        for upload in waiting:
            self.retry(upload)

    def retry(self, upload: CopiedUpload) -> None:
        """Commit a manifest that waits, if it can be; a failure is logged."""
        try:
            upload.retry()
        except UploadUnknown:
            with self._lock:
                self._waiting.discard(upload)
        except BlobfsError as exc:
            extra = about(path=upload.path)
            log.warning("upload %s cannot be committed: %s", upload.path, exc, extra=extra)

    def replace(self, receipt: Upload) -> Upload:
        """Begin a new upload in place of a *receipt* that no program has open."""
        with self._lock:
            receipt.is_gone = True
            self._note_end(receipt)
            upload = type(receipt).begun(self.path, self._store, receipt.name, self)
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
        if isinstance(upload, CopiedUpload):
            self._end_copy(upload)

    def remove(self, name: str) -> None:
        """Cancel an upload, or remove a receipt; raises UploadUnknown."""
        upload = self.get(name)
        upload.cancel()
        with self._lock:
            self._by_name.pop(name, None)
            self._note_end(upload)
            if isinstance(upload, CopiedUpload):
                self._waiting.discard(upload)

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
            self._found(record.name or upload_id, upload_id, record.reason)
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

    def _found(self, name: str, upload_id: str, reason: str) -> Upload:
        are_copies = self._store.stored is not None and self._store.stored.are_copies
        kind = CopiedUpload if are_copies else Upload
        return kind(self.path, self._store, name, upload_id, self, reason)

    def _add(self, upload: Upload) -> None:
        if upload.name in self._by_name:
            upload.name = upload.id
        self._by_name.setdefault(upload.name, upload)
        if isinstance(upload, CopiedUpload):
            self._waiting.add(upload)

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

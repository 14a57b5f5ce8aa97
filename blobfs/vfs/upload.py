"""A file of an ``_uploads`` directory, in any of the states of SEMANTICS.md, section 7."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Self

from blobfs.concurrency import CallLock
from blobfs.digest import Descriptor, Digest
from blobfs.errors import (
    BlobfsError,
    Busy,
    ReadOnly,
    Stale,
    StorageTimeout,
    UploadUnknown,
)
from blobfs.logs import about
from blobfs.storage.uploads.base import (
    ContentStore,
    ContentWriter,
    check_digest,
    check_length,
)
from blobfs.storage.uploads.metadata import MAX_REASON, UploadInfo, state_of
from blobfs.storage.uploads.store import StoredUploads
from blobfs.vfs.declarations import check_size, declared_by
from blobfs.vfs.upload_observer import UploadObserver

log = logging.getLogger(__name__)

_REMOVE_S: Final = 50.0
"""Time that a removal waits for a commit that cannot be stopped, as the storage does not answer."""

MOUNT_ENDS: Final = "the mount ended before its commit was complete"
"""Reason of the uploads whose commits the end of the mount interrupts."""

_INTERRUPT_S: Final = 0.1
"""Interval at which work under the lock is interrupted again, until the lock is free."""

STATES: Final = ("open", "committed", "failed")
"""First words of ``Upload.state``."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The committed content, under the upload's name for a while after the commit."""

    descriptor: Descriptor
    since: float  # monotonic


class Upload:
    """One upload, from its first byte to the end of its receipt. Thread-safe; methods may block.

    *writer* exists while a program writes the upload, and while the storage does not have it.
    *reason* is the error of the last attempt to commit. The *lock* keeps the calls apart; it is
    held during the I/O of this upload's writer. ``OpenUpload`` also uses *writer* and *reason*, and
    calls ``begin``, ``commit``, ``commit_if_complete``, ``release_writer``, ``make_durable`` and
    ``suspend_writer`` with the lock held.
    """

    is_copy: ClassVar[bool] = False
    """True for a file that a program copies into a link set."""

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        directory: str,
        store: ContentStore,
        name: str,
        upload_id: str,
        observer: UploadObserver,
        reason: str = "",
    ) -> None:
        self.directory = directory
        self.name = name
        self.id = upload_id
        self.key = f"{directory}/{upload_id}"
        self.lock = CallLock()
        self.receipt: Receipt | None = None
        self.mtime_ns: int | None = None  # set by a program, or of the last write
        self.is_gone = False
        self.is_open = False
        self.is_to_be_replaced = False  # the next lookup of a receipt begins a new upload
        self.writer: ContentWriter | None = None
        self.reason = reason
        self._store = store
        self._observer = observer

    @classmethod
    def begun(
        cls, directory: str, store: ContentStore, name: str, observer: UploadObserver
    ) -> Self:
        """Begin an upload, which is in memory at first."""
        begin = store.copy if cls.is_copy else store.create
        writer = begin(name=name, digest=declared_by(name))
        upload = cls(directory, store, name, writer.id, observer)
        upload.writer = writer
        upload.mtime_ns = time.time_ns()
        return upload

    @property
    def path(self) -> str:
        """Path in the tree."""
        return f"{self.directory}/{self.name}"

    @property
    def state(self) -> str:
        """State: ``open``, ``committed``, or ``failed: `` and the reason."""
        if self.receipt is not None:
            return "committed"
        return state_of(self.reason)

    @property
    def is_receipt(self) -> bool:
        """True if it is committed, and its name still shows the blob."""
        return self.receipt is not None and not self.is_gone

    @property
    def is_in_memory(self) -> bool:
        """True if it is not in the storage yet."""
        return self.writer is not None and not self.writer.is_stored

    @property
    def is_held(self) -> bool:
        """True if this mount has a writer or a receipt of it."""
        writer = self.writer
        return (writer is not None and not writer.is_over) or self.receipt is not None

    @property
    def is_kept(self) -> bool:
        """True if it is held, or has failed."""
        return self.is_held or bool(self.reason)

    @property
    def _stored(self) -> StoredUploads:
        """The store that has its bytes while nobody writes it; raises UploadUnknown."""
        if self._store.stored is None:
            raise UploadUnknown(self.path)
        return self._store.stored

    def info(self) -> UploadInfo:
        """Size and time; raises UploadUnknown."""
        writer, receipt = self.writer, self.receipt  # in this order: a commit sets receipt first
        if receipt is not None:
            return UploadInfo(receipt.descriptor.size, self.mtime_ns or 0)
        if writer is not None:
            return UploadInfo(writer.size, self.mtime_ns or 0)
        if self.is_gone:
            raise UploadUnknown(self.path)
        found = self._stored.stat(self.id)
        return found if self.mtime_ns is None else replace(found, mtime_ns=self.mtime_ns)

    def started_at(self) -> float:
        """Time at which it began, in seconds since the epoch; raises UploadUnknown."""
        writer = self.writer
        began = writer.started_at if writer is not None else self._stored.started_at(self.id)
        return began.timestamp()

    def declared(self) -> tuple[Digest | None, int | None]:
        """Return the declared digest and size, or those of the committed content."""
        writer, receipt = self.writer, self.receipt
        if receipt is not None:
            return receipt.descriptor.digest, receipt.descriptor.size
        record = writer.record if writer is not None else self._stored.record(self.id)
        return record.digest, record.size

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to *size* of the received bytes; raises UploadUnknown, Unsupported."""
        if self.lock.locked() and (data := self._read_stored(offset, size)):
            return data  # it does not wait for a commit
        with self.lock:
            if self.writer is not None:
                return self.writer.read_at(offset, size)
            if self.receipt is not None:
                with self._store.open_committed(self.receipt.descriptor) as reader:
                    return reader.read_at(offset, size)
            with self._stored.open(self.id) as reader:
                return reader.read_at(offset, size)

    def _read_stored(self, offset: int, size: int) -> bytes | None:
        """Read from the storage without the lock; None if that fails."""
        if self.is_in_memory:
            return None
        try:
            with self._stored.open(self.id) as reader:
                return reader.read_at(offset, size)
        except BlobfsError:
            return None

    def interrupt(self, reason: str) -> None:
        """Stop a commit in another thread while it hashes or copies."""
        writer = self.writer
        if writer is not None:
            writer.interrupt(reason)

    @contextmanager
    def _interrupted(self, reason: str, within_s: float) -> Iterator[None]:
        """Interrupt other calls until the lock is free, and hold it; raises StorageTimeout."""
        end = time.monotonic() + within_s
        while not self.lock.acquire(timeout=_INTERRUPT_S):
            if time.monotonic() > end:
                raise StorageTimeout(f"{self.path} is still being changed after {within_s:g} s")
            self.interrupt(reason)
        try:
            yield
        finally:
            self.lock.release()

    def begin(self, *, truncate: bool) -> ContentWriter:
        """Open it for writing; raises Busy, ReadOnly for a receipt."""
        if self.is_gone:
            raise UploadUnknown(self.path)
        if self.is_open:
            raise Busy(f"{self.path} is being written already")
        if self.receipt is not None:
            raise ReadOnly(f"{self.path} is committed: replace it, or write another file")
        writer = self._resumed()
        writer.clear_interruption()
        if truncate:
            writer.truncate(0)
        self.is_open = True
        self.reason = ""
        return writer

    def _resumed(self) -> ContentWriter:
        if self.is_gone or (self.writer is not None and self.writer.is_over):
            raise UploadUnknown(self.path)
        if self.writer is None:
            self.mtime_ns = self.info().mtime_ns
            self.writer = self._stored.resume(self.id)
        return self.writer

    def truncate(self, size: int, max_undeclared: int | None = None) -> None:
        """Cut or extend with zeros while it is not open; raises Busy, ReadOnly, TooLarge.

        It is committed only if it has the declared digest then, since this is no close.
        """
        with self.lock:
            writer = self.begin(truncate=False)
            try:
                check_size(writer, size, max_undeclared)
                writer.truncate(size)
                self.mtime_ns = time.time_ns()
            finally:
                self.is_open = False
                self.commit_if_complete()

    def declare(self, *, digest: Digest | None = None, size: int | None = None) -> None:
        """Declare a digest or size; commit it if it is complete and not open.

        Raises ContentMismatch for a receipt of other content.
        """
        with self.lock:
            if self.receipt is not None:
                self._check_receipt(digest, size)
                return
            writer = self._resumed()
            record = writer.record
            if digest is not None:
                record = replace(record, digest=digest)
            if size is not None:
                record = replace(record, size=size)
            writer.declare(record)
            self.commit_if_complete()

    def rename(self, name: str) -> None:
        """Rename it; a name that is a digest declares it.

        Raises Busy, ContentMismatch for a receipt of other content.
        """
        with self.lock:
            digest = declared_by(name)
            if self.receipt is not None:
                self._check_receipt(digest)
                self._store.rename_committed(self.receipt.descriptor.digest, self.name, name)
                self.name = name
                return
            writer = self._resumed()
            digest = digest or writer.record.digest
            writer.declare(replace(writer.record, name=name, digest=digest))
            self.name = name
            try:
                self.commit_if_complete()
            except BlobfsError as exc:  # the rename itself has succeeded
                log.warning(
                    "upload %s cannot be committed: %s", self.path, exc, extra=about(path=self.path)
                )

    def commit_as(self, digest: Digest) -> None:
        """Commit it under *digest*; raises ContentMismatch, Busy."""
        with self.lock:
            if self.receipt is not None:
                self._store.commit_again(self.receipt.descriptor, digest)
                return
            if self.is_open:
                raise Busy(f"{self.path} is being written")
            writer = self._resumed()
            try:
                self.commit(writer, digest)
            finally:
                self.release_writer()

    def _check_receipt(self, digest: Digest | None, size: int | None = None) -> None:
        found, length = self.declared()
        check_length(self.path, length, size)
        if digest is not None and found is not None and digest.algorithm == found.algorithm:
            check_digest(self.path, found, digest)

    def set_mtime(self, mtime_ns: int) -> None:
        """Set the time that a program has chosen; after the commit that of the blob shows."""
        self.mtime_ns = mtime_ns

    def commit(self, writer: ContentWriter, digest: Digest | None = None) -> None:
        """Publish it, unless it waits; a failure sets the reason, and makes the bytes durable."""
        declared = digest or writer.record.digest
        try:
            descriptor = self._publish(writer, digest)
        except BlobfsError as exc:
            self.reason = str(exc)
            try:
                self.suspend_writer(writer)
            except BlobfsError as again:
                fields = about(path=self.path)
                log.debug("upload %s cannot be suspended: %s", self.path, again, extra=fields)
            raise
        if descriptor is None:
            return
        self.mtime_ns = self.mtime_ns or descriptor.mtime_ns
        self.receipt = Receipt(descriptor, time.monotonic())  # before *writer* is cleared: ``info``
        self.writer = None
        self.reason = ""
        self._observer.committed(self, declared)

    def _publish(self, writer: ContentWriter, digest: Digest | None) -> Descriptor | None:
        """Publish it; return None if it waits."""
        return writer.commit(digest)

    def commit_if_complete(self) -> None:
        """Commit it if it is complete and not open; else leave it in the storage."""
        if self.is_open or self.writer is None:
            return
        try:
            if self.writer.verify():
                self.commit(self.writer)
        finally:
            self.release_writer()

    def release_writer(self) -> None:
        """Make the bytes durable, and close the writer if they are in the storage.

        After Busy or Stale the writer is dropped, since another program changed or removed the
        data. After any other failure it stays, with its bytes.
        """
        try:
            self.make_durable()
        except Busy:
            self.writer = None
            raise
        except Stale:
            self.writer = None
            self.reason = ""  # nothing of the upload is left, so it is listed no longer
            raise
        writer = self.writer
        if writer is not None and writer.is_stored:
            self.writer = None
            writer.close()

    def make_durable(self) -> None:
        """Make the received bytes durable, if there are any."""
        if self.writer is not None and (self.writer.size or self.writer.is_stored):
            self.suspend_writer(self.writer)

    def suspend_writer(self, writer: ContentWriter) -> None:
        """Make the received bytes and the reason durable."""
        reason = self.reason[:MAX_REASON]
        try:
            if reason != writer.record.reason:
                writer.declare(replace(writer.record, reason=reason))
        finally:
            writer.suspend()

    def cancel(self) -> None:
        """Remove all of it, even while it is written or committed."""
        with self._interrupted("removed before its commit was complete", within_s=_REMOVE_S):
            if self.writer is not None:
                self.writer.cancel()
            elif self.receipt is None and not self.is_gone and self._store.stored is not None:
                self._store.stored.discard(self.id)
            self.writer = None
            self.is_gone = True

    def suspend(self, within_s: float) -> None:
        """Make the received bytes durable before the mount ends; raises StorageTimeout."""
        with self._interrupted(MOUNT_ENDS, within_s):
            self.make_durable()

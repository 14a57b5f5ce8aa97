"""A file of an ``_uploads`` directory, whatever has become of it.

Its states and their changes are those of SEMANTICS.md, section 7. All of it may block, and is
used by many threads; a lock in each upload keeps their calls apart.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock
from typing import Final

from blobfs.digest import Descriptor, Digest
from blobfs.errors import (
    BlobfsError,
    Busy,
    ContentMismatch,
    DigestInvalid,
    ReadOnly,
    Stale,
    StorageTimeout,
    TooLarge,
    UploadUnknown,
)
from blobfs.logs import about
from blobfs.storage.uploads.base import ContentStore, ContentWriter
from blobfs.storage.uploads.metadata import MAX_REASON, UploadInfo

log = logging.getLogger(__name__)

_REMOVE_S: Final = 50.0
"""Time that a removal waits for a commit which cannot be stopped: the storage does not answer."""

MOUNT_ENDS: Final = "the mount ended before its commit was complete"
"""Reason for which the commits of all uploads are interrupted at the end."""

_INTERRUPT_S: Final = 0.1
"""Time after which work that was begun meanwhile is interrupted as well."""

STATES: Final = ("open", "committed", "failed")
"""What ``Upload.state`` begins with."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What remains of an upload for a while after its commit."""

    descriptor: Descriptor
    since: float  # monotonic


class Upload:
    """One upload, from its first byte to the end of its receipt.

    *writer* is there while a program writes it, and as long as the storage does not know of it;
    *reason* says why the last attempt to finish it failed. Both are for ``OpenUpload``, as are
    ``begin``, ``commit``, ``settle``, ``let_go``, ``keep`` and ``suspend_writer``, which it calls
    holding the *lock*.
    """

    def __init__(
        self, directory: str, store: ContentStore, name: str, upload_id: str, reason: str = ""
    ) -> None:
        self.directory = directory
        self.name = name
        self.id = upload_id
        self.key = f"{directory}/{upload_id}"
        self.lock = Lock()
        self.receipt: Receipt | None = None
        self.mtime_ns: int | None = None  # as it was set, or of the last write
        self.is_gone = False
        self.is_open = False
        self.is_to_be_replaced = False  # a receipt, by the next lookup of its name
        self.writer: ContentWriter | None = None
        self.reason = reason
        self._store = store

    @classmethod
    def begun(cls, directory: str, store: ContentStore, name: str) -> Upload:
        """A new upload, which the storage need not know of before it has received much."""
        writer = store.create(name=name, digest=declared_by(name))
        upload = cls(directory, store, name, writer.id)
        upload.writer = writer
        upload.mtime_ns = time.time_ns()
        return upload

    @property
    def path(self) -> str:
        """Where it is in the tree."""
        return f"{self.directory}/{self.name}"

    @property
    def state(self) -> str:
        """``open``, ``committed``, or ``failed: `` and the reason."""
        if self.receipt is not None:
            return "committed"
        return f"failed: {self.reason}" if self.reason else "open"

    @property
    def is_receipt(self) -> bool:
        """Whether it is committed, and its name still shows the blob."""
        return self.receipt is not None and not self.is_gone

    @property
    def is_in_memory(self) -> bool:
        """Whether the storage does not know of it yet."""
        return self.writer is not None and not self.writer.is_stored

    @property
    def is_held(self) -> bool:
        """Whether this mount knows more of it than the storage does."""
        writer = self.writer
        return (writer is not None and not writer.is_over) or self.receipt is not None

    @property
    def is_kept(self) -> bool:
        """Whether it is held, or has failed."""
        return self.is_held or bool(self.reason)

    def info(self) -> UploadInfo:
        """Its size and time; raises UploadUnknown."""
        writer, receipt = self.writer, self.receipt  # in this order: there is always one
        if receipt is not None:
            return UploadInfo(receipt.descriptor.size, self.mtime_ns or 0)
        if writer is not None:
            return UploadInfo(writer.size, self.mtime_ns or 0)
        if self.is_gone:
            raise UploadUnknown(self.path)
        found = self._store.stat(self.id)
        return found if self.mtime_ns is None else replace(found, mtime_ns=self.mtime_ns)

    def started_at(self) -> float:
        """When it began, in seconds since the epoch; raises UploadUnknown."""
        writer = self.writer
        began = writer.started_at if writer is not None else self._store.started_at(self.id)
        return began.timestamp()

    def declared(self) -> tuple[Digest | None, int | None]:
        """The digest and the size that were declared, or that it has once it is committed."""
        writer, receipt = self.writer, self.receipt
        if receipt is not None:
            return receipt.descriptor.digest, receipt.descriptor.size
        record = writer.record if writer is not None else self._store.record(self.id)
        return record.digest, record.size

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to *size* of the bytes received; raises UploadUnknown, Unsupported."""
        if self.lock.locked() and (data := self._read_stored(offset, size)):
            return data  # without waiting for a commit
        with self.lock:
            if self.writer is not None:
                return self.writer.read_at(offset, size)
            if self.receipt is not None:
                with self._store.open_committed(self.receipt.descriptor) as reader:
                    return reader.read_at(offset, size)
            with self._store.open(self.id) as reader:
                return reader.read_at(offset, size)

    def _read_stored(self, offset: int, size: int) -> bytes | None:
        """``read_at`` by a descriptor of its own, where the storage can."""
        if self.is_in_memory:
            return None
        try:
            with self._store.open(self.id) as reader:
                return reader.read_at(offset, size)
        except BlobfsError:
            return None

    def interrupt(self, reason: str) -> None:
        """Stop a commit that is under way in another thread, if it hashes or copies."""
        writer = self.writer
        if writer is not None:
            writer.interrupt(reason)

    @contextmanager
    def _stopped(self, reason: str, within_s: float) -> Iterator[None]:
        """Hold the lock, for which what is under way is interrupted; raises StorageTimeout."""
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
        """Get ready to be written; raises Busy, ReadOnly for a receipt."""
        if self.is_gone:
            raise UploadUnknown(self.path)
        if self.is_open:
            raise Busy(f"{self.path} is being written already")
        if self.receipt is not None:
            raise ReadOnly(f"{self.path} is committed: replace it, or write another file")
        writer = self._resumed()
        writer.forget_interruption()
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
            self.writer = self._store.resume(self.id)
        return self.writer

    def truncate(self, size: int, max_undeclared: int | None = None) -> None:
        """Cut it, or fill it with zeros, while nobody has it open; raises Busy, ReadOnly, TooLarge.

        That is no close, so it is committed only if it is what was declared now.
        """
        with self.lock:
            writer = self.begin(truncate=False)
            try:
                check_size(writer, size, max_undeclared)
                writer.truncate(size)
                self.mtime_ns = time.time_ns()
            finally:
                self.is_open = False
                self.settle()

    def declare(self, *, digest: Digest | None = None, size: int | None = None) -> None:
        """Say what it will have; one that nobody writes and that has it is committed.

        Raises ContentMismatch for a receipt that has another one.
        """
        with self.lock:
            if self.receipt is not None:
                self._hold_receipt_to(digest, size)
                return
            writer = self._resumed()
            record = writer.record
            if digest is not None:
                record = replace(record, digest=digest)
            if size is not None:
                record = replace(record, size=size)
            writer.declare(record)
            self.settle()

    def rename(self, name: str) -> None:
        """Call it otherwise, which may declare its digest.

        Raises Busy, ContentMismatch for a receipt of other content.
        """
        with self.lock:
            digest = declared_by(name)
            if self.receipt is not None:
                self._hold_receipt_to(digest)
                self._store.rename_committed(self.receipt.descriptor.digest, self.name, name)
                self.name = name
                return
            writer = self._resumed()
            digest = digest or writer.record.digest
            writer.declare(replace(writer.record, name=name, digest=digest))
            self.name = name
            try:
                self.settle()
            except BlobfsError as exc:  # it is called so all the same
                log.warning("upload %s stays: %s", self.path, exc, extra=about(path=self.path))

    def commit_as(self, digest: Digest) -> None:
        """Commit it under *digest*; raises ContentMismatch, Busy."""
        with self.lock:
            if self.receipt is not None:
                self._store.commit_again(self.receipt.descriptor, digest)
                return
            if self.is_open:
                raise Busy(f"{self.path} is being written")
            self._resumed()
            try:
                self.commit(digest)
            finally:
                self.let_go()

    def _hold_receipt_to(self, digest: Digest | None, size: int | None = None) -> None:
        found, length = self.declared()
        if size not in (None, length):
            raise ContentMismatch(f"{self.path} has {length} bytes, not {size}")
        if digest is None or found is None or digest == found:
            return
        if digest.algorithm == found.algorithm:
            raise ContentMismatch(f"{self.path} hashes to {found}, not to {digest}")

    def commit(self, digest: Digest | None = None) -> None:
        """Publish it; where that fails it stays, with the reason, as durable as it can be."""
        writer = self._resumed()
        try:
            descriptor = writer.commit(digest)
        except BlobfsError as exc:
            self.reason = str(exc)
            try:
                self.suspend_writer(writer)
            except BlobfsError as again:
                fields = about(path=self.path)
                log.debug("upload %s cannot be suspended: %s", self.path, again, extra=fields)
            raise
        self.mtime_ns = self.mtime_ns or descriptor.mtime_ns
        self.receipt = Receipt(descriptor, time.monotonic())  # first: it is never without either
        self.writer = None
        self.reason = ""

    def settle(self) -> None:
        """Commit what nobody has open if it is whole, else leave it to the storage."""
        if self.is_open or self.writer is None:
            return
        try:
            if self.writer.verify():
                self.commit()
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Leave it to the storage, as far as that takes it."""
        try:
            self.keep()  # where that fails, what it holds is still here
        except Busy:
            self.writer = None  # but not if somebody else has changed it: the storage is the truth
            raise
        except Stale:
            self.writer = None
            self.reason = ""  # it is shown no longer than the storage has it
            raise
        writer = self.writer
        if writer is not None and writer.is_stored:
            self.writer = None
            writer.close()

    def keep(self) -> None:
        """Make what was received durable, if anything was."""
        if self.writer is not None and (self.writer.size or self.writer.is_stored):
            self.suspend_writer(self.writer)

    def suspend_writer(self, writer: ContentWriter) -> None:
        """Make durable what was received, and why the last attempt to finish it failed."""
        reason = self.reason[:MAX_REASON]
        try:
            if reason != writer.record.reason:
                writer.declare(replace(writer.record, reason=reason))
        finally:
            writer.suspend()

    def cancel(self) -> None:
        """Remove everything of it, also while it is being written or committed."""
        with self._stopped("removed before its commit was complete", within_s=_REMOVE_S):
            if self.writer is not None:
                self.writer.cancel()
            elif self.receipt is None and not self.is_gone:
                self._store.discard(self.id)
            self.writer = None
            self.is_gone = True

    def suspend(self, within_s: float) -> None:
        """Make what was received durable, as the mount is about to end; raises StorageTimeout."""
        with self._stopped(MOUNT_ENDS, within_s):
            self.keep()


def check_size(writer: ContentWriter, size: int, max_undeclared: int | None) -> None:
    """Raise TooLarge for a *size* in bytes that has to be declared, and is not."""
    if max_undeclared is None or size <= max_undeclared:
        return
    if writer.record.digest is None and writer.record.size is None:
        raise TooLarge(
            f"{size} bytes are more than --max-upload ({max_undeclared});"
            " declare the digest or the size, or raise the option"
        )


def declared_by(name: str) -> Digest | None:
    """The digest that a file's name declares.

    It is the name, or in the name that rsync(1) gives a file until it is whole:
    ``.<name>.<six letters and digits>``.
    """
    if name.startswith("."):
        name = name[1:].rpartition(".")[0]
    try:
        return Digest.parse(name)
    except DigestInvalid:
        return None

"""An opening of an upload for writing, and its commit at the last close.

A program may close one opening many times: ``dup``, ``fork`` and a shell's redirections copy a
descriptor, and FUSE sends a flush for each close. Only the last close commits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple, Self

from blobfs.errors import BlobfsError, Busy, ReadOnly, UploadUnknown
from blobfs.logs import about
from blobfs.storage.uploads.base import ContentWriter
from blobfs.vfs.declarations import check_size
from blobfs.vfs.upload import Upload

log = logging.getLogger(__name__)


_COMMIT_S: Final = 5.0
"""Time that an opening waits for the commit of an earlier one."""


class OpenersReport(NamedTuple):
    """Result of the search for programs that have an upload open."""

    opener_killed: bool
    held_elsewhere: bool


class OpenUpload:
    """One opening of an upload. Thread-safe: the upload's lock guards all fields but *_failure*."""

    def __init__(
        self, upload: Upload, *, truncate: bool, max_undeclared: int | None = None
    ) -> None:
        """Open *upload*; raises Busy, ReadOnly for a receipt that is not replaced.

        *max_undeclared* is the maximum size in bytes without a declared digest or size.
        """
        if upload.is_open or not upload.lock.acquire(timeout=_COMMIT_S):
            raise Busy(f"{upload.path} is being written or committed already")
        try:
            self._begin(upload, max_undeclared, truncate=truncate)
        finally:
            upload.lock.release()

    @classmethod
    def open_nowait(
        cls, upload: Upload, *, truncate: bool, max_undeclared: int | None = None
    ) -> Self | None:
        """Open *upload* without waiting, or return None; raises the errors of ``OpenUpload``.

        It needs an upload in memory with no other call in progress.
        """
        if not upload.lock.acquire(blocking=False):
            return None
        try:
            if not upload.is_in_memory:
                return None
            opened = cls.__new__(cls)
            opened._begin(upload, max_undeclared, truncate=truncate)  # noqa: SLF001  (of this class)
            return opened
        finally:
            upload.lock.release()

    def _begin(self, upload: Upload, max_undeclared: int | None, *, truncate: bool) -> None:
        upload.begin(truncate=truncate)
        self.upload = upload
        self._max_undeclared = max_undeclared
        self._written = False
        self._failure: BlobfsError | None = None  # of a write; every close raises it again
        self._refused = False  # the last commit failed
        self._opener_killed = False

    @property
    def is_clean(self) -> bool:
        """True if ``flush`` would do nothing."""
        writer = self.upload.writer
        if self.upload.receipt is not None or writer is None:
            return True
        return not self._written and self._failure is None and writer.matches() is False

    def fail(self, exc: BlobfsError) -> None:
        """Record an error that a write was answered with elsewhere; takes no lock."""
        self._failure = exc

    def write(self, offset: int, data: bytes) -> None:
        """Write *data* at *offset*; raises ReadOnly after a commit, StorageFull and the like.

        After one write has failed, all further writes fail, since a program may repeat the bytes.
        """
        with self.upload.lock:
            writer = self._writer()
            self._write(writer, offset + len(data), partial(writer.write_at, offset, data))

    def write_nowait(self, offset: int, data: bytes) -> bool:
        """Write without waiting; False if a lock or the storage would have to be waited for."""
        upload = self.upload
        if not upload.lock.acquire(blocking=False):
            return False
        try:
            writer = upload.writer
            return writer is not None and self._write(
                writer, offset + len(data), partial(writer.write_nowait, offset, data)
            )
        finally:
            upload.lock.release()

    def _write(self, writer: ContentWriter, size: int, write: Callable[[], bool | None]) -> bool:
        if self._failure is not None:
            raise self._failure
        is_written = self._change(writer, size, write)
        self._written = self._written or is_written
        return is_written

    def truncate(self, size: int) -> None:
        """Cut or extend with zeros to *size* bytes; raises the errors of ``write``."""
        with self.upload.lock:
            writer = self._writer()
            if size != writer.size:
                self._change(writer, size, partial(writer.truncate, size))
                self._written = size > 0  # after a cut to 0 nothing was written yet

    def _change(self, writer: ContentWriter, size: int, change: Callable[[], bool | None]) -> bool:
        """Call *change*, after which the upload has at least *size* bytes.

        Return False if that returns False, as nothing was changed. Record its error, which every
        close raises again.
        """
        try:
            if self._max_undeclared is not None:
                check_size(writer, size, self._max_undeclared)
            if change() is False:
                return False
        except BlobfsError as exc:
            self._failure = exc
            self.upload.reason = str(exc)
            raise
        self._refused = False
        self.upload.mtime_ns = time.time_ns()
        return True

    def sync(self) -> None:
        """Make the written bytes durable; commit them if they have the declared digest."""
        with self.upload.lock:
            writer = self._writer_to_finish()
            if writer is None:
                return
            if writer.matches() or (not self._written and writer.verify()):
                self._commit(writer)
            else:
                self.upload.make_durable()

    def flush(self, search: Callable[[], OpenersReport]) -> None:
        """Handle a close of one descriptor; *search* finds other ones.

        Raises the error of an earlier write. For the last descriptor it also raises the errors of
        the commit: ContentMismatch, ManifestRejected, StorageFull and the like.
        """
        with self.upload.lock:
            writer = self._writer_to_finish()
            if writer is None:
                return
            if writer.matches():
                self._commit(writer)
            elif self._written:
                self._flush_unmatched(writer, search())
            elif writer.verify():  # an earlier opening or mount has written all of it
                self._commit(writer)

    def _writer_to_finish(self) -> ContentWriter | None:
        """Return the writer, or None if nothing is to be done; raises an earlier write's error."""
        upload = self.upload
        if upload.receipt is not None or upload.is_gone:
            return None
        if self._failure is not None:
            raise self._failure
        if upload.writer is None or upload.writer.is_over:
            raise UploadUnknown(upload.path)
        upload.writer.clear_interruption()
        return upload.writer

    def _flush_unmatched(self, writer: ContentWriter, found: OpenersReport) -> None:
        if found.opener_killed and not self._opener_killed:
            self._opener_killed = True
            self.upload.reason = "the program that wrote it was killed"
            log.warning(
                "upload %s: the program that wrote it was killed; it stays, at %d bytes",
                self.upload.path,
                writer.size,
                extra=about(path=self.upload.path),
            )
        if found.held_elsewhere or self._opener_killed:
            try:
                self.upload.suspend_writer(writer)
            except BlobfsError:
                self._refused = True
                raise
        elif writer.size or writer.record.digest is not None:
            self._commit(writer)

    def release(self) -> None:
        """End the opening after the last close; commit if no ``flush`` did.

        Raises the errors of ``flush``, which only the log gets.
        """
        upload = self.upload
        with upload.lock:
            upload.is_open = False
            if upload.is_gone or upload.writer is None:
                return
            upload.writer.clear_interruption()
            try:
                if self._is_to_be_committed(upload.writer):
                    upload.commit(upload.writer)
            finally:
                upload.release_writer()

    def _is_to_be_committed(self, writer: ContentWriter) -> bool:
        if self._failure is not None or self._refused:
            return False
        return self._written and not self._opener_killed and writer.size > 0

    def _commit(self, writer: ContentWriter) -> None:
        self._refused = True  # it does not matter after a success
        self.upload.commit(writer)

    def _writer(self) -> ContentWriter:
        upload = self.upload
        if upload.receipt is not None:
            raise ReadOnly(f"{upload.path} is committed and cannot change; write another file")
        if upload.is_gone or upload.writer is None:
            raise UploadUnknown(upload.path)
        return upload.writer

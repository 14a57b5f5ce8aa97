"""An upload while a program has it open for writing: what becomes of it when it is closed.

A program may close one file many times: ``dup``, ``fork`` and a shell's redirections make copies of
a descriptor, and each close arrives here. So the last one has to be told from the others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple, Self

from blobfs.errors import BlobfsError, Busy, ReadOnly, UploadUnknown
from blobfs.logs import about
from blobfs.storage.uploads.base import ContentWriter
from blobfs.vfs.upload import Upload, check_size

log = logging.getLogger(__name__)


_COMMIT_S: Final = 5.0
"""Time that an opening waits for the commit after the last close."""


class OpenersReport(NamedTuple):
    """Result of a search for the programs that have an upload open."""

    opener_killed: bool
    held_elsewhere: bool


class OpenUpload:
    """One opening of an upload; thread-safe."""

    def __init__(
        self, upload: Upload, *, truncate: bool, max_undeclared: int | None = None
    ) -> None:
        """Open *upload*; raises Busy, ReadOnly for a receipt that is not replaced.

        *max_undeclared* is the most bytes that it may have with neither digest nor size declared.
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
        """Open *upload* if that takes microseconds, else return None; raises like ``OpenUpload``.

        It does where the storage does not know of the upload, and no other call is under way.
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
        self._failure: BlobfsError | None = None  # of a write, and so of every close
        self._refused = False  # by the last commit
        self._interrupted = False

    @property
    def is_clean(self) -> bool:
        """Whether ``flush`` would have nothing to do."""
        writer = self.upload.writer
        if self.upload.receipt is not None or writer is None:
            return True
        return not self._written and self._failure is None and writer.matches() is False

    def fail(self, exc: BlobfsError) -> None:
        """A write was answered with an error that it does not know of itself; takes no lock."""
        self._failure = exc

    def write(self, offset: int, data: bytes) -> None:
        """Put *data* at *offset*; raises ReadOnly after a commit, StorageFull and the like.

        Where one write failed, so does every other: a program may try the same bytes again.
        """
        with self.upload.lock:
            self._write(offset, data)

    def write_nowait(self, offset: int, data: bytes) -> bool:
        """``write`` if that takes microseconds: nobody is at it, and it adds to what is open."""
        lock = self.upload.lock
        if not lock.acquire(blocking=False):
            return False
        try:
            writer = self.upload.writer
            if writer is None or not writer.can_write_nowait(offset, len(data)):
                return False
            self._write(offset, data)
            return True
        finally:
            lock.release()

    def _write(self, offset: int, data: bytes) -> None:
        writer = self._writer()
        if self._failure is not None:
            raise self._failure
        self._written = True
        with self._changing():
            check_size(writer, offset + len(data), self._max_undeclared)
            writer.write_at(offset, data)

    def truncate(self, size: int) -> None:
        """Cut it, or fill it with zeros, to *size* bytes; raises what ``write`` does."""
        with self.upload.lock:
            writer = self._writer()
            if size == writer.size:
                return
            with self._changing():
                check_size(writer, size, self._max_undeclared)
                writer.truncate(size)
            self._written = size > 0  # one that starts again has written nothing yet

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """What fails inside is told again by every close."""
        try:
            yield
        except BlobfsError as exc:
            self._failure = exc
            self.upload.reason = str(exc)
            raise
        self._refused = False
        self.upload.mtime_ns = time.time_ns()

    def sync(self) -> None:
        """Make what was written durable, and commit it if it is what was declared."""
        with self.upload.lock:
            writer = self._writer_to_finish()
            if writer is None:
                return
            if writer.matches() or (not self._written and writer.verify()):
                self._commit()
            else:
                self.upload.keep()

    def flush(self, search: Callable[[], OpenersReport]) -> None:
        """Answer a close of one of the descriptors; *search* looks for others.

        Raises the error of an earlier write, and where this was the last descriptor what the
        commit raises: ContentMismatch, ManifestRejected, StorageFull and the like.
        """
        with self.upload.lock:
            writer = self._writer_to_finish()
            if writer is None:
                return
            if writer.matches():
                self._commit()
            elif self._written:
                self._flush_unmatched(writer, search())
            elif writer.verify():  # another opening, or a daemon that crashed, has left it whole
                self._commit()

    def _writer_to_finish(self) -> ContentWriter | None:
        """The writer, unless nothing is left to be done; raises the error of an earlier write."""
        if self.upload.receipt is not None or self.upload.is_gone:
            return None
        if self._failure is not None:
            raise self._failure
        writer = self._writer()
        writer.forget_interruption()
        return writer

    def _flush_unmatched(self, writer: ContentWriter, found: OpenersReport) -> None:
        if found.opener_killed and not self._interrupted:
            self._interrupted = True
            self.upload.reason = "the program that wrote it was killed"
            log.warning(
                "upload %s: the program that wrote it was killed; it stays, at %d bytes",
                self.upload.path,
                writer.size,
                extra=about(path=self.upload.path),
            )
        if found.held_elsewhere or self._interrupted:
            try:
                self.upload.suspend_writer(writer)
            except BlobfsError:
                self._refused = True
                raise
        elif writer.size or writer.record.digest is not None:
            self._commit()

    def release(self) -> None:
        """Let go of it after the last close, and commit what was suspended; raises like ``flush``.

        Nobody but the log is told of that.
        """
        upload = self.upload
        with upload.lock:
            upload.is_open = False
            if upload.is_gone or upload.writer is None:
                return
            upload.writer.forget_interruption()
            try:
                if self._is_to_be_committed(upload.writer):
                    upload.commit()
            finally:
                upload.let_go()

    def _is_to_be_committed(self, writer: ContentWriter) -> bool:
        if self._failure is not None or self._refused:
            return False
        return self._written and not self._interrupted and writer.size > 0

    def _commit(self) -> None:
        try:
            self.upload.commit()
        except BlobfsError:
            self._refused = True
            raise

    def _writer(self) -> ContentWriter:
        upload = self.upload
        if upload.receipt is not None:
            raise ReadOnly(f"{upload.path} is committed, and never changes now")
        if upload.is_gone or upload.writer is None:
            raise UploadUnknown(upload.path)
        return upload.writer

"""Resumable writer of one blob, after distribution's ``registry/storage/blobwriter.go``.

Differences: a small upload stays in memory until commit or suspend; ``size`` counts every byte.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import datetime

from blobfs import paths
from blobfs.digest import CANONICAL, Descriptor, Digest
from blobfs.drivers.base import FileReader
from blobfs.errors import (
    AppendOnly,
    BlobDamaged,
    BlobfsError,
    BlobUnknown,
    Busy,
    ContentMismatch,
    DigestMismatch,
    PathNotFound,
)
from blobfs.logs import about
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.linkedblobstore import LinkedBlobStore
from blobfs.storage.uploads.base import ContentWriter, check_digest, check_length
from blobfs.storage.uploads.buffer import UploadBuffer
from blobfs.storage.uploads.metadata import UploadRecord
from blobfs.storage.uploads.staging import Staging
from blobfs.storage.uploads.state import UploadState

log = logging.getLogger(__name__)


class BlobWriter(ContentWriter):
    """Receives a blob, commits it under its digest, and links it in the repository.

    ``close`` leaves the upload for ``UploadStore.resume``. Methods that use the data raise Stale if
    they were removed, and Busy if another program has written them. Not thread-safe.
    """

    def __init__(
        self, staging: Staging, blobs: BlobStore, layers: LinkedBlobStore, started_at: datetime
    ) -> None:
        super().__init__(staging.files.upload_id, started_at)
        self._staging = staging
        self._blobs, self._layers = blobs, layers
        self._received = UploadBuffer(staging, started_at)
        self._placed: Digest | None = None  # the blob that the data have become
        self._checkpoint_at = time.monotonic() + staging.checkpoint_s
        self._follow_declared(staging.record)

    @property
    def record(self) -> UploadRecord:
        return self._staging.record

    @property
    def size(self) -> int:
        return self._received.size

    @property
    def is_stored(self) -> bool:
        return not self._received.is_in_memory

    @property
    def is_over(self) -> bool:
        return self._staging.state is UploadState.ENDED

    def resume(self) -> None:
        """Load the upload's data and hash states; called by ``UploadStore.resume`` only."""
        staging, moved = self._staging, None
        try:
            size = staging.resume()
        except PathNotFound:
            moved = blob_of(self._blobs, staging.record)
            size = 0 if moved is None else moved.size  # 0: no bytes were received
        staging.enter(UploadState.DURABLE if moved is None else UploadState.PLACED)
        self._received.resume(size)
        if moved is None:
            staging.drop_states_above(self.size)  # they cover bytes that a crash has lost
        else:
            self._placed = moved.digest

    def declare(self, record: UploadRecord) -> None:
        self._check_open()
        ours = self._staging.record
        record = replace(
            ours,
            name=record.name,
            digest=record.digest,
            size=record.size,
            reason=record.reason,
            moved_to=ours.moved_to or self._placed,  # another digest must not hide the blob
        )
        if record == ours:
            return
        if ours.target_digest not in (None, record.digest):
            raise AppendOnly(f"upload {self.id} is for {ours.target_digest} only; write it anew")
        if self._staging.state.is_listed:
            self._staging.files.put_record(record)
        self._staging.record = record
        self._follow_declared(record)

    def _follow_declared(self, record: UploadRecord) -> None:
        if record.digest is not None:
            self._received.digests.add(record.digest.algorithm, self._received.size)

    def write(self, data: bytes) -> None:
        """Append *data*, for users of the library."""
        self.write_at(self.size, data)

    def write_at(self, offset: int, data: bytes) -> None:
        self._check_writable()
        self._received.write_at(offset, data)
        if time.monotonic() > self._checkpoint_at:
            self.suspend()
            self._checkpoint_at = time.monotonic() + self._staging.checkpoint_s

    def write_nowait(self, offset: int, data: bytes) -> bool:
        is_possible = (
            self._staging.state.is_writable
            and time.monotonic() < self._checkpoint_at
            and self._received.can_write_nowait(offset, len(data))
        )
        if is_possible:
            self._received.write_at(offset, data)
        return is_possible

    def truncate(self, size: int) -> None:
        if self._staging.state.is_placed and size == 0:
            self._start_again()
        self._check_writable()
        self._received.truncate(size)

    def _start_again(self) -> None:
        """Leave the blob that the data were moved to, and receive new data."""
        staging = self._staging
        staging.put_record(replace(staging.record, moved_to=None))
        staging.drop_states_above(-1)
        staging.restart()
        staging.enter(UploadState.CHANGED)
        self._placed = None
        self._received.resume(0)

    def read_at(self, offset: int, size: int) -> bytes:
        self._check_open()
        if self._placed is not None:
            with self._blobs.open(self._placed) as reader:
                return reader.read_at(offset, size)
        return self._received.read_at(offset, size)

    def matches(self) -> bool | None:
        record = self._staging.record
        if self._placed is not None and record.digest in (None, self._placed):
            return True
        if record.digest is None or record.size not in (None, self._received.size):
            return False
        found = self._received.digests.of(record.digest.algorithm, self._received.size)
        return None if found is None else found == record.digest

    def verify(self) -> bool:
        self._check_open()
        declared = self._staging.record.digest
        if self.matches() is None and declared is not None:
            self._digest(declared.algorithm)
        return bool(self.matches())

    def interrupt(self, reason: str) -> None:
        label = self._staging.files.label(self._staging.record)
        self._received.interruption.stop(f"{label}: {reason}")

    def clear_interruption(self) -> None:
        self._received.interruption.clear()

    def suspend(self) -> None:
        self._check_open()
        state = self._staging.state
        if state.is_placed:
            self._staging.put_record(self._staging.record)
        elif state is not UploadState.DURABLE:
            self._received.suspend()

    def commit(self, digest: Digest | None = None) -> Descriptor:
        self._check_open()
        declared = digest or self._staging.record.digest
        canonical = self._verify(declared)
        if self._placed is None:
            self._put_in_place(canonical)
        descriptor = Descriptor(canonical, self._received.size)
        self._layers.link_blob(declared or canonical, descriptor)
        self._layers.events.pushed(canonical, descriptor.size)
        try:
            self._staging.remove()
        except BlobfsError as exc:  # the commit has succeeded all the same
            fields = about(upload=self.id, digest=canonical)
            log.warning("upload %s is committed, its files stay: %s", self.id, exc, extra=fields)
        finally:
            self._end()
        return descriptor

    def _verify(self, declared: Digest | None) -> Digest:
        """Return the canonical digest of the received bytes; raises ContentMismatch."""
        label = self._staging.files.label(self._staging.record)
        check_length(label, self._received.size, self._staging.record.size)
        if self._placed is not None and declared in (None, self._placed):
            return self._placed  # it was verified before
        canonical = found = self._placed or self._digest(CANONICAL)
        if declared is not None:
            if declared.algorithm != CANONICAL:
                found = self._digest(declared.algorithm)
            check_digest(label, found, declared)
        return canonical

    def _digest(self, algorithm: str) -> Digest:
        """Return the digest of all received bytes; unhashed ones are read again."""
        received = self._received
        found = received.digests.of(algorithm, received.size) or received.hash_all(
            algorithm, None if self._placed is None else self.read_at
        )
        if found is None:
            label = self._staging.files.label(self._staging.record)
            raise ContentMismatch(f"{label} ends before its {self.size} bytes do")
        return found

    def _put_in_place(self, canonical: Digest) -> None:
        received, staging = self._received, self._staging
        if staging.state is UploadState.IN_MEMORY:
            self._blobs.put_as(canonical, bytes(received.content))
            return
        if self._blobs.ensure_durable(canonical, received.size):
            return  # the blob is not replaced, so its readers are not disturbed
        if (staging.record.moved_to or staging.record.digest) != canonical:
            staging.put_record(replace(staging.record, moved_to=canonical))
        source = received.place(paths.blob_data(canonical))
        if source is not None:
            with source:
                self._copy(canonical, source)
        staging.enter(
            UploadState.PLACED if staging.state.is_listed else UploadState.PLACED_UNLISTED
        )
        self._placed = canonical

    def _copy(self, canonical: Digest, source: FileReader) -> None:
        """Copy the blob to a new file, since another program may still write to the data."""
        try:
            self._blobs.copy(canonical, self._received.interruption.checked(source.chunks()))
        except DigestMismatch as exc:
            self._received.rehash()
            label = self._staging.label
            raise Busy(f"{label} is being written by another program: {exc}") from None

    def cancel(self) -> None:
        self._check_open()
        self._staging.remove()
        self._end()

    def close(self) -> None:
        if self.is_over:
            return
        try:
            self.suspend()
        finally:
            self._end()
            self._staging.close()

    def _end(self) -> None:
        self._staging.enter(UploadState.ENDED)
        self._received.release()

    def _check_open(self) -> None:
        staging = self._staging
        if staging.state is UploadState.ENDED:
            raise staging.state.refusal(staging.label)

    def _check_writable(self) -> None:
        staging = self._staging
        if not staging.state.is_writable:
            raise staging.state.refusal(staging.label)


def blob_of(blobs: BlobStore, record: UploadRecord) -> Descriptor | None:
    """Return the blob that a commit moved the upload's data to; None if there is none."""
    digest = record.moved_to or record.digest
    if digest is None or digest.algorithm != CANONICAL:
        return None
    try:
        return blobs.stat_now(digest)
    except (BlobUnknown, BlobDamaged):
        return None

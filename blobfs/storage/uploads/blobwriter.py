"""Resumable writer of one blob, after distribution's ``registry/storage/blobwriter.go``.

Differences: a small upload stays in memory until commit or suspend; ``size`` counts every byte.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import datetime
from typing import Final

from blobfs import paths
from blobfs.digest import CANONICAL, Descriptor, Digest, Digester
from blobfs.drivers.base import StorageDriver
from blobfs.errors import (
    AppendOnly,
    BlobDamaged,
    BlobfsError,
    BlobUnknown,
    Busy,
    ContentMismatch,
    DigestMismatch,
    PathNotFound,
    ReadOnly,
    WriterClosed,
)
from blobfs.logs import about
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.linkedblobstore import LinkedBlobStore
from blobfs.storage.uploads.base import ContentWriter, check_digest, check_length
from blobfs.storage.uploads.buffer import DigesterSet, UploadBuffer
from blobfs.storage.uploads.data import UploadData, UploadObject
from blobfs.storage.uploads.metadata import UploadFiles, UploadRecord
from blobfs.weakcalls import weakly

log = logging.getLogger(__name__)

_CHECKPOINT_S: Final = 30.0
"""Interval of checkpoints of uploads in an object store: a crash loses no more than its bytes."""


class BlobWriter(ContentWriter):
    """Receives a blob, commits it under its digest, and links it in the repository.

    ``close`` leaves the upload for ``UploadStore.resume``. Methods that use the data raise Stale if
    they were removed, and Busy if another program has written them. Not thread-safe.
    """

    def __init__(
        self,
        driver: StorageDriver,
        stores: tuple[BlobStore, LinkedBlobStore],
        files: UploadFiles,
        started_at: datetime,
        record: UploadRecord,
    ) -> None:
        super().__init__(files.upload_id, started_at, record)
        self._driver = driver
        self._blobs, self._layers = stores
        self._files = files
        self._moved: Digest | None = None  # the data are this blob now; only the link is missing
        self._is_known = False  # to the storage
        self._checkpoint_is_due = False
        self._checkpoint_at = time.monotonic() + _CHECKPOINT_S
        self._received = UploadBuffer(
            DigesterSet(weakly(self._load_state)),
            weakly(self._store),
            weakly(self._forget_states),
        )
        self._follow_declared(record)

    @property
    def size(self) -> int:
        return self._received.size

    @property
    def is_stored(self) -> bool:
        return self._received.data is not None

    def can_write_nowait(self, offset: int, size: int) -> bool:
        self._update_checkpoint_due()  # a write that ends with a checkpoint needs a thread
        return not self._checkpoint_is_due and self._received.can_write_nowait(offset, size)

    def _update_checkpoint_due(self) -> None:
        late = time.monotonic() > self._checkpoint_at
        self._checkpoint_is_due = late and self._driver.is_object_store

    def resume(self) -> None:
        """Load the upload's data and hash states; called by ``UploadStore.resume`` only."""
        self._is_known = True
        data = self._data_of(self._record)
        try:
            self._resume_data(data)
        except PathNotFound:
            moved = blob_of(self._blobs, self._record)
            self._moved = None if moved is None else moved.digest  # None: no bytes were received
            self._received.resume(data, 0 if moved is None else moved.size)
        if self._moved is None:
            if self._record.target_digest is not None:
                self._received.go_back()
            self._files.drop_states_above(self.size)  # they cover bytes that a crash has lost

    def _resume_data(self, data: UploadData) -> None:
        """Continue after existing data, from a hash state if no other program changed them."""
        size = data.resume()
        if self._record == UploadRecord() and not self._driver.is_object_store:
            self._record = replace(self._record, is_shared=True)
        if data.fingerprint != self._record.fingerprint:
            self._files.drop_states_above(-1)
        undisturbed = data.undisturbed_size(size)
        if undisturbed < size:  # another program wrote, or a crash came before the last flush
            self._files.drop_states_above(undisturbed)
        self._received.resume(data, size)

    def _data_of(self, record: UploadRecord) -> UploadData:
        label = f"upload {self.id}"
        if not self._driver.is_object_store:
            return UploadData(self._driver, self._files.data, label)
        blob = record.target_digest
        path = self._files.data if blob is None else paths.blob_data(blob)
        return UploadObject(self._driver, path, label, record.token, in_place=blob is not None)

    def declare(self, record: UploadRecord) -> None:
        self._check_open()
        ours = self._record
        record = replace(
            ours, name=record.name, digest=record.digest, size=record.size, reason=record.reason
        )
        if record == ours:
            return
        if ours.target_digest not in (None, record.digest):
            raise AppendOnly(f"upload {self.id} is for {ours.target_digest} only; write it anew")
        if self._is_known:
            self._files.put_record(record)
        self._follow_declared(record)
        self._record = record

    def _follow_declared(self, record: UploadRecord) -> None:
        if record.digest is not None:
            self._received.digests.add(record.digest.algorithm, self.size)

    def _load_state(self, algorithm: str, size: int) -> Digester:
        return self._files.load_state(algorithm, size) if self._is_known else Digester(algorithm)

    def _forget_states(self, size: int) -> None:
        if self._is_known:
            self._files.drop_states_above(size)

    def write(self, data: bytes) -> None:
        """Append *data*."""
        self.write_at(self.size, data)

    def write_at(self, offset: int, data: bytes) -> None:
        self._check_writable()
        self._received.write_at(offset, data)
        if self._checkpoint_is_due:
            self.suspend()
            self._checkpoint_at = time.monotonic() + _CHECKPOINT_S
        self._update_checkpoint_due()

    def truncate(self, size: int) -> None:
        self._check_open()
        if self._moved is not None and size == 0:
            self._start_again()
        self._check_writable()
        self._received.truncate(size)

    def _start_again(self) -> None:
        """Leave the blob that the data were moved to, and receive new data."""
        self._put_record(replace(self._record, moved_to=None))
        self._files.drop_states_above(-1)
        data = self._data_of(self._record)
        data.create()
        self._moved = None
        self._received.resume(data, 0)

    def read_at(self, offset: int, size: int) -> bytes:
        self._check_open()
        if self._moved is not None:
            with self._blobs.open(self._moved) as reader:
                return reader.read_at(offset, size)
        return self._received.read_at(offset, size)

    def matches(self) -> bool | None:
        declared = self._record.digest
        if self._moved is not None and declared in (None, self._moved):
            return True
        if declared is None or self._record.size not in (None, self.size):
            return False
        found = self._received.digests.of(declared.algorithm, self.size)
        return None if found is None else found == declared

    def verify(self) -> bool:
        self._check_open()
        declared = self._record.digest
        if self.matches() is None and declared is not None:
            self._digest(declared.algorithm)
        return bool(self.matches())

    def interrupt(self, reason: str) -> None:
        self._received.interruption.stop(f"{self._files.label(self._record)}: {reason}")

    def forget_interruption(self) -> None:
        self._received.interruption.clear()

    def suspend(self) -> None:
        self._check_open()
        if self._received.is_durable:
            return
        if self._moved is None:
            self._sync()
        else:
            self._put_record(self._record)
        self._received.is_durable = True

    def _sync(self) -> None:
        # A file gets data first: a crash may leave zeros where a state was saved for bytes.
        # An object gets states first: its end cannot be read again to hash it.
        state_first = self._is_known and self._driver.is_object_store
        if state_first:
            self._save_states()
        self._received.sync()
        self._put_record(self._record)
        if not state_first:
            self._save_states()
        for digester in self._received.digests:
            if digester.size == self.size:
                self._files.drop_states_below(digester.algorithm, self.size)

    def _save_states(self) -> None:
        for digester in self._received.digests:
            hashed = digester.size  # less than all after an interruption
            if hashed == self.size or hashed > self._files.hashed(digester.algorithm, self.size):
                self._files.save_state(digester)

    def commit(self, digest: Digest | None = None) -> Descriptor:
        self._check_open()
        declared = digest or self._record.digest
        canonical = self._verify(declared)
        if self._moved is None:
            self._put_in_place(canonical)
        descriptor = Descriptor(canonical, self.size)
        self._layers.link_blob(declared or canonical, descriptor)
        self._layers.events.pushed(canonical, self.size)
        self._end()
        try:
            self._discard()
        except BlobfsError as exc:  # the commit has succeeded all the same
            fields = about(upload=self.id, digest=canonical)
            log.warning("upload %s is committed, its files stay: %s", self.id, exc, extra=fields)
        return descriptor

    def _verify(self, declared: Digest | None) -> Digest:
        """Return the canonical digest of the received bytes; raises ContentMismatch."""
        label = self._files.label(self._record)
        check_length(label, self.size, self._record.size)
        if self._moved is not None and declared in (None, self._moved):
            return self._moved  # it was verified before
        canonical = self._moved or self._digest(CANONICAL)
        if declared is not None:
            check_digest(label, self._digest(declared.algorithm), declared)
        return canonical

    def _digest(self, algorithm: str) -> Digest:
        """Return the digest of all received bytes; unhashed ones are read again."""
        if self._received.digests.of(algorithm, self.size) is None:
            self._received.is_durable = False  # the next suspend saves the new hash state
        found = self._received.hash_all(algorithm, None if self._moved is None else self.read_at)
        if found is None:
            label = self._files.label(self._record)
            raise ContentMismatch(f"{label} ends before its {self.size} bytes do")
        return found

    def _put_in_place(self, canonical: Digest) -> None:
        data, content = self._received.data, self._received.content
        if data is None:
            self._blobs.put_as(canonical, content or b"")
            return
        if self._blobs.ensure_durable(canonical, self.size):
            return  # the blob is not replaced, so its readers are not disturbed
        if (self._record.moved_to or self._record.digest) != canonical:
            self._put_record(replace(self._record, moved_to=canonical))
        self._received.check_undisturbed(data)
        if self._record.is_shared or not data.move_to(self.size, paths.blob_data(canonical)):
            self._copy(canonical, data)
        self._moved = canonical
        self._received.is_durable = self._is_known  # if unknown, ``suspend`` saves the record

    def _copy(self, canonical: Digest, data: UploadData) -> None:
        """Copy the blob to a new file, since another program may still write to the data."""
        data.complete(self.size)
        try:
            self._blobs.copy(canonical, self._received.interruption.checked(data.chunks()))
        except DigestMismatch as exc:
            self._received.rehash()
            raise Busy(f"{data.label} is being written by another program: {exc}") from None

    def cancel(self) -> None:
        self._check_open()
        self._discard()
        self._end()

    def _discard(self) -> None:
        if self._received.data is not None:
            self._received.data.cancel()
        if self._is_known:
            self._files.remove()

    def close(self) -> None:
        if self._over:
            return
        try:
            self.suspend()
        finally:
            self._end()
            if self._received.data is not None:
                self._received.data.close()

    def _end(self) -> None:
        self._over = True
        self._received.release()

    def _store(self, content: bytes) -> UploadData:
        """Write the bytes from memory to the storage, and return the file for the rest."""
        if self._driver.is_object_store:
            return self._begin_object(content)
        data = self._data_of(self._record)
        try:
            self._put_record(self._record)
            data.create(content)
        except BaseException:
            self._files.remove()
            self._is_known = False
            raise
        return data

    def _begin_object(self, content: bytes) -> UploadData:
        """Begin at the blob's path if its digest is declared; ``suspend`` writes the record."""
        digest = self._record.digest
        if digest is not None and digest.algorithm == CANONICAL:
            self._record = replace(self._record, target_digest=digest)
        data = self._data_of(self._record)
        data.create(content)
        return data

    def _put_record(self, record: UploadRecord) -> None:
        """Store *record*; from then on the upload is listed and can be resumed."""
        data = self._received.data
        if data is not None:
            record = replace(record, token=data.token, fingerprint=data.fingerprint)
        if not self._is_known:
            self._files.begin(self._started_at, record)
            self._is_known = True
        elif record != self._record:
            self._files.put_record(record)
        self._record = record

    def _check_open(self) -> None:
        if self._over:
            raise WriterClosed(f"upload {self.id} has ended")

    def _check_writable(self) -> None:
        self._check_open()
        if self._moved is not None:
            raise ReadOnly(f"upload {self.id} is complete; commit it again to link its blob")


def blob_of(blobs: BlobStore, record: UploadRecord) -> Descriptor | None:
    """Return the blob that a commit moved the upload's data to; None if there is none."""
    digest = record.moved_to or record.digest
    if digest is None or digest.algorithm != CANONICAL:
        return None
    try:
        return blobs.stat_now(digest)
    except (BlobUnknown, BlobDamaged):
        return None

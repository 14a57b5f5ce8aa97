"""A resumable writer of one blob: what it has received, its running digests, and its commit.

Its life is that of distribution's (``registry/storage/blobwriter.go``), with two differences:
what is small stays in memory until it is committed or suspended, so that it costs the storage
nothing but the blob itself; and ``size`` counts every byte received.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import datetime
from typing import Final

from blobfs import paths
from blobfs.digest import CANONICAL, Descriptor, Digest, Digester
from blobfs.drivers.base import FileWriter, StorageDriver
from blobfs.errors import (
    AppendOnly,
    BlobDamaged,
    BlobfsError,
    BlobUnknown,
    Busy,
    ContentMismatch,
    PathNotFound,
    ReadOnly,
    WriterClosed,
)
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.contentwriter import ContentWriter
from blobfs.storage.linkedblobstore import LinkedBlobStore
from blobfs.storage.memorybudget import UPLOADS, Holding
from blobfs.storage.runningdigests import RunningDigests
from blobfs.storage.uploaddata import UploadData, UploadObject
from blobfs.storage.uploadfiles import UploadFiles, UploadRecord

log = logging.getLogger(__name__)

IN_MEMORY: Final = 2**20
"""The most bytes of an upload that is not in the storage yet."""

_CHUNK: Final = 2**20

_CHECKPOINT_S: Final = 10.0
"""How much of the time that a program wrote is lost at most in a crash, in an object store."""

_HASHED_ZEROS: Final = 64 * 2**20
"""The longest gap whose zeros are hashed at once, in bytes; a longer one waits for the commit."""


class BlobWriter(ContentWriter):
    """Receives a blob, and commits it under its digest, linked in the repository.

    ``close`` leaves the upload to ``UploadStore.resume``. Whatever reads or writes the data raises
    Stale where somebody has removed them, and Busy where somebody else has written them.
    """

    def __init__(
        self,
        driver: StorageDriver,
        stores: tuple[BlobStore, LinkedBlobStore],
        files: UploadFiles,
        started_at: datetime,
        record: UploadRecord,
    ) -> None:
        self._driver = driver
        self._blobs, self._layers = stores
        self._files = files
        self._started_at = started_at
        self._record = record
        self._content: bytearray | None = bytearray()  # None once the upload is in the storage
        self._data = self._data_of(record)
        self._moved: Digest | None = None  # where the data have gone, and only a link is missing
        self._held = Holding()
        self._over = False
        self._suspended = False
        self._is_known = False  # to the storage
        self._checkpoint_at = time.monotonic() + _CHECKPOINT_S
        self._size = 0
        self._digests = RunningDigests(self._remembered)
        self._follow_declared(record)

    @property
    def id(self) -> str:
        return self._files.upload_id

    @property
    def started_at(self) -> datetime:
        return self._started_at

    @property
    def record(self) -> UploadRecord:
        return self._record

    @property
    def size(self) -> int:
        return self._size

    @property
    def is_stored(self) -> bool:
        return self._content is None

    def takes_at_once(self, offset: int, size: int) -> bool:
        if not self.is_stored:
            return offset + size <= IN_MEMORY and UPLOADS.has(size)
        return self._data.is_open and self._size <= offset <= self._size + _CHUNK

    def _data_of(self, record: UploadRecord) -> UploadData:
        label = f"upload {self._files.upload_id}"
        if not self._driver.is_object_store:
            return UploadData(self._driver, self._files.data, label)
        blob = record.in_place
        path = self._files.data if blob is None else paths.blob_data(blob)
        return UploadObject(self._driver, path, label, record.token, in_place=blob is not None)

    def resume(self) -> None:
        """Take up what the storage has of the upload; ``UploadStore.resume`` calls it."""
        self._content = None
        self._suspended = self._is_known = True
        try:
            self._size = self._data.take_up()
        except PathNotFound:
            self._resume_without_data()
        self._digests.recall(self._size)
        if self._moved is None:
            if self._record.in_place is not None:
                self._go_back()
            self._files.drop_states_above(self._size)  # they tell of bytes that a crash took

    def _resume_without_data(self) -> None:
        moved = blob_of(self._blobs, self._record)
        if moved is not None:  # else it had received nothing
            self._size, self._moved = moved.size, moved.digest

    def _go_back(self) -> None:
        """Forget what came after the last bytes whose hash is known: it cannot be read again."""
        while (known := self._digests.seen) < self._size:
            try:
                self._data.go_back(known)
                self._size = known
            except AppendOnly:
                self._digests.recall(known - 1)

    def declare(self, record: UploadRecord) -> None:
        self._check_open()
        ours = self._record
        record = replace(record, blob=ours.blob, in_place=ours.in_place, token=ours.token)
        if record == ours:
            return
        if ours.in_place not in (None, record.digest):
            raise AppendOnly(f"upload {self.id} can become {ours.in_place}, or be written anew")
        if self._is_known:
            self._files.put_record(record)
        self._follow_declared(record)
        self._record = record

    def _follow_declared(self, record: UploadRecord) -> None:
        if record.digest is not None:
            self._digests.add(record.digest.algorithm, self._size)

    def _remembered(self, algorithm: str, size: int) -> Digester:
        return self._files.load_state(algorithm, size) if self._is_known else Digester(algorithm)

    def write(self, data: bytes) -> None:
        """Add *data* at the end."""
        self.write_at(self._size, data)

    def write_at(self, offset: int, data: bytes) -> None:
        self._check_writable()
        if offset > self._size:
            self._extend(offset)
        end = offset + len(data)
        self._hold(end)
        if self._content is not None:
            self._forget_after(offset)
            self._content[offset:end] = data
            self._digests.follow(offset, data)
            self._size = len(self._content)
        else:
            self._write_to_file(offset, data)

    def _write_to_file(self, offset: int, data: bytes) -> None:
        file = self._data.open(self._size)
        self._suspended = False
        try:
            if offset < self._size:
                file.rewrite(offset, b"")  # AppendOnly comes before anything is forgotten
                self._forget_after(offset)
                file.rewrite(offset, data)
                self._digests.follow(offset, data)
            else:
                file.write(data)
        finally:  # what was written before the room ended counts
            if offset == self._size:
                self._digests.follow(offset, data[: file.size - offset])
            self._size = file.size
        if self._driver.is_object_store and time.monotonic() > self._checkpoint_at:
            self.suspend()
            self._checkpoint_at = time.monotonic() + _CHECKPOINT_S

    def truncate(self, size: int) -> None:
        self._check_open()
        if self._moved is not None and size == 0:
            self._start_again()
        self._check_writable()
        if size > self._size:
            self._extend(size)
        elif size < self._size:
            if self._content is not None:
                self._forget_after(size)
                del self._content[size:]
            else:
                self._cut_file(size)
            self._size = size

    def _start_again(self) -> None:
        """Leave the blob that it has become, and receive something else."""
        self._put_record(replace(self._record, blob=None))
        self._files.drop_states_above(-1)
        self._data.create()
        self._moved, self._size = None, 0
        self._digests.recall(0)

    def _cut_file(self, size: int) -> None:
        self._suspended = False
        file = self._data.open(self._size)
        try:
            file.truncate(self._size)  # AppendOnly comes before anything is forgotten
            self._forget_after(size)
            file.truncate(size)
        except AppendOnly:
            if size > 0:
                raise
            self._forget_after(0)
            self._data.create()

    def _extend(self, size: int) -> None:
        self._hold(size)
        if self._content is not None:
            self._content += bytes(size - len(self._content))
        else:
            self._extend_file(size)
        if size - self._size <= _HASHED_ZEROS:
            for offset in range(self._size, size, _CHUNK):
                self._digests.follow(offset, bytes(min(_CHUNK, size - offset)))
        self._size = size

    def _extend_file(self, size: int) -> None:
        self._suspended = False
        file = self._data.open(self._size)
        try:
            file.truncate(size)
        except AppendOnly:
            while self._size < size:
                self._write_to_file(self._size, bytes(min(_CHUNK, size - self._size)))

    def read_at(self, offset: int, size: int) -> bytes:
        self._check_open()
        if self._content is not None:
            return bytes(self._content[offset : offset + size])
        if self._moved is not None:
            with self._blobs.open(self._moved) as reader:
                return reader.read_at(offset, size)
        return self._data.read_at(self._size, offset, size)

    def matches(self) -> bool:
        declared = self._record.digest
        if self._moved is not None and declared in (None, self._moved):
            return True
        if declared is None or self._record.size not in (None, self._size):
            return False
        return self._digests.of(declared.algorithm, self._size) == declared

    def suspend(self) -> None:
        self._check_open()
        if self._suspended:
            return
        if self._content is not None:
            self._store()
        with self._data.closed_on_failure(self._size) as file:
            self._check_undisturbed(file)
            file.flush()
        self._make_known()
        for digester in self._digests:
            # The data first: a state must never speak of bytes that a crash can take.
            if digester.size == self._size:
                self._files.save_state(digester)
                self._files.drop_states_below(digester.algorithm, self._size)
        self._suspended = True

    def commit(self, digest: Digest | None = None) -> Descriptor:
        self._check_open()
        declared = digest or self._record.digest
        canonical = self._verify(declared)
        if self._moved is None:
            self._put_in_place(canonical)
        for name in {canonical, declared or canonical}:
            self._layers.link(name, canonical)
        self._end()
        try:
            self._discard()
        except BlobfsError as exc:  # the blob is there, which is what counts
            log.warning("upload %s is committed, and cannot be removed: %s", self.id, exc)
        return Descriptor(canonical, self._size)

    def _verify(self, declared: Digest | None) -> Digest:
        """The canonical digest of what was received; raises ContentMismatch."""
        if self._record.size not in (None, self._size):
            raise self._mismatch(f"has {self._size} bytes, not {self._record.size}")
        if self._moved is not None and declared in (None, self._moved):
            return self._moved  # it was verified before
        canonical = self._moved or self._digest(CANONICAL)
        if declared is not None:
            found = self._digest(declared.algorithm)
            if found != declared:
                raise self._mismatch(f"hashes to {found}, not to {declared}")
        return canonical

    def _mismatch(self, how: str) -> ContentMismatch:
        return ContentMismatch(f"{self._files.label(self._record)} {how}")

    def _digest(self, algorithm: str) -> Digest:
        """The digest of all that was received; what has not been hashed yet is read again."""
        self._digests.add(algorithm, self._size)
        while (found := self._digests.of(algorithm, self._size)) is None:
            behind = self._digests.seen
            chunk = self._read_back(behind, min(_CHUNK, self._size - behind))
            if not chunk:
                raise self._mismatch(f"ends at {behind} bytes, not at {self._size}")
            self._digests.follow(behind, chunk)
        return found

    def _read_back(self, offset: int, size: int) -> bytes:
        if self._content is not None or self._moved is not None:
            return self.read_at(offset, size)
        return self._data.read_back(self._size, offset, size)

    def _put_in_place(self, canonical: Digest) -> None:
        if self._content is not None:
            self._blobs.put_as(canonical, bytes(self._content))
            return
        in_place = self._record.in_place == canonical
        if not in_place and self._blobs.keeps(canonical, self._size):
            return
        if (self._record.blob or self._record.digest) != canonical:
            self._put_record(replace(self._record, blob=canonical))
        with self._data.closed_on_failure(self._size) as file:
            self._check_undisturbed(file)
        self._data.complete(self._size)
        if not in_place:
            self._adopt(canonical)
        self._moved = canonical
        self._suspended = True

    def _adopt(self, canonical: Digest) -> None:
        stored = self._driver.stat(self._files.data).size
        if stored != self._size:
            raise self._mismatch(f"has {stored} bytes, not the {self._size} that were received")
        self._blobs.adopt(canonical, self._files.data)

    def cancel(self) -> None:
        self._check_open()
        self._discard()
        self._end()

    def _discard(self) -> None:
        self._data.cancel()
        if self._is_known:
            self._files.remove()

    def close(self) -> None:
        if self._over:
            return
        try:
            self.suspend()
        finally:
            self._end()
            self._data.close()

    def _hold(self, size: int) -> None:
        """Make room in memory for *size* bytes, or go on in the storage."""
        if self._content is None:
            return
        if size > IN_MEMORY or not self._held.grow(size):
            self._store()

    def _end(self) -> None:
        self._over = True
        self._held.let_go()

    def _store(self) -> None:
        """Put what was in memory into the storage, where the rest will follow."""
        content = bytes(self._content or b"")
        if self._driver.is_object_store:
            self._place()
            self._data.create(content)
        else:
            self._begin_with(content)
        self._content = None
        self._held.let_go()
        self._suspended = False

    def _begin_with(self, content: bytes) -> None:
        try:
            self._make_known()
            self._data.create(content)
        except BaseException:
            self._files.remove()
            self._is_known = False
            raise

    def _place(self) -> None:
        """Choose where the object grows: where the blob will be, if that is known."""
        digest = self._record.digest
        if digest is not None and digest.algorithm == CANONICAL:
            self._record = replace(self._record, in_place=digest)
        self._data = self._data_of(self._record)

    def _make_known(self) -> None:
        """Let others see the upload, and a later mount resume it."""
        token = self._data.token
        if not self._is_known or token != self._record.token:
            self._record = replace(self._record, token=token)
            self._files.begin(self._started_at, self._record)
            self._is_known = True

    def _check_undisturbed(self, file: FileWriter) -> None:
        """Raise Busy if somebody else has written the data: all of it is hashed anew then."""
        if not file.is_undisturbed():
            self._files.drop_states_above(-1)
            self._digests.recall(0)
            raise Busy(f"upload {self.id} is being written by somebody else")

    def _put_record(self, record: UploadRecord) -> None:
        self._make_known()
        self._files.put_record(record)
        self._record = record

    def _forget_after(self, size: int) -> None:
        """Hash anew what comes after *size* bytes, which are about to change."""
        if size >= self._size:
            return
        if self._is_known:
            # Gone before the bytes are: a registry that resumes the upload would trust them.
            self._files.drop_states_above(size)
        self._digests.forget_after(size)

    def _check_open(self) -> None:
        if self._over:
            raise WriterClosed(f"upload {self.id} is over")

    def _check_writable(self) -> None:
        self._check_open()
        if self._moved is not None:
            raise ReadOnly(f"upload {self.id} is complete, and waits only to be linked")


def blob_of(blobs: BlobStore, record: UploadRecord) -> Descriptor | None:
    """The blob that an upload's data have become, if that is why they are missing."""
    digest = record.blob or record.digest
    if digest is None or digest.algorithm != CANONICAL:
        return None
    try:
        return blobs.stat(digest)
    except (BlobUnknown, BlobDamaged):
        return None

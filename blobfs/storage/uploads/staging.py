"""The place of an upload's bytes in the storage, from the first MiB until they are a blob."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from typing import ClassVar

from blobfs import paths
from blobfs.digest import CANONICAL, Digester
from blobfs.drivers.base import FileInfo, FileReader, FileWriter, StorageDriver
from blobfs.drivers.resumable import uploads_of
from blobfs.errors import AppendOnly, BlobfsError, Busy, PathNotFound, Stale, Unsupported
from blobfs.storage.uploads.digests import DigesterSet
from blobfs.storage.uploads.metadata import UploadFiles, UploadRecord
from blobfs.storage.uploads.state import UploadState


class Staging(ABC):
    """The data of one upload, which other programs may write or remove too. Not thread-safe.

    It owns the *record*, the *state*, and the open file. Methods that use the data raise Stale if
    they were removed, and Busy if another program has written them. Errors call the upload *label*.
    """

    checkpoint_s: ClassVar[float] = math.inf
    """Interval in seconds after which a writer makes its bytes durable."""

    def __init__(self, driver: StorageDriver, files: UploadFiles, record: UploadRecord) -> None:
        self.files = files
        self.record = record
        self.state = UploadState.IN_MEMORY
        self.label = f"upload {files.upload_id}"
        self._driver = driver
        self._path = files.data
        self._file: FileWriter | None = None
        self._is_begun = False  # ``files.begin`` was called, and may have failed half way

    def enter(self, state: UploadState) -> None:
        """Change the state; raises WriterClosed, ReadOnly if *state* may not follow."""
        self.state = self.state.to(state, self.label)

    def began(self) -> datetime:
        """Time at which the stored upload began, in UTC; raises UploadUnknown."""
        return self.files.started_at()

    def stat(self) -> FileInfo | None:
        """Attributes of the data that ``resume`` would continue; None if there are none."""
        [info] = self._driver.stat_many([self._path])
        return info

    def open_stored(self) -> FileReader:
        """Open the data that nobody writes; raises PathNotFound, Unsupported."""
        return self._driver.open(self.files.data)

    def discard(self) -> None:
        """Remove everything of an upload that nobody writes; a missing upload is no error."""
        self.files.remove()

    @abstractmethod
    def begin(self, started_at: datetime, content: bytes) -> None:
        """Store *content*; after a failure the storage has nothing of the upload."""

    @abstractmethod
    def resume(self) -> int:
        """Open existing data, and return their size; raises PathNotFound, Busy, Stale.

        Hash states that do not belong to the data are dropped.
        """

    def cut_unhashed(self, size: int, digests: DigesterSet) -> int:
        """Cut resumed bytes that can be neither hashed nor read; return the new size."""
        return size

    def can_write_nowait(self, size: int) -> bool:
        """True if ``open`` and a write of *size* bytes need no network request."""
        return self._file is not None and self._file.can_write_nowait(size)

    def open(self, size: int) -> FileWriter:
        """Return the open file, which must have *size* bytes; raises Busy, Stale if it is gone."""
        if self._file is None:
            try:
                file = self._append()
            except PathNotFound:
                if size > 0:
                    raise Stale(f"the data of {self.label} were removed; write it anew") from None
                file = self._driver.create(self._path)
            if file.size != size:  # the digesters have hashed other bytes
                file.close()
                raise Busy(f"{self.label} has {file.size} bytes now, not {size}")
            self._file = file
        return self._file

    def open_for_change(self, size: int) -> FileWriter:
        """Do the same as ``open``, for a change of the bytes."""
        if self.state is UploadState.DURABLE:
            self.enter(UploadState.CHANGED)
        return self._file or self.open(size)

    def _append(self) -> FileWriter:
        return self._driver.append(self._path)

    def _create(self, content: bytes) -> None:
        file = self._driver.create(self._path)
        try:
            file.write(content)
        except BaseException:
            file.cancel()
            raise
        self._file = file

    def restart(self) -> None:
        """Begin anew with empty data."""
        self._create(b"")

    def read_at(self, total: int, offset: int, size: int) -> bytes:
        """Return up to *size* of *total* bytes from *offset*; raises Unsupported."""
        return self.open(total).read_at(offset, size)

    def read_back(self, total: int, offset: int, size: int) -> bytes:
        """Return what ``read_at`` does, for a commit; it may complete the data for that."""
        if self.state is UploadState.DURABLE:  # the next suspend saves the new hash state
            self.enter(UploadState.CHANGED)
        return self.read_at(total, offset, size)

    @abstractmethod
    def suspend(self, size: int, digests: DigesterSet) -> None:
        """Make *size* bytes, the record and the hash states durable."""

    def _end_suspend(self, size: int, digests: DigesterSet) -> None:
        for digester in digests:
            if digester.size == size:
                self.files.drop_states_below(digester.algorithm, size)
        self.enter(UploadState.DURABLE)

    @abstractmethod
    def place(self, size: int, target: str) -> FileReader | None:
        """Move the data of *size* bytes to *target*, and return None.

        If another program may write to the data, only a copy is safe: return a reader of them.
        """

    def is_undisturbed(self, size: int) -> bool:
        """False if another program has written the data since they were opened."""
        return True

    def put_record(self, record: UploadRecord) -> None:
        """Store *record*; from then on the upload is listed and can be resumed."""
        fingerprint = "" if self._file is None else self._file.fingerprint
        record = replace(record, fingerprint=fingerprint)
        if record != self.record:
            self.files.put_record(record)
            self.record = record

    def load_state(self, algorithm: str, size: int) -> Digester:
        """Return a digester from the latest saved state of at most *size* bytes, or a new one."""
        listed = self.state.is_listed
        return self.files.load_state(algorithm, size) if listed else Digester(algorithm)

    def drop_states_above(self, size: int) -> None:
        """Remove the saved hash states of more than *size* bytes."""
        if self.state.is_listed:
            self.files.drop_states_above(size)

    def _save_states(self, size: int, digests: DigesterSet) -> None:
        for digester in digests:
            hashed = digester.size  # less than all after an interruption
            if hashed == size or hashed > self.files.hashed(digester.algorithm, size):
                self.files.save_state(digester)

    def remove(self) -> None:
        """Remove everything of the upload from the storage."""
        if self._file is not None:
            file, self._file = self._file, None
            file.cancel()
        if self.state.is_listed or self._is_begun:
            self.files.remove()

    def close(self) -> None:
        """Make the data durable and close them."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()


class LocalStaging(Staging):
    """Data in a file, which can be changed anywhere, and is moved to become the blob."""

    def begin(self, started_at: datetime, content: bytes) -> None:
        try:
            self.files.begin(started_at, self.record)
            self._create(content)
        except BaseException:
            self.files.remove()
            raise
        self.enter(UploadState.CHANGED)

    def resume(self) -> int:
        self._file = file = self._append()
        if self.record == UploadRecord():  # a registry has begun it
            self.record = replace(self.record, is_shared=True)
        if file.fingerprint != self.record.fingerprint:
            self.files.drop_states_above(-1)
        return file.size

    def is_undisturbed(self, size: int) -> bool:
        with self._closed_on_failure(size) as file:
            if file.is_undisturbed():
                return True
        self._discard_file()
        return False

    def suspend(self, size: int, digests: DigesterSet) -> None:
        # The data first: a crash may leave zeros where a state was saved for bytes.
        with self._closed_on_failure(size) as file:
            file.flush()
        self.put_record(self.record)
        self._save_states(size, digests)
        self._end_suspend(size, digests)

    def place(self, size: int, target: str) -> FileReader | None:
        with self._closed_on_failure(size) as file:
            is_moved = not self.record.is_shared and file.move_to(target)
            if not is_moved:
                file.commit()
        self._file = None
        return None if is_moved else self._driver.open(self._path)

    @contextmanager
    def _closed_on_failure(self, size: int) -> Iterator[FileWriter]:
        """Yield the open file; a failure closes it, so that the next use opens it anew."""
        file = self.open(size)
        try:
            yield file
        except BlobfsError:
            self._discard_file()
            raise

    def _discard_file(self) -> None:
        with suppress(BlobfsError):  # the caller raises the cause
            self.close()


class MultipartStaging(Staging):
    """Data in an object store, where an object does not exist before it is complete.

    With a *target_digest* the data go to the path of the future blob. Then the object is completed
    only after verification, and cannot be read before. The driver finds the data by their *token*.
    """

    checkpoint_s = 30.0  # a crash loses no more than the bytes of this time

    def __init__(self, driver: StorageDriver, files: UploadFiles, record: UploadRecord) -> None:
        super().__init__(driver, files, record)
        self._uploads = uploads_of(driver)
        self._token = record.token
        self._is_complete = False
        if record.target_digest is not None:
            self._path = paths.blob_data(record.target_digest)

    def began(self) -> datetime:
        return self.files.made_at()  # one listing has it for all uploads

    def stat(self) -> FileInfo | None:
        in_place = self.record.target_digest is not None
        # Without a token, an object at the blob's path is not this upload's.
        for token in dict.fromkeys(t for t in (self._token, "") if t or not in_place):
            with suppress(PathNotFound):  # it was completed
                info = self._uploads.stat_unfinished(self._path, token)
                # ``cut_unhashed`` removes the bytes after the last state.
                size = self.files.hashed(CANONICAL, info.size) if in_place else info.size
                return info._replace(size=size)
        return None

    def open_stored(self) -> FileReader:
        try:
            return super().open_stored()
        except PathNotFound:
            if self.stat() is not None:
                raise Unsupported(f"{self.label} cannot be read before it is complete") from None
            raise

    def discard(self) -> None:
        if self.record.target_digest is not None and self._token:
            with suppress(PathNotFound):  # it was completed, and is a blob
                self._append().cancel()
        super().discard()

    def begin(self, started_at: datetime, content: bytes) -> None:
        """Store *content*, at the blob's path if its digest is declared; ``suspend`` lists it."""
        digest = self.record.digest
        if digest is not None and digest.algorithm == CANONICAL:
            self.record = replace(self.record, target_digest=digest)
            self._path = paths.blob_data(digest)
        self._started_at = started_at
        self._create(content)
        self.enter(UploadState.UNLISTED)

    def restart(self) -> None:
        if self._file is not None:
            self._file.cancel()
        self._file, self._token, self._is_complete = None, "", False
        self._create(b"")

    def resume(self) -> int:
        in_place = self.record.target_digest is not None
        if in_place and not self._token:
            raise PathNotFound(self._path)  # an object at the path is not this upload's
        try:
            file = self._append()
        except PathNotFound:
            if in_place or not self._token:
                raise
            self._token = ""  # an interrupted commit has completed the object
            file = self._append()
        self._file = file
        if file.undisturbed_size < file.size:  # another program wrote, or a crash came before flush
            self.files.drop_states_above(file.undisturbed_size)
        return file.size

    def cut_unhashed(self, size: int, digests: DigesterSet) -> int:
        if self.record.target_digest is None:
            return size
        while (hashed := digests.hashed_size) < size:
            try:
                self.open(size).go_back(hashed)
                size = hashed
            except AppendOnly:
                digests.restore(hashed - 1)
        return size

    def open(self, size: int) -> FileWriter:
        self._is_complete = False
        return super().open(size)

    def _append(self) -> FileWriter:
        return self._driver.append(self._path, self._token)

    def read_at(self, total: int, offset: int, size: int) -> bytes:
        if not self._is_complete:
            raise Unsupported(f"{self.label} cannot be read before it is complete")
        return self._driver.read_at(self._path, offset, size)

    def read_back(self, total: int, offset: int, size: int) -> bytes:
        if self.record.target_digest is None:
            self._complete(total)
        return super().read_back(total, offset, size)

    def suspend(self, size: int, digests: DigesterSet) -> None:
        # The states first, once the upload is listed: its end cannot be read again to hash it.
        was_listed = self.state.is_listed
        if was_listed:
            self._save_states(size, digests)
        if not self._is_complete:
            self.open(size).flush()  # after a failure it keeps the bytes that could not be sent
        self.put_record(self.record)
        if not was_listed:
            self._save_states(size, digests)
        self._end_suspend(size, digests)

    def put_record(self, record: UploadRecord) -> None:
        token = self._token if self._file is None else self._file.token
        record = replace(record, token=token)
        if self.state.is_listed:
            super().put_record(record)
            return
        self._is_begun = True
        self.files.begin(self._started_at, record)
        self.record = record
        placed = self.state is UploadState.PLACED_UNLISTED
        self.enter(UploadState.PLACED if placed else UploadState.CHANGED)

    def place(self, size: int, target: str) -> FileReader | None:
        self._complete(size)
        if self.record.target_digest is None:
            stored = self._driver.stat(self._path).size
            if stored != size:
                raise Busy(f"{self.label} has {stored} bytes, not the {size} that were received")
            self._driver.move(self._path, target)
        return None

    def _complete(self, total: int) -> None:
        if not self._is_complete:
            self.open(total).commit()
            self._file, self._token = None, ""
            self._is_complete = True

    def close(self) -> None:
        if self._file is not None:
            file = self._file
            super().close()
            self._token = file.token

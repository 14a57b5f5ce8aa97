"""The data of an upload in the storage: one file, which others may write or remove too."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from blobfs.drivers.base import FileWriter, StorageDriver
from blobfs.errors import BlobfsError, Busy, PathNotFound, Stale, Unsupported

log = logging.getLogger(__name__)


class UploadData:
    """Opens the file at *path* when it is needed, and tells where it is not what it was.

    *label* is what the upload is called in errors, *token* the driver's word for what is there.
    """

    def __init__(self, driver: StorageDriver, path: str, label: str, token: str = "") -> None:
        self._driver = driver
        self._path = path
        self.label = label
        self._token = token
        self._file: FileWriter | None = None

    def can_write_nowait(self, size: int) -> bool:
        """Whether neither ``open`` nor a write of *size* bytes to what it opens asks a network."""
        return self._file is not None and self._file.can_write_nowait(size)

    @property
    def token(self) -> str:
        """By which the driver finds at once what was written; ``""`` for nothing."""
        return self._token if self._file is None else self._file.token

    @property
    def fingerprint(self) -> str:
        """The driver's word for the bytes as they are; ``""`` where it has none."""
        return "" if self._file is None else self._file.fingerprint

    def create(self, content: bytes = b"") -> None:
        """Begin with *content*; what was there goes. Where that fails, nothing is there."""
        self.close()
        file = self._driver.create(self._path)
        try:
            file.write(content)
        except BaseException:
            file.cancel()
            raise
        self._file = file

    def take_up(self) -> int:
        """Open it, and tell how many bytes are there to go on with.

        Raises PathNotFound, Busy and Stale.
        """
        self._file = self._driver.append(self._path, self._token)
        return self._file.size

    def undisturbed_size(self, size: int) -> int:
        """Of *size* bytes that were taken up, those that a saved hash state may tell of."""
        return size if self._file is None else min(size, self._file.undisturbed_size)

    def go_back(self, size: int) -> None:
        """Forget what was written after *size* bytes; raises AppendOnly: not at every size."""
        file = self._file or self.open(self.take_up())
        file.go_back(size)

    def open(self, size: int) -> FileWriter:
        """The file, which must have *size* bytes; raises Busy, and Stale where it is gone."""
        if self._file is None:
            file = self._append_or_create(size)
            if file.size != size:  # what was hashed is not what is there
                file.close()
                raise Busy(f"{self.label} has {file.size} bytes now, not {size}")
            self._file = file
        return self._file

    def _append_or_create(self, size: int) -> FileWriter:
        try:
            return self._driver.append(self._path, self._token)
        except PathNotFound:
            if size > 0:
                raise Stale(f"{self.label} has lost its data") from None
            return self._driver.create(self._path)

    def read_at(self, total: int, offset: int, size: int) -> bytes:
        """Up to *size* of *total* bytes, from *offset*; raises Unsupported."""
        return self.open(total).read_at(offset, size)

    def read_back(self, total: int, offset: int, size: int) -> bytes:
        """Like ``read_at``, of an upload that is about to be committed."""
        return self.read_at(total, offset, size)

    def complete(self, total: int) -> None:
        """Make the file of *total* bytes durable, and readable where it was not before."""
        with self.closed_on_failure(total) as file:
            file.commit()
        self._file = None

    def move_to(self, total: int, target: str) -> bool:
        """Make it the file *target*, and nobody's data any more; False where it has to be copied.

        Raises Busy, Stale.
        """
        with self.closed_on_failure(total) as file:
            moved = file.move_to(target)
        if moved:
            self._file = None
        return moved

    def chunks(self) -> Iterator[bytes]:
        """All of it, once it is complete."""
        with self._driver.open(self._path) as reader:
            yield from reader.chunks()

    @contextmanager
    def closed_on_failure(self, size: int) -> Iterator[FileWriter]:
        """The file, for a sync: where that fails the next one opens it anew."""
        file = self.open(size)
        try:
            yield file
        except BlobfsError:
            self._file = None
            try:
                file.close()
            except BlobfsError as exc:
                log.debug("%s: %s", self.label, exc)
            raise

    def cancel(self) -> None:
        """Remove it, if it is open."""
        if self._file is not None:
            file, self._file = self._file, None
            file.cancel()

    def close(self) -> None:
        """Leave it, durable, to a later ``open``."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()


class UploadObject(UploadData):
    """The same in an object store, which shows nothing of it before it is complete.

    With *in_place* its path is that of the blob that it will be: then it is completed only when
    it was verified, and cannot be read back before.
    """

    def __init__(
        self, driver: StorageDriver, path: str, label: str, token: str = "", *, in_place: bool
    ) -> None:
        super().__init__(driver, path, label, token)
        self._in_place = in_place
        self._is_complete = False

    def create(self, content: bytes = b"") -> None:
        self.cancel()
        super().create(content)
        self._is_complete = False

    def take_up(self) -> int:
        if self._in_place and not self._token:
            raise PathNotFound(self._path)  # whatever somebody else writes there is not it
        try:
            self._file = self._driver.append(self._path, self._token)
        except PathNotFound:
            if self._in_place or not self._token:
                raise
            self._token = ""  # completed by a commit that did not come to its end
            self._file = self._driver.append(self._path)
        return self._file.size

    def open(self, size: int) -> FileWriter:
        self._is_complete = False
        return super().open(size)

    def read_at(self, total: int, offset: int, size: int) -> bytes:
        if not self._is_complete:
            raise Unsupported(f"{self.label} can be read once it is complete")
        return self._driver.read_at(self._path, offset, size)

    def read_back(self, total: int, offset: int, size: int) -> bytes:
        if not self._in_place:
            self.complete(total)
        return self.read_at(total, offset, size)

    def complete(self, total: int) -> None:
        if not self._is_complete:
            self.open(total).commit()
            self._file, self._token = None, ""
            self._is_complete = True

    def move_to(self, total: int, target: str) -> bool:
        self.complete(total)
        if self._in_place:
            return True
        stored = self._driver.stat(self._path).size
        if stored != total:
            raise Busy(f"{self.label} has {stored} bytes, not the {total} that were received")
        self._driver.move(self._path, target)
        return True

    @contextmanager
    def closed_on_failure(self, size: int) -> Iterator[FileWriter]:
        yield self.open(size)  # it keeps what it could not send

    def close(self) -> None:
        if self._file is not None:
            file = self._file
            super().close()
            self._token = file.token

"""The file or object of an upload's data, which other programs may write or remove too."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from blobfs.drivers.base import FileWriter, StorageDriver
from blobfs.errors import BlobfsError, Busy, PathNotFound, Stale, Unsupported

log = logging.getLogger(__name__)


class UploadData:
    """The data file at *path*: opened when it is needed, and checked for changes by others.

    Errors call the upload *label*. The driver finds unfinished data by *token*. Not thread-safe.
    """

    def __init__(self, driver: StorageDriver, path: str, label: str, token: str = "") -> None:
        self._driver = driver
        self._path = path
        self.label = label
        self._token = token
        self._file: FileWriter | None = None

    def can_write_nowait(self, size: int) -> bool:
        """True if ``open`` and a write of *size* bytes need no network request."""
        return self._file is not None and self._file.can_write_nowait(size)

    @property
    def token(self) -> str:
        """Token by which the driver finds the unfinished data; ``""`` if it has none."""
        return self._token if self._file is None else self._file.token

    @property
    def fingerprint(self) -> str:
        """The driver's fingerprint of the current bytes; ``""`` if it has none."""
        return "" if self._file is None else self._file.fingerprint

    def create(self, content: bytes = b"") -> None:
        """Replace the data with *content*; after a failure no data exist."""
        self.close()
        file = self._driver.create(self._path)
        try:
            file.write(content)
        except BaseException:
            file.cancel()
            raise
        self._file = file

    def resume(self) -> int:
        """Open existing data, and return their size; raises PathNotFound, Busy, Stale."""
        self._file = self._driver.append(self._path, self._token)
        return self._file.size

    def undisturbed_size(self, size: int) -> int:
        """Return how many of *size* resumed bytes a saved hash state may cover."""
        return size if self._file is None else min(size, self._file.undisturbed_size)

    def go_back(self, size: int) -> None:
        """Cut to *size* bytes; raises AppendOnly if the driver cannot cut at that size."""
        file = self._file or self.open(self.resume())
        file.go_back(size)

    def open(self, size: int) -> FileWriter:
        """Return the open file, which must have *size* bytes; raises Busy, Stale if it is gone."""
        if self._file is None:
            file = self._append_or_create(size)
            if file.size != size:  # the digesters have hashed other bytes
                file.close()
                raise Busy(f"{self.label} has {file.size} bytes now, not {size}")
            self._file = file
        return self._file

    def _append_or_create(self, size: int) -> FileWriter:
        try:
            return self._driver.append(self._path, self._token)
        except PathNotFound:
            if size > 0:
                raise Stale(f"the data of {self.label} were removed; write it anew") from None
            return self._driver.create(self._path)

    def read_at(self, total: int, offset: int, size: int) -> bytes:
        """Return up to *size* of *total* bytes from *offset*; raises Unsupported."""
        return self.open(total).read_at(offset, size)

    def read_back(self, total: int, offset: int, size: int) -> bytes:
        """Return what ``read_at`` does, for the commit; it may complete the object for that."""
        return self.read_at(total, offset, size)

    def complete(self, total: int) -> None:
        """Make the file of *total* bytes durable and readable."""
        with self.closed_on_failure(total) as file:
            file.commit()
        self._file = None

    def move_to(self, total: int, target: str) -> bool:
        """Move the data to *target*; False if they have to be copied. Raises Busy, Stale."""
        with self.closed_on_failure(total) as file:
            moved = file.move_to(target)
        if moved:
            self._file = None
        return moved

    def chunks(self) -> Iterator[bytes]:
        """Yield all bytes of complete data."""
        with self._driver.open(self._path) as reader:
            yield from reader.chunks()

    @contextmanager
    def closed_on_failure(self, size: int) -> Iterator[FileWriter]:
        """Yield the open file; a failure closes it, so that the next use opens it anew."""
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
        """Remove the data if they are open."""
        if self._file is not None:
            file, self._file = self._file, None
            file.cancel()

    def close(self) -> None:
        """Make the data durable and close them; ``open`` opens them again."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()


class UploadObject(UploadData):
    """Data in an object store, where an object does not exist before it is complete.

    With *in_place*, *path* is that of the future blob. Then the object is completed only after
    verification, and cannot be read before.
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

    def resume(self) -> int:
        if self._in_place and not self._token:
            raise PathNotFound(self._path)  # an object at the path is not this upload's
        try:
            self._file = self._driver.append(self._path, self._token)
        except PathNotFound:
            if self._in_place or not self._token:
                raise
            self._token = ""  # an interrupted commit has completed the object
            self._file = self._driver.append(self._path)
        return self._file.size

    def open(self, size: int) -> FileWriter:
        self._is_complete = False
        return super().open(size)

    def read_at(self, total: int, offset: int, size: int) -> bytes:
        if not self._is_complete:
            raise Unsupported(f"{self.label} cannot be read before it is complete")
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
        yield self.open(size)  # not closed: it keeps the bytes that could not be sent

    def close(self) -> None:
        if self._file is not None:
            file = self._file
            super().close()
            self._token = file.token

"""The data of an upload in the storage: one file, which others may write or remove too."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from blobfs.drivers.base import FileWriter, StorageDriver
from blobfs.errors import BlobfsError, Busy, PathNotFound, Stale

log = logging.getLogger(__name__)


class UploadData:
    """Opens the file at *path* when it is needed, and tells where it is not what it was.

    *label* is what the upload is called in errors.
    """

    def __init__(self, driver: StorageDriver, path: str, label: str) -> None:
        self._driver = driver
        self._path = path
        self._label = label
        self._file: FileWriter | None = None

    @property
    def is_open(self) -> bool:
        """Whether ``open`` need not ask the storage."""
        return self._file is not None

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

    def open(self, size: int) -> FileWriter:
        """The file, which must have *size* bytes; raises Busy, and Stale where it is gone."""
        if self._file is None:
            file = self._append_or_create(size)
            if file.size != size:  # what was hashed is not what is there
                file.close()
                raise Busy(f"{self._label} has {file.size} bytes now, not {size}")
            self._file = file
        return self._file

    def _append_or_create(self, size: int) -> FileWriter:
        try:
            return self._driver.append(self._path)
        except PathNotFound:
            if size > 0:
                raise Stale(f"{self._label} has lost its data") from None
            return self._driver.create(self._path)

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
                log.debug("%s: %s", self._label, exc)
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

"""The files of a layout in a directory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

from blobfs.concurrency import CallLock
from blobfs.digest import Digest
from blobfs.drivers.base import FileReader, StorageDriver, stat_or_none
from blobfs.drivers.batch import BatchDriver
from blobfs.drivers.filelock import EXCLUSIVE, lock
from blobfs.drivers.filesystem import FilesystemDriver
from blobfs.drivers.oserrors import os_errors
from blobfs.drivers.temporaries import (
    closed_on_failure,
    is_temporary,
    owned_fd,
    unlink_if_there,
    write_all,
)
from blobfs.errors import BlobUnknown, Busy, Corrupt, MountRefused, PathNotFound, StorageUnavailable
from blobfs.transfer.layout.entries import LAYOUT, MAX_INDEX
from blobfs.transfer.layout.store import LayoutReader, LayoutWriter

_INDEX: Final = "/index.json"
_LAYOUT: Final = "oci-layout"
_NOTES: Final = ".blobfs-notes"


class DirectoryReader(LayoutReader):
    """Reads the files of a layout through *driver*, which follows no symlinks. Thread-safe."""

    def __init__(self, place: Path, driver: StorageDriver) -> None:
        self.place = str(place)
        self._driver = driver

    @classmethod
    def opened(cls, directory: Path) -> Self:
        """Open a directory; raises PathNotFound, AccessDenied."""
        return cls(directory, FilesystemDriver.below(directory))

    def content(self, path: str) -> bytes | None:
        """Return the content of a file, which is none of the blobs; None if it is missing."""
        try:
            with self._driver.open(path) as reader:
                return b"".join(reader.chunks())
        except PathNotFound:
            return None

    def index(self) -> bytes | None:
        info = stat_or_none(self._driver, _INDEX)
        if info is not None and info.size > MAX_INDEX:
            raise Corrupt(f"{self.place}: index.json has {info.size} bytes")
        return self.content(_INDEX)

    def size(self, digest: Digest) -> int | None:
        info = stat_or_none(self._driver, _path(digest))
        return None if info is None or info.is_dir else info.size

    def open(self, digest: Digest) -> FileReader:
        try:
            return self._driver.open(_path(digest))
        except PathNotFound:
            raise BlobUnknown(digest) from None

    def close(self) -> None:
        self._driver.close()


class DirectoryWriter(LayoutWriter):
    """Writes the files of a layout in a directory, which need not exist. Thread-safe.

    From ``begin`` to ``close`` it has a lock on the file ``oci-layout``. Small blobs are in memory
    until the next note.
    """

    has_live_index = True

    def __init__(self, directory: Path) -> None:
        self.place = str(directory)
        self._directory = directory
        self._beginning = CallLock()
        self._lock_fd = -1
        self._files: _Files | None = None
        self._seen = None
        if directory.exists():
            self._files = _Files(directory)
            self._seen = self._files.reader.index()
            if self._seen is None and not all(map(_is_of_a_layout, os.listdir(directory))):
                raise MountRefused(
                    f"{directory} has files and is no OCI image layout; name a new or empty"
                    " directory"
                )

    def index(self) -> bytes | None:
        return self._seen

    def notes(self) -> bytes:
        return (self._files and self._files.reader.content(f"/{_NOTES}")) or b""

    def size(self, digest: Digest) -> int | None:
        return None if self._files is None else self._files.reader.size(digest)

    def open(self, digest: Digest) -> FileReader:
        if self._files is None:
            raise BlobUnknown(digest)
        return self._files.reader.open(digest)

    def begin(self) -> None:
        if self._lock_fd >= 0:
            return
        with self._beginning, os_errors(self.place):
            if self._lock_fd < 0:
                self._directory.mkdir(parents=True, exist_ok=True)
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(self._directory / _LAYOUT, flags, 0o666)
                with closed_on_failure(fd):
                    self._take(fd)
                self._lock_fd = fd

    def _take(self, fd: int) -> None:
        """Lock the layout by the file *fd*, and remove what a killed writer has left."""
        if not lock(fd, EXCLUSIVE):
            raise Busy(f"{self.place}: another copy writes to this layout; wait for its end")
        if not os.fstat(fd).st_size:
            write_all(fd, LAYOUT)
            os.fsync(fd)
        if self._files is None:
            self._files = _Files(self._directory)
        for unfinished in self._files.driver.unfinished("/"):
            self._files.driver.abandon(unfinished)
        self._refuse_changed()

    def _refuse_changed(self) -> None:
        if self._opened.reader.index() != self._seen:
            raise Busy(f"{self.place}: another program has changed index.json; copy again")

    @property
    def _opened(self) -> _Files:
        if self._files is None:
            raise StorageUnavailable(f"{self.place} is not created yet")
        return self._files

    def put(self, blob: Digest, chunks: Iterable[bytes], size: int) -> None:
        self._opened.batch.put_immutable(_path(blob), blob.verified(chunks))

    def alias(self, blob: Digest, canonical: Digest) -> None:
        self._opened.batch.flush()
        driver = self._opened.driver
        source, target = _path(blob), _path(canonical)
        size = driver.stat(source).size
        if not driver.copy_from(driver, source, target, size):
            with driver.open(source) as reader:
                driver.put_immutable(target, reader.chunks())

    def add_notes(self, lines: bytes) -> None:
        self._opened.batch.flush()
        with os_errors(self.place):
            append_durably(self._directory / _NOTES, lines)

    def write_index(self, payload: bytes) -> None:
        self._refuse_changed()
        self._opened.driver.put_content(_INDEX, payload)
        self._seen = payload

    def finish(self, index: bytes) -> None:
        self._opened.batch.flush()
        self.write_index(index)
        with os_errors(self.place), owned_fd(os.open(self._directory, os.O_RDONLY)) as fd:
            unlink_if_there(_NOTES, fd)

    def close(self) -> None:
        if self._files is not None:
            self._files.driver.close()
            self._files = None
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


class _Files:
    """The files of an open directory; *batch* keeps small ones in memory."""

    def __init__(self, directory: Path) -> None:
        self.driver = FilesystemDriver.below(directory)
        self.batch = BatchDriver(self.driver, rank=lambda _: 0)
        self.reader = DirectoryReader(directory, self.batch)


def _path(digest: Digest) -> str:
    return f"/blobs/{digest.algorithm}/{digest.encoded}"


def _is_of_a_layout(name: str) -> bool:
    return name in {_LAYOUT, "blobs", _NOTES} or is_temporary(name)


def append_durably(path: Path, lines: bytes) -> None:
    """Append *lines* to a file of notes, which is created if it is missing."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with owned_fd(os.open(path, flags, 0o666)) as fd:
        write_all(fd, b"\n" + lines)  # a crash may have cut off the line before
        os.fsync(fd)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names of the files in a directory durable."""
    with owned_fd(os.open(directory, os.O_RDONLY | os.O_DIRECTORY)) as fd:
        os.fsync(fd)

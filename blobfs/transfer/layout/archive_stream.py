"""A layout in a tar archive that is written to the standard output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

from blobfs.concurrency import CallLock
from blobfs.digest import Digest
from blobfs.drivers.base import FileReader
from blobfs.drivers.oserrors import os_errors
from blobfs.errors import BlobfsError, BlobUnknown, Interrupted, StorageUnavailable
from blobfs.transfer.layout import entries
from blobfs.transfer.layout.archive import INDEX, LAYOUT
from blobfs.transfer.layout.headers import BLOBS, END, header_of, link_to, name_of, of_size, padding
from blobfs.transfer.layout.store import LayoutWriter
from blobfs.transfer.layout.target import IndexedTarget
from blobfs.transfer.streams import STDOUT, write_to

_SMALL: Final = 2**20
"""The largest blob in bytes that is verified in memory, before it is written."""

_STEP: Final = 2**20
"""Zeros that are written at a time."""

_MOST_ZEROS: Final = 2**36
"""Zeros in the place of a blob that ends early. A manifest may lie about its size."""


class ArchiveStream(LayoutWriter):
    """Writes an archive to the standard output, its index last. Thread-safe.

    Nothing that was written can be changed. So a large blob is written by one thread, and one whose
    bytes are wrong is followed by an empty file of its name: programs that extract the archive take
    the last file of a name. An archive that was not finished has no index.

    The lock is held while a member is written, with the I/O of its source.
    """

    def __init__(self, output: BinaryIO) -> None:
        self.place = STDOUT
        self._output = output
        self._lock = CallLock()
        self._is_within_member = False
        self._fault = "a write was stopped"
        self._sizes: dict[Digest, int] = {}

    def index(self) -> bytes | None:
        return None

    def size(self, digest: Digest) -> int | None:
        return self._sizes.get(digest)

    def open(self, digest: Digest) -> FileReader:
        raise BlobUnknown(digest)

    def begin(self) -> None:
        """Do nothing: an archive begins with its first blob."""

    def put(self, blob: Digest, chunks: Iterable[bytes], size: int) -> None:
        if self._sizes.get(blob) == size:
            return
        if size <= _SMALL:
            content = b"".join(blob.verified(chunks))
            self._write_file(name_of(BLOBS, blob), content)
            self._sizes[blob] = len(content)
            return
        with self._member():
            fault = self._send(blob, chunks, size)
        if fault is not None:
            raise fault
        self._sizes[blob] = size

    def _send(self, blob: Digest, chunks: Iterable[bytes], size: int) -> BlobfsError | None:
        """Write a large blob as it comes, and return the fault of its bytes."""
        self._write(header_of(name_of(BLOBS, blob), size))
        rest = size
        try:
            for chunk in of_size(size, blob, chunks):
                self._write(chunk)
                rest -= len(chunk)
        except BlobfsError as exc:
            if rest > _MOST_ZEROS:
                raise Interrupted(f"{exc}; {self.place} has no end of the archive") from None
            for start in range(0, rest, _STEP):
                self._write(bytes(min(_STEP, rest - start)))
            self._write(padding(size) + header_of(name_of(BLOBS, blob), 0))
            return exc
        self._write(padding(size))
        return None

    def alias(self, blob: Digest, canonical: Digest) -> None:
        if canonical not in self._sizes:
            with self._member():
                self._write(link_to(blob, canonical))
            self._sizes[canonical] = self._sizes[blob]

    def add_notes(self, lines: bytes) -> None:
        """Do nothing: a copy that was killed cannot go on."""

    def finish(self, index: bytes) -> None:
        self._write_file(INDEX, index)
        self._write_file(LAYOUT, entries.LAYOUT)
        with self._member():
            self._write(END)
            with os_errors(self.place):
                self._output.flush()

    def close(self) -> None:
        """Do nothing: the standard output stays open."""

    def _write_file(self, name: str, content: bytes) -> None:
        with self._member():
            size = len(content)
            self._write(header_of(name, size) + content + padding(size))

    @contextmanager
    def _member(self) -> Iterator[None]:
        """Write one member meanwhile; raises Interrupted if another one has stayed incomplete."""
        with self._lock:
            if self._is_within_member:
                raise Interrupted(
                    f"{self.place} has a part of the archive: {self._fault}; copy again"
                )
            self._is_within_member = True
            try:
                yield
            except BlobfsError as exc:
                self._fault = str(exc)
                raise
            self._is_within_member = False

    def _write(self, data: bytes) -> None:
        """Write *data*; raises Interrupted, StorageFull."""
        try:
            with os_errors(self.place):
                write_to(self._output, data)
        except StorageUnavailable as exc:
            raise Interrupted(f"{exc}; the archive is incomplete") from None


class ArchiveStreamTarget(IndexedTarget):
    """Writes an OCI archive to *output*. It is complete after ``finish``."""

    def __init__(self, output: BinaryIO) -> None:
        super().__init__(ArchiveStream(output))

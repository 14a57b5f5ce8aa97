"""A layout in a tar archive that is being written."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Final

from blobfs.concurrency import CallLock
from blobfs.digest import Digest
from blobfs.drivers.base import FileReader
from blobfs.drivers.filelock import EXCLUSIVE, lock
from blobfs.drivers.oserrors import os_errors
from blobfs.drivers.ownership import is_of_another
from blobfs.drivers.temporaries import closed_on_failure, write_at
from blobfs.errors import (
    BlobUnknown,
    Busy,
    Corrupt,
    MountRefused,
    StorageUnavailable,
)
from blobfs.transfer.layout import entries
from blobfs.transfer.layout.archive import (
    INDEX,
    LAYOUT,
    Archive,
    ArchiveReader,
    Extent,
)
from blobfs.transfer.layout.directory import append_durably, sync_directory
from blobfs.transfer.layout.headers import (
    BLOBS,
    END,
    HOLES,
    header_of,
    link_to,
    name_of,
    of_size,
    padding,
)
from blobfs.transfer.layout.notes import parse_notes
from blobfs.transfer.layout.store import LayoutWriter
from blobfs.transfer.layout.target import IndexedTarget

_SMALL: Final = 2**20
"""The largest blob in bytes that is received in memory."""

_STEP: Final = 2**22
"""Zeros that are written at a time."""


class ArchiveWriter(LayoutWriter):
    """Writes ``FILE.partial``, and renames it to *file* at the end. Thread-safe.

    The members are blobs that were verified; the last two are the index and ``oci-layout``. A
    large blob is received in a member of another name, a hole, so that several are received at
    once. A hole that stays, as its blob could not be received, is zeros in the archive. A partial
    file of a killed copy is continued. The blobs of an archive that is replaced are copied into it
    first.

    The lock is held while a member is appended. From ``begin`` to ``close`` the partial file has a
    lock of the kernel.
    """

    def __init__(self, file: Path, *, replace: bool) -> None:
        self.place = str(file)
        self._file = file
        self._partial = file.with_name(f"{file.name}.partial")
        self._notes = file.with_name(f"{file.name}.partial.notes")
        self._lock = CallLock()
        self._beginning = CallLock()
        self._has_begun = False
        self._fd = -1
        self._end = 0
        if file.exists() and not replace:
            raise MountRefused(
                f"{file} exists; name another file, or use sync, which makes a new archive of it"
            )
        self._old = ArchiveReader.opened(file) if file.exists() else None
        self._new: ArchiveReader | None = None
        if self._partial.exists():
            self._new = ArchiveReader(str(self._partial), self._open_partial(0))

    def _open_partial(self, flags: int) -> int:
        with os_errors(str(self._partial)):
            flags |= os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(self._partial, flags, 0o666)
            with closed_on_failure(fd):
                _refuse_others(fd, self._partial)
            return fd

    def index(self) -> bytes | None:
        return None if self._old is None else self._old.index()

    def notes(self) -> bytes:
        with os_errors(str(self._notes)):
            if self._new is None or not self._notes.exists():
                return b""
            with open(self._notes, "rb", opener=_opened_itself) as file:
                _refuse_others(file.fileno(), self._notes)
                return file.read()

    def size(self, digest: Digest) -> int | None:
        holder = self._holder(digest)
        return None if holder is None else holder.size(digest)

    def open(self, digest: Digest) -> FileReader:
        holder = self._holder(digest)
        if holder is None:
            raise BlobUnknown(digest)
        return holder.open(digest)

    def _holder(self, digest: Digest) -> ArchiveReader | None:
        """Return the archive that has a blob, the new one first."""
        readers = (reader for reader in (self._new, self._old) if reader is not None)
        return next((reader for reader in readers if digest in reader.archive.blobs), None)

    def begin(self) -> None:
        if not self._has_begun:
            with self._beginning, os_errors(str(self._partial)):
                if not self._has_begun:
                    self._begin()
                    self._has_begun = True

    def _begin(self) -> None:
        new = self._new = self._new or ArchiveReader(
            str(self._partial), self._open_partial(os.O_CREAT)
        )
        if not lock(new.fd, EXCLUSIVE) or not _is_at(self._partial, new.fd):
            raise Busy(f"{self._partial}: another copy writes to this archive; wait for its end")
        size = os.fstat(new.fd).st_size
        if not size:
            self._notes.unlink(missing_ok=True)
        new.archive = Archive(new.fd, size)
        self._verify(new)
        self._end = new.archive.blobs_end
        os.ftruncate(new.fd, self._end)
        self._fd = new.fd
        if self._old is not None:
            self._take_over(self._old.archive.blobs, new.archive.blobs)

    def _take_over(self, old: Mapping[Digest, Extent], new: Mapping[Digest, Extent]) -> None:
        """Copy the blobs of the archive that is replaced, but for damaged ones."""
        names: dict[Extent, Digest] = {}
        for digest, extent in old.items():
            first = names.setdefault(extent, digest)
            if digest in new:
                continue
            if first in new:
                self.alias(first, digest)
                continue
            with suppress(Corrupt), self.open(digest) as reader:
                self.put(digest, reader.chunks(), extent.size)

    def _verify(self, new: ArchiveReader) -> None:
        """Make holes of blobs that a crash has damaged; those with a note are durable."""
        blobs = new.archive.blobs
        noted = {
            blobs.get(note.descriptor.digest)
            for note in parse_notes(self.notes())
            if note.descriptor is not None
        }
        for digest, extent in list(blobs.items()):
            if extent not in noted:
                try:
                    with new.open(digest) as reader:
                        for _ in digest.verified(reader.chunks()):
                            pass
                except Corrupt:
                    del blobs[digest]
                    header = _header(BLOBS, digest, extent.size)
                    start = extent.offset - len(header)
                    if os.pread(new.fd, len(header), start) == header:  # not of another program
                        write_at(new.fd, _header(HOLES, digest, extent.size), start)
                        new.archive.holes[digest] = extent

    def put(self, blob: Digest, chunks: Iterable[bytes], size: int) -> None:
        if size <= _SMALL:
            content = b"".join(blob.verified(chunks))
            header = _header(BLOBS, blob, len(content))
            with self._lock:
                start = self._append(header, content) + len(header)
                self._opened.archive.blobs[blob] = Extent(start, len(content))
            return
        extent = self._hole(blob, size)
        with os_errors(self.place):
            position = extent.offset
            for chunk in of_size(size, blob, chunks):
                write_at(self._fd, chunk, position)
                position += len(chunk)
            header = _header(BLOBS, blob, size)
            write_at(self._fd, header, extent.offset - len(header))
        with self._lock:
            self._opened.archive.blobs[blob] = extent
            del self._opened.archive.holes[blob]

    def _hole(self, blob: Digest, size: int) -> Extent:
        """Return the hole for a blob, perhaps of an attempt before."""
        header = _header(HOLES, blob, size)
        with self._lock:
            holes = self._opened.archive.holes
            if blob not in holes or holes[blob].size != size:
                begin = self._append(header)
                hole = Extent(begin + len(header), size)
                with os_errors(self.place):
                    try:
                        os.ftruncate(self._fd, hole.end)
                    except BaseException:  # such as one that no file can have
                        self._end = begin
                        os.ftruncate(self._fd, begin)
                        raise
                holes[blob], self._end = hole, hole.end
            return holes[blob]

    def _append(self, header: bytes, content: bytes = b"") -> int:
        """Append a member, and return its start; the caller has the lock."""
        start = self._end
        data = header + content + padding(len(content))
        with os_errors(self.place):
            try:
                write_at(self._fd, data, start)
            except BaseException:
                os.ftruncate(self._fd, start)
                raise
        self._end = start + len(data)
        return start

    @property
    def _opened(self) -> ArchiveReader:
        if self._new is None:
            raise StorageUnavailable(f"{self._partial} is not created yet")
        return self._new

    def alias(self, blob: Digest, canonical: Digest) -> None:
        with self._lock:
            blobs = self._opened.archive.blobs
            if canonical not in blobs:
                self._append(link_to(blob, canonical))
                blobs[canonical] = blobs[blob]

    def add_notes(self, lines: bytes) -> None:
        with os_errors(self.place):
            os.fdatasync(self._fd)
        with os_errors(str(self._notes)):
            append_durably(self._notes, lines)

    def finish(self, index: bytes) -> None:
        with self._lock, os_errors(self.place):
            self._clear_holes()
            end = self._end
            for name, content in ((INDEX, index), (LAYOUT, entries.LAYOUT)):
                self._append(header_of(name, len(content)), content)
            write_at(self._fd, END, self._end)
            self._end = end
            os.fsync(self._fd)
            if self._old is None and self._file.exists():
                raise MountRefused(f"{self._file} exists now; move it away, and copy again")
            os.rename(self._partial, self._file)
            self._notes.unlink(missing_ok=True)
            sync_directory(self._file.parent)
            if self._old is not None:
                self._old.close()
            self._opened.archive.blobs_end = end
            self._old, self._new = self._new, None
            self._fd, self._has_begun = -1, False

    def _clear_holes(self) -> None:
        """Remove the holes at the end, and fill the others with zeros."""
        holes = self._opened.archive.holes
        for blob, hole in sorted(holes.items(), key=itemgetter(1), reverse=True):
            if hole.end == self._end:
                self._end = hole.offset - len(_header(HOLES, blob, hole.size))
                os.ftruncate(self._fd, self._end)
                del holes[blob]
            else:
                _clear(self._fd, hole)

    def close(self) -> None:
        for reader in (self._old, self._new):
            if reader is not None:
                reader.close()
        self._fd, self._has_begun = -1, False
        if not self._partial.exists():  # a copy was killed after its last rename
            with suppress(OSError):
                self._notes.unlink()


def _refuse_others(fd: int, path: Path) -> None:
    """Raise MountRefused for a file of another user, who would own the archive."""
    if is_of_another(os.fstat(fd), path.parent):
        raise MountRefused(f"{path} is of another user; remove it, and copy again")


def _opened_itself(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _is_at(path: Path, fd: int) -> bool:
    """True if *fd* is the file at *path*."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _header(directory: str, digest: Digest, size: int) -> bytes:
    return header_of(name_of(directory, digest), size)


def _clear(fd: int, hole: Extent) -> None:
    """Replace the bytes of a hole by zeros, but for those that were never written."""
    offset = hole.offset
    while (offset := _data_from(fd, offset)) < hole.end:
        size = min(_STEP - offset % _STEP, hole.end - offset)  # up to the end of a page
        write_at(fd, bytes(size), offset)
        offset += size


def _data_from(fd: int, offset: int) -> int:
    """Return the offset of the next bytes that were written; a large one if there are none."""
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            return sys.maxsize
        raise


class ArchiveTarget(IndexedTarget):
    """Writes the OCI archive *file*; with *replace* an existing one gets what is copied as well.

    Raises MountRefused for an existing one otherwise, AccessDenied, Unsupported, Corrupt.
    """

    def __init__(self, file: Path, *, replace: bool = False) -> None:
        super().__init__(ArchiveWriter(file, replace=replace))

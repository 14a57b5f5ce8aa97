"""The files of a layout in a tar archive, read in place.

An archive may be hostile. Its members are found in one pass and nothing is extracted. A name counts
only if it is that of a blob or of the index; a link only if it leads to a blob before it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple, Self

from blobfs.digest import Digest
from blobfs.drivers.base import FileReader
from blobfs.drivers.localfile import LocalReader, size_of_file
from blobfs.drivers.oserrors import os_errors
from blobfs.drivers.temporaries import closed_on_failure
from blobfs.errors import BlobUnknown, Corrupt, DigestInvalid, LayerInvalid, Unsupported
from blobfs.images.members import Member
from blobfs.images.readers import RangeReader
from blobfs.images.sparse import BLOCK
from blobfs.images.tar import read_members
from blobfs.transfer.layout.entries import MAX_INDEX
from blobfs.transfer.layout.headers import HOLES
from blobfs.transfer.layout.source import IndexedSource
from blobfs.transfer.layout.store import LayoutReader
from blobfs.transfer.streams import STDIN, open_stdin

INDEX: Final = "index.json"
LAYOUT: Final = "oci-layout"

_BLOB: Final = re.compile(r"(blobs|holes)/([a-z0-9]+)/([0-9a-f]+)")
_COMPRESSED: Final = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")


class Extent(NamedTuple):
    """The bytes of a member in the archive."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        """The offset after the last block."""
        return self.offset + -(-self.size // BLOCK) * BLOCK


class Archive:
    """The members of an archive, by blob and by name.

    *holes* are members of partial archives for blobs that are not complete. *blobs_end* is the end
    of the last blob or hole, and *fault* says why nothing after it can be read.
    """

    def __init__(self, fd: int, size: int) -> None:
        self.blobs: dict[Digest, Extent] = {}
        self.holes: dict[Digest, Extent] = {}
        self.others: dict[str, Extent] = {}
        self.blobs_end = 0
        self.fault = ""
        try:
            for member in read_members(_ByteSource(fd, size)):
                self._add(member, size)
        except LayerInvalid as exc:
            self.fault = str(exc)

    def _add(self, member: Member, size: int) -> None:
        """Add a member; the last one of a name counts, as for tar."""
        extent = Extent(member.offset, member.size)
        is_file = stat.S_ISREG(member.mode) and not member.fault and member.extents is None
        name, digest = _named(member.path)
        if member.is_hard_link:
            linked = self.blobs.get(_named(member.link)[1] or digest) if digest else None
            if digest and linked:
                self.blobs[digest] = linked
                self.blobs_end = extent.offset
        elif is_file and extent.offset + extent.size > size:
            raise LayerInvalid(f"it ends within {name}")
        elif is_file and digest:
            (self.holes if name.startswith(HOLES) else self.blobs)[digest] = extent
            self.blobs_end = extent.end
        elif is_file and name in {INDEX, LAYOUT, "manifest.json"}:
            self.others[name] = extent


class ArchiveReader(LayoutReader):
    """Reads the files of a layout in a tar archive. It owns *fd*. Thread-safe."""

    def __init__(self, place: str, fd: int) -> None:
        self.place = place
        self.fd = fd
        self.archive = Archive(fd, size_of_file(self.place, fd))

    @classmethod
    def opened(cls, file: Path | None) -> Self:
        """Open an archive, without *file* that in the standard input.

        Raises PathNotFound, AccessDenied, NotAFile, Unsupported, Corrupt.
        """
        place = str(file or STDIN)
        with os_errors(place):
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(file, flags) if file else open_stdin()
            with closed_on_failure(fd):
                reader = cls(place, fd)
                reader.check()
        return reader

    def check(self) -> None:
        """Raise Unsupported, Corrupt for a file that cannot be read."""
        if os.pread(self.fd, 6, 0).startswith(_COMPRESSED):
            raise Unsupported(
                f"{self.place} is compressed; decompress it first, as gunzip and unzstd do"
            )
        if self.archive.fault:
            raise Corrupt(f"{self.place} is no whole tar archive: {self.archive.fault}")
        if INDEX in self.archive.others:
            return
        if "manifest.json" in self.archive.others:
            raise Unsupported(
                f"{self.place} is no OCI archive, but one of docker before version 25; convert it:"
                f" skopeo copy docker-archive:{self.place} oci-archive:NEW.tar"
            )
        raise Corrupt(f"{self.place} has no index.json; it is no OCI archive, or it was cut off")

    def index(self) -> bytes | None:
        extent = self.archive.others.get(INDEX)
        if extent is None:
            return None
        if extent.size > MAX_INDEX:
            raise Corrupt(f"{self.place}: index.json has {extent.size} bytes")
        with self._reader(extent) as reader:
            return b"".join(reader.chunks())

    def size(self, digest: Digest) -> int | None:
        extent = self.archive.blobs.get(digest)
        return None if extent is None else extent.size

    def open(self, digest: Digest) -> FileReader:
        extent = self.archive.blobs.get(digest)
        if extent is None:
            raise BlobUnknown(digest)
        return self._reader(extent)

    def _reader(self, extent: Extent) -> FileReader:
        with os_errors(self.place):
            file = LocalReader.of(self.place, os.dup(self.fd), is_local=True)
        return RangeReader(file, extent.offset, extent.size)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _named(path: bytes) -> tuple[str, Digest | None]:
    """Return the name of a member without ``./`` before it, and the digest of a blob."""
    name = path.decode("ascii", "replace").removeprefix("./")
    found = _BLOB.fullmatch(name)
    try:
        return name, None if found is None else Digest(found[2], found[3])
    except DigestInvalid:
        return name, None


class ArchiveSource(IndexedSource):
    """Reads an OCI archive, without *file* that in the standard input, which is kept in a file.

    Raises PathNotFound, AccessDenied, NotAFile, Unsupported, Corrupt, MountRefused.
    """

    def __init__(self, file: Path | None) -> None:
        super().__init__(ArchiveReader.opened(file))


class _ByteSource:
    """The bytes of a file in order."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self._size = size
        self.position = 0

    def read(self, size: int) -> bytes:
        data = b"".join(self._pieces(size))
        self.position += len(data)
        return data

    def _pieces(self, size: int) -> Iterator[bytes]:
        offset, end = self.position, min(self.position + size, self._size)
        while offset < end and (piece := os.pread(self.fd, end - offset, offset)):
            yield piece
            offset += len(piece)

    def skip(self, size: int) -> None:
        if self.position + size > self._size:
            raise LayerInvalid("it ends within a member")
        self.position += size

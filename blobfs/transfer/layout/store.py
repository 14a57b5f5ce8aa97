"""The files of a layout, in a directory or in an archive."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from blobfs.digest import Digest
from blobfs.drivers.base import Closing, FileReader
from blobfs.errors import Unsupported


class LayoutReader(Closing):
    """Reads the files of a layout. Thread-safe. All methods raise StorageUnavailable."""

    place: str
    """The name of the layout for messages."""

    @abstractmethod
    def index(self) -> bytes | None:
        """Return the content of ``index.json``; None if there is none."""

    @abstractmethod
    def size(self, digest: Digest) -> int | None:
        """Return the size of a blob in bytes; None if it is missing."""

    @abstractmethod
    def open(self, digest: Digest) -> FileReader:
        """Open a blob; raises BlobUnknown."""


class LayoutWriter(LayoutReader):
    """Writes the files of a layout. Blobs are written by several threads, all else by one."""

    has_live_index = False
    """True if ``write_index`` replaces the index while the layout is written."""

    def notes(self) -> bytes:
        """Return what ``add_notes`` has written."""
        return b""

    @abstractmethod
    def begin(self) -> None:
        """Create the layout if it is missing, and lock it; idempotent.

        Raises Busy if another process writes to it or has changed it since it was read.
        """

    @abstractmethod
    def put(self, blob: Digest, chunks: Iterable[bytes], size: int) -> None:
        """Store a blob; raises DigestMismatch."""

    @abstractmethod
    def alias(self, blob: Digest, canonical: Digest) -> None:
        """Give the bytes of *blob* the name *canonical* too, without a second copy."""

    @abstractmethod
    def add_notes(self, lines: bytes) -> None:
        """Append *lines* to the notes; all blobs and they are durable then."""

    def write_index(self, payload: bytes) -> None:
        """Replace ``index.json``; raises Busy if another program has changed it."""
        raise Unsupported(f"{self.place} has its index at the end")

    @abstractmethod
    def finish(self, index: bytes) -> None:
        """Make the layout complete with *index*, and remove the notes; raises Busy."""

"""Contracts of uploads: the writer of one, and the store that begins and finds them."""

from __future__ import annotations

from abc import abstractmethod
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from blobfs.digest import Descriptor, Digest
from blobfs.drivers.base import Closing, FileReader
from blobfs.errors import ContentMismatch
from blobfs.storage.uploads.metadata import UploadRecord

if TYPE_CHECKING:
    from blobfs.storage.uploads.store import StoredUploads


def check_digest(label: str, found: Digest, declared: Digest) -> None:
    """Raise ContentMismatch unless the content *label* has the *declared* digest."""
    if found != declared:
        raise ContentMismatch(f"{label} hashes to {found}, not to {declared}")


def check_length(label: str, found: int | None, declared: int | None) -> None:
    """Raise ContentMismatch if a length is *declared*, and the content *label* has another."""
    if declared not in (None, found):
        raise ContentMismatch(f"{label} has {found} bytes, not {declared}")


class ContentWriter(Closing):
    """Receives the bytes of one upload, verifies and publishes them. Not thread-safe.

    The writer ends when ``commit``, ``cancel`` or ``close`` returns. After that every method but
    ``close`` raises WriterClosed. Any other failure leaves the upload as it was.
    """

    def __init__(self, upload_id: str, started_at: datetime) -> None:
        """*upload_id* is the upload's id in the storage, *started_at* the time of its begin."""
        self.id = upload_id
        self.started_at = started_at

    @property
    @abstractmethod
    def record(self) -> UploadRecord:
        """The upload's name, and its declared digest and size."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of bytes received."""

    @property
    def is_stored(self) -> bool:
        """True if the upload is in the storage."""
        return False

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """True once the writer has ended, by a call or because memory was short."""

    @abstractmethod
    def declare(self, record: UploadRecord) -> None:
        """Replace the record: its name, or its declared digest or size."""

    @abstractmethod
    def write_at(self, offset: int, data: bytes) -> None:
        """Write *data* at *offset*; a gap before it is filled with zeros.

        Raises AppendOnly if the storage cannot change written bytes, StorageFull, TooLarge.
        """

    def write_nowait(self, offset: int, data: bytes) -> bool:
        """Do the same as ``write_at`` if it needs no request to the storage, else return False."""
        self.write_at(offset, data)
        return True

    @abstractmethod
    def truncate(self, size: int) -> None:
        """Cut or extend with zeros to *size* bytes; raises the errors of ``write_at``."""

    @abstractmethod
    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to *size* of the received bytes from *offset*; raises Unsupported."""

    @abstractmethod
    def matches(self) -> bool | None:
        """True if the received bytes have the declared digest and size; False if none is declared.

        None if bytes have to be read again to know it.
        """

    def verify(self) -> bool:
        """Return ``matches`` after reading and hashing the bytes that were not hashed yet."""
        return bool(self.matches())

    def interrupt(self, reason: str) -> None:
        """Make another thread that hashes, copies or fills with zeros raise Interrupted.

        Only this method may be called while another thread is in a method. If nothing is to be
        stopped, it stops the next such work, unless ``clear_interruption`` is called before.
        """

    def clear_interruption(self) -> None:
        """Cancel an ``interrupt`` that has stopped nothing yet."""

    @abstractmethod
    def suspend(self) -> None:
        """Make the received bytes durable; the upload can be resumed then, even after a crash."""

    @abstractmethod
    def commit(self, digest: Digest | None = None) -> Descriptor:
        """Verify the received bytes against *digest*, else the declared digest, and publish them.

        Without either, they are published under their canonical digest. Raises ContentMismatch,
        ManifestRejected, StorageFull and the storage's other errors; then the upload is unchanged
        and can be continued.
        """

    @abstractmethod
    def cancel(self) -> None:
        """Remove everything of the upload from the storage."""

    @abstractmethod
    def close(self) -> None:
        """Suspend the upload unless the writer has ended, and release its resources."""


class ContentStore(Protocol):
    """Begins uploads, and has the content of committed ones."""

    @property
    def stored(self) -> StoredUploads | None:
        """The store that has the uploads which nobody writes; None if none is ever stored."""

    def create(self, *, name: str = "", digest: Digest | None = None) -> ContentWriter:
        """Begin an upload."""

    def copy(self, name: str, digest: Digest | None) -> ContentWriter:
        """Begin an upload of a file that a program copies into a link set."""

    def set_mtime(self, digest: Digest, mtime_ns: int) -> None:
        """Set the time of a blob, where the storage keeps times that are set."""

    def open_committed(self, descriptor: Descriptor) -> FileReader:
        """Open the published content of a committed upload; raises Stale if it was removed."""

    def commit_again(self, descriptor: Descriptor, digest: Digest) -> None:
        """Link committed content under *digest* as well; raises ContentMismatch."""

    def rename_committed(self, digest: Digest, old: str, new: str) -> None:
        """Apply a rename of the committed upload from *old* to *new*; a tag may follow it."""

"""What receives the bytes of a file in an ``_uploads`` directory, and where it comes from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Protocol

from blobfs.digest import Descriptor, Digest
from blobfs.drivers.base import Closing, FileReader
from blobfs.storage.uploads.metadata import UploadInfo, UploadRecord


class ContentWriter(Closing):
    """Receives bytes, verifies and publishes them; not thread-safe.

    It is over once ``commit``, ``cancel`` or ``close`` has returned; then everything but ``close``
    raises WriterClosed. What fails for another reason leaves it as it was.
    """

    @property
    @abstractmethod
    def id(self) -> str:
        """The upload's name in the storage."""

    @property
    @abstractmethod
    def started_at(self) -> datetime:
        """When the upload began."""

    @property
    @abstractmethod
    def record(self) -> UploadRecord:
        """What the upload is called, and what was declared of it."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes received so far."""

    @property
    @abstractmethod
    def is_stored(self) -> bool:
        """Whether the storage knows of the upload."""

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """True once it has ended, by a call or for want of memory."""

    @abstractmethod
    def can_write_nowait(self, offset: int, size: int) -> bool:
        """Whether ``write_at`` of *size* bytes at *offset* only adds to what is open already."""

    @abstractmethod
    def declare(self, record: UploadRecord) -> None:
        """Replace the record: another name, another digest or size that is declared."""

    @abstractmethod
    def write_at(self, offset: int, data: bytes) -> None:
        """Put *data* at *offset*: at the end, over what was written, or after a gap of zeros.

        Raises AppendOnly where the storage cannot change what was written, StorageFull, TooLarge.
        """

    @abstractmethod
    def truncate(self, size: int) -> None:
        """Cut to *size* bytes, or fill with zeros up to there; raises what ``write_at`` does."""

    @abstractmethod
    def read_at(self, offset: int, size: int) -> bytes:
        """Up to *size* of the bytes received, from *offset*; raises Unsupported."""

    @abstractmethod
    def matches(self) -> bool | None:
        """Whether the bytes received are what was declared; None if some have to be read for that.

        Without a declared digest they are not.
        """

    def verify(self) -> bool:
        """``matches``, for which bytes that were not hashed yet are read again."""
        return bool(self.matches())

    def interrupt(self, reason: str) -> None:
        """Stop what another thread hashes, copies or fills with zeros: it raises Interrupted.

        The only method that a thread may call while another one is in a method. Where nothing of
        that is under way, it is for the next time, unless ``forget_interruption`` comes before.
        """

    def forget_interruption(self) -> None:
        """Begin something that an earlier ``interrupt`` is not meant for."""

    @abstractmethod
    def suspend(self) -> None:
        """Make what was received durable: anybody can go on with it, also after a crash."""

    @abstractmethod
    def commit(self, digest: Digest | None = None) -> Descriptor:
        """Verify what was received, and publish it.

        It is held to *digest*, else to the digest that was declared, else it gets the one that it
        has. Raises ContentMismatch, ManifestRejected, StorageFull and what else a storage can fail
        with; the upload is as it was then, and can be gone on with.
        """

    @abstractmethod
    def cancel(self) -> None:
        """Remove everything of the upload from the storage."""

    @abstractmethod
    def close(self) -> None:
        """Suspend it, unless it is over, and let go of it."""


class ContentStore(Protocol):
    """Begins, finds and resumes uploads: ``UploadStore``, ``ManifestUploadStore``."""

    def create(self, *, name: str = "", digest: Digest | None = None) -> ContentWriter:
        """Begin an upload."""

    def resume(self, upload_id: str) -> ContentWriter:
        """Go on with an upload where it stopped; raises UploadUnknown."""

    def open(self, upload_id: str) -> FileReader:
        """Open what an upload has received, to read it; raises UploadUnknown."""

    def stat(self, upload_id: str) -> UploadInfo:
        """How much an upload has received; raises UploadUnknown."""

    def record(self, upload_id: str) -> UploadRecord:
        """What an upload is called, and what was declared of it."""

    def records(self, upload_ids: Iterable[str]) -> Iterator[tuple[str, UploadRecord]]:
        """Those of *upload_ids* that are there, with their records; one request each at most."""

    def started_at(self, upload_id: str) -> datetime:
        """When an upload began; raises UploadUnknown."""

    def open_committed(self, descriptor: Descriptor) -> FileReader:
        """Open what an upload has become; raises Stale once that is gone."""

    def commit_again(self, descriptor: Descriptor, digest: Digest) -> None:
        """Link what was committed under *digest* as well; raises ContentMismatch."""

    def discard(self, upload_id: str) -> None:
        """Remove everything of an upload that nobody writes; a missing one is no error."""

    def rename_committed(self, digest: Digest, old: str, new: str) -> None:
        """Do what follows from renaming what was committed as *digest* from *old* to *new*."""

    def enumerate(self) -> Iterator[str]:
        """The id of every upload in the storage, in no order."""

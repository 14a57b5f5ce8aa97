"""Store of a repository's blob uploads, whether blobfs or a registry began them."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import ClassVar, Final, TypeVar

from blobfs import paths
from blobfs.concurrency import guard
from blobfs.digest import Descriptor, Digest
from blobfs.drivers.base import BytesReader, FileReader, StorageDriver, map_each
from blobfs.errors import (
    BlobfsError,
    BlobUnknown,
    NotFound,
    PathNotFound,
    Stale,
)
from blobfs.reference import RepositoryName
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.linkedblobstore import LinkedBlobStore
from blobfs.storage.uploads.base import ContentWriter, check_digest
from blobfs.storage.uploads.blobwriter import BlobWriter, blob_of
from blobfs.storage.uploads.metadata import UploadFiles, UploadInfo, UploadRecord
from blobfs.storage.uploads.staging import LocalStaging, MultipartStaging, Staging

T = TypeVar("T")

_MAX_RECORDS: Final = 10_000
"""Maximum number of cached records of a repository, of about 300 bytes each."""


class StoredUploads(ABC):
    """Finds the stored uploads of a repository, of blobs or of manifests. Thread-safe.

    The lock guards the cache of records; no storage is asked under it.
    """

    are_copies: ClassVar[bool] = False
    """True if they are manifests that programs copy; the version of their UUIDs tells them."""

    def __init__(
        self,
        driver: StorageDriver,
        blobs: BlobStore,
        repository: RepositoryName,
        staging_of: type[Staging],
    ) -> None:
        self._driver = driver
        self._blobs = blobs
        self._repository = repository
        self._staging_of = staging_of
        self._lock = guard()
        self._records: OrderedDict[str, bytes] = OrderedDict()  # by upload id; under the lock

    @abstractmethod
    def resume(self, upload_id: str) -> ContentWriter:
        """Return a writer that continues a stored upload; raises UploadUnknown."""

    def open(self, upload_id: str) -> FileReader:
        """Open the received bytes for reading; raises UploadUnknown, Unsupported."""
        staging = self._staging(upload_id, self.record(upload_id))
        try:
            return staging.open_stored()
        except PathNotFound:
            staging.began()  # raises UploadUnknown
        moved = blob_of(self._blobs, staging.record)
        return BytesReader(b"") if moved is None else self._blobs.open(moved.digest)

    def stat(self, upload_id: str) -> UploadInfo:
        """Size and time of an upload; raises UploadUnknown."""
        staging = self._staging(upload_id, self.listed_record(upload_id))
        info = staging.stat()
        if info is not None and info.mtime_ns:
            return UploadInfo(info.size, info.mtime_ns)
        began_ns = int(staging.began().timestamp()) * 10**9
        found = info or blob_of(self._blobs, staging.record)
        return UploadInfo(found.size if found else 0, began_ns)

    def started_at(self, upload_id: str) -> datetime:
        """Time at which an upload began; raises UploadUnknown."""
        return self._staging(upload_id).began()

    def record(self, upload_id: str) -> UploadRecord:
        """The upload's record: name, and declared digest and size."""
        return self._files(upload_id).record()

    def listed_record(self, upload_id: str) -> UploadRecord:
        """Return ``record``, from the cache if a listing shows that the file is unchanged."""
        files = self._files(upload_id)
        with self._lock:
            known = self._records.get(upload_id, b"")
        if known and self._blobs.metadata.is_known_to_hold(files.record_path, known):
            return UploadRecord.of_json(known)
        content = files.record_content()
        if self._blobs.metadata.is_known_to_hold(files.record_path, content):
            with self._lock:
                self._records[upload_id] = content
                if len(self._records) > _MAX_RECORDS:
                    self._records.popitem(last=False)
        return UploadRecord.of_json(content)

    def records(self, upload_ids: Iterable[str]) -> Iterator[tuple[str, UploadRecord]]:
        """The existing ones of *upload_ids* with their records, read in parallel.

        A record that cannot be read is empty.
        """
        for upload_id, record in self.each(self._record_or_none, upload_ids):
            if record is not None:
                yield upload_id, record

    def each(self, call: Callable[[str], T], upload_ids: Iterable[str]) -> Iterator[tuple[str, T]]:
        """Yield each of *upload_ids* with the result of *call*; calls run in parallel."""
        return map_each(self._driver, call, list(upload_ids))

    def _record_or_none(self, upload_id: str) -> UploadRecord | None:
        try:
            self.started_at(upload_id)
            return self.listed_record(upload_id)
        except NotFound:
            return None
        except BlobfsError:  # the next call for this upload raises the error
            return UploadRecord()

    def discard(self, upload_id: str) -> None:
        """Remove all files of an upload that nobody writes; a missing upload is no error."""
        self._staging(upload_id, self.record(upload_id)).discard()

    def enumerate(self) -> Iterator[str]:
        """The ids of all uploads, in no order; some of them may be unknown to other methods."""
        return (each for each in self.of_both_kinds() if is_of_copy(each) is self.are_copies)

    def of_both_kinds(self) -> Iterator[str]:
        """Do the same as ``enumerate``, for uploads of blobs and copies of manifests."""
        try:
            entries = self._driver.listdir(paths.uploads(self._repository))
        except PathNotFound:
            return
        for entry in entries:
            if entry.is_dir:
                yield entry.name

    def _files(self, upload_id: str) -> UploadFiles:
        return UploadFiles(self._driver, self._repository, upload_id)

    def _staging(self, upload_id: str, record: UploadRecord | None = None) -> Staging:
        return self._staging_of(self._driver, self._files(upload_id), record or UploadRecord())


class UploadStore(StoredUploads):
    """Begins and resumes the blob uploads of a repository. Thread-safe.

    An upload is in the storage once it has more than ``buffer.IN_MEMORY`` bytes, or was suspended.
    Two writers of one upload damage it, as in a registry; a writer of blobfs raises Busy if the
    size is not that of the bytes it has received.
    """

    def __init__(
        self,
        driver: StorageDriver,
        blobs: BlobStore,
        layers: LinkedBlobStore,
        repository: RepositoryName,
    ) -> None:
        staging_of = MultipartStaging if driver.is_object_store else LocalStaging
        super().__init__(driver, blobs, repository, staging_of)
        self._layers = layers

    def create(
        self, *, name: str = "", digest: Digest | None = None, size: int | None = None
    ) -> BlobWriter:
        """Begin an upload with a declared *digest* and *size* in bytes, if they are given."""
        return self._writer(
            str(uuid.uuid4()), datetime.now(UTC), UploadRecord(name, digest=digest, size=size)
        )

    def copy(self, name: str, digest: Digest | None) -> BlobWriter:
        """Do the same as ``create``."""
        return self.create(name=name, digest=digest)

    @property
    def stored(self) -> UploadStore:
        """This store, since its uploads are in the storage."""
        return self

    def resume(self, upload_id: str) -> BlobWriter:
        files = self._files(upload_id)
        writer = self._writer(upload_id, files.started_at(), files.record())
        writer.resume()
        return writer

    def open_committed(self, descriptor: Descriptor) -> FileReader:
        """Open the blob of a committed upload; raises Stale if it was removed."""
        try:
            return self._blobs.open(descriptor.digest)
        except BlobUnknown:
            raise Stale(f"blob {descriptor.digest} was deleted") from None

    def commit_again(self, descriptor: Descriptor, digest: Digest) -> None:
        """Link a blob under *digest* as well; raises ContentMismatch."""
        if digest != descriptor.digest:
            with self.open_committed(descriptor) as reader:
                found = Digest.of_chunks(reader.chunks(), digest.algorithm)
            check_digest(f"blob {descriptor.digest}", found, digest)
        stored = self._blobs.stat_now(descriptor.digest)
        self._blobs.sync(stored.digest)
        self._layers.link_blob(digest, stored)

    def rename_committed(self, digest: Digest, old: str, new: str) -> None:
        """Do nothing: a blob's name is its digest."""

    def set_mtime(self, digest: Digest, mtime_ns: int) -> None:
        """Set the time of a blob, where the storage keeps times that are set."""
        self._blobs.set_mtime(digest, mtime_ns)

    def _writer(self, upload_id: str, started_at: datetime, record: UploadRecord) -> BlobWriter:
        staging = self._staging(upload_id, record)
        return BlobWriter(staging, self._blobs, self._layers, started_at)


def is_of_copy(upload_id: str) -> bool:
    """True if the upload is of a manifest that a program copies: its UUID has version 8."""
    return upload_id[14:15] == "8"

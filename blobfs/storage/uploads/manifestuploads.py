"""Stores of a repository's uploads of manifests, and the writer of those that programs copy.

A program that copies a repository file by file may copy a manifest before the blobs or manifests to
which it refers. Then the manifest waits among the uploads of the repository. A registry ignores it
there, and may remove it after a week, as any other upload.
"""

from __future__ import annotations

import logging
import uuid
from datetime import datetime

from blobfs.digest import Descriptor, Digest
from blobfs.drivers.base import FileReader, StorageDriver
from blobfs.errors import BlobfsError, BlobUnknown, ContentMismatch, Stale
from blobfs.storage.blobstore import MAX_CONTENT, BlobStore
from blobfs.storage.manifeststore import ManifestStore
from blobfs.storage.uploads.base import ContentWriter
from blobfs.storage.uploads.manifestwriter import ManifestWriter, UploadTags
from blobfs.storage.uploads.metadata import UploadFiles, UploadRecord
from blobfs.storage.uploads.staging import LocalStaging
from blobfs.storage.uploads.store import StoredUploads

log = logging.getLogger(__name__)


class CopiedManifestWriter(ManifestWriter):
    """Receives a manifest that a program copies; ``suspend`` stores it among the uploads."""

    def __init__(
        self,
        manifests: ManifestStore,
        tags: UploadTags,
        record: UploadRecord,
        files: UploadFiles,
        stored: tuple[bytes, datetime] | None = None,
    ) -> None:
        """*stored* are the bytes of a stored upload, and the time of its begin."""
        content, began = stored or (b"", None)
        super().__init__(manifests, tags, record, files.upload_id, began)
        self._files = files
        self._is_stored = stored is not None
        super().truncate(len(content))
        self._content[:] = content
        self._is_changed = stored is None

    @property
    def is_stored(self) -> bool:
        return self._is_stored

    def declare(self, record: UploadRecord) -> None:
        self._is_changed = self._is_changed or record != self._record
        super().declare(record)

    def write_at(self, offset: int, data: bytes) -> None:
        super().write_at(offset, data)
        self._is_changed = True

    def truncate(self, size: int) -> None:
        super().truncate(size)
        self._is_changed = True

    def suspend(self) -> None:
        self._check_open()
        if self._is_changed:
            self._files.begin(self.started_at, self._record)
            self._is_stored = True
            self._files.put_data(bytes(self._content))
            self._is_changed = False

    def commit(self, digest: Digest | None = None) -> Descriptor:
        descriptor = super().commit(digest)
        try:
            self._remove()
        except BlobfsError as exc:  # the commit has succeeded all the same
            log.warning("%s is committed, its files stay: %s", self.label, exc)
        return descriptor

    def cancel(self) -> None:
        self._check_open()
        self._remove()
        self._end()

    def _remove(self) -> None:
        if self._is_stored:
            self._files.remove()

    def close(self) -> None:
        if self.is_over:
            return
        try:
            self.suspend()
        finally:
            self._end()


class CopiedManifests(StoredUploads):
    """Begins and resumes uploads of manifests that programs copy. Thread-safe."""

    are_copies = True

    def __init__(
        self,
        driver: StorageDriver,
        blobs: BlobStore,
        manifests: ManifestStore,
        tags: UploadTags,
    ) -> None:
        super().__init__(driver, blobs, tags.repository, LocalStaging)
        self._manifests = manifests
        self._tags = tags

    def begin(self, record: UploadRecord) -> CopiedManifestWriter:
        """Begin an upload, whose UUID has version 8."""
        number = uuid.uuid4().int & ~(0xF << 76) | 8 << 76
        files = self._files(str(uuid.UUID(int=number)))
        return CopiedManifestWriter(self._manifests, self._tags, record, files)

    def resume(self, upload_id: str) -> ContentWriter:
        files = self._files(upload_id)
        began = files.started_at()
        with self.open(upload_id) as reader:
            stored = (reader.read_at(0, MAX_CONTENT), began)
        return CopiedManifestWriter(self._manifests, self._tags, files.record(), files, stored)

    def set_mtime(self, digest: Digest, mtime_ns: int) -> None:
        """Set the time of a manifest's blob, where the storage keeps times that are set."""
        self._blobs.set_mtime(digest, mtime_ns)


class ManifestUploadStore:
    """Begins a repository's uploads of manifests. Only those of *copies* are stored unfinished."""

    def __init__(self, manifests: ManifestStore, tags: UploadTags, copies: CopiedManifests) -> None:
        self._manifests = manifests
        self._tags = tags
        self.stored = copies

    def create(self, *, name: str = "", digest: Digest | None = None) -> ContentWriter:
        """Begin an upload; *name* becomes a tag of the manifest if it is a valid one."""
        return ManifestWriter(self._manifests, self._tags, UploadRecord(name, digest=digest))

    def copy(self, name: str, digest: Digest | None) -> CopiedManifestWriter:
        """Begin an upload that waits in the storage for what the manifest refers to."""
        return self.stored.begin(UploadRecord(name, digest=digest))

    def set_mtime(self, digest: Digest, mtime_ns: int) -> None:
        """Set the time of a manifest's blob, where the storage keeps times that are set."""
        self.stored.set_mtime(digest, mtime_ns)

    def open_committed(self, descriptor: Descriptor) -> FileReader:
        """Open the manifest of a committed upload; raises Stale if it was removed."""
        try:
            return self._manifests.links.open(descriptor.digest)
        except BlobUnknown:
            raise Stale(f"manifest {descriptor.digest} was deleted") from None

    def commit_again(self, descriptor: Descriptor, digest: Digest) -> None:
        """Raise ContentMismatch unless *digest* is the manifest's own."""
        if digest != descriptor.digest:
            raise ContentMismatch(f"manifest {descriptor.digest} is not {digest}")

    def rename_committed(self, digest: Digest, old: str, new: str) -> None:
        """Tag the manifest if *new* is a tag, and remove the tag that an upload made of *old*."""
        self._tags.rename(old, new, digest)

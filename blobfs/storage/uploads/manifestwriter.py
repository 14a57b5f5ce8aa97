"""Uploads of manifests: in memory until they are complete, since none is large."""

from __future__ import annotations

import logging
import re
import uuid
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Final

from blobfs.concurrency import guard
from blobfs.digest import Descriptor, Digest
from blobfs.errors import (
    LinkInvalid,
    ManifestIncomplete,
    ManifestRejected,
    NameInvalid,
    StorageFull,
    TagUnknown,
    TooLarge,
    WriterClosed,
)
from blobfs.reference import Tag
from blobfs.storage.blobstore import MAX_CONTENT
from blobfs.storage.manifeststore import ManifestStore
from blobfs.storage.tagstore import TagStore
from blobfs.storage.uploads.base import ContentWriter, check_digest, check_length
from blobfs.storage.uploads.buffer import MemoryReservation
from blobfs.storage.uploads.metadata import UploadRecord

log = logging.getLogger(__name__)

_UNFINISHED: Final = re.compile(
    r"sed[A-Za-z0-9]{6}"  # sed -i
    r"|tmp\.[A-Za-z0-9]{6,}"  # mktemp(1)
    r"|.+\.(?:partial|part|filepart|tmp|temp|swp|swx|bak|orig)",  # rclone, WinSCP, editors
    re.IGNORECASE,
)
"""Names of files that programs have not completed yet, or of their backups.

Most other such names cannot be tags: they begin with a dot, or have a tilde or a hash sign. The
file ``4913`` of vim(1), a test of the directory, is left empty; it may be a build's tag too.
"""

_MAX_MADE: Final = 1024


def tag_named(name: str) -> Tag | None:
    """Return the tag of a file's name; None if it cannot be a tag, or the file is unfinished."""
    try:
        return None if _UNFINISHED.fullmatch(name) else Tag(name)
    except NameInvalid:
        return None


class UploadTags:
    """Tags manifests by the names of their files. Thread-safe.

    It remembers the tags that it has made, to remove them when their files are renamed. The lock
    guards that table; no storage is asked under it.
    """

    def __init__(self, tags: TagStore) -> None:
        self.repository = tags.repository
        self._tags = tags
        self._lock = guard()
        self._made: OrderedDict[Tag, Digest] = OrderedDict()

    def tag(self, name: str, digest: Digest) -> bool:
        """Tag a manifest by its file's *name*; False if the name is no tag."""
        tag = tag_named(name)
        if tag is None:
            return False
        with self._lock:
            is_made = self._made.pop(tag, None) is not None
        is_made = is_made or not self._tags.exists(tag)
        self._tags.tag(tag, digest)
        if is_made:
            with self._lock:
                self._made[tag] = digest
                if len(self._made) > _MAX_MADE:
                    self._made.popitem(last=False)
        return True

    def rename(self, old: str, new: str, digest: Digest) -> None:
        """Tag a manifest by its file's *new* name, and remove the tag made for the *old* name."""
        if new == old or not self.tag(new, digest):
            return
        tag = tag_named(old)
        if tag is None:
            return
        with self._lock:
            if self._made.get(tag) != digest:
                return
            del self._made[tag]
        try:
            if self._tags.get_now(tag) == digest:
                self._tags.untag(tag)
        except (TagUnknown, LinkInvalid):
            pass  # another program has removed or damaged it


class WaitingManifests:
    """Manifests that were refused or left unfinished, in memory until a program continues them.

    The oldest are dropped if a repository has too many bytes of them, or if another manifest needs
    the memory. Thread-safe: the lock guards the order, and no writer is closed under it.
    """

    def __init__(self, limit: int = 8 * 2**20) -> None:
        self._limit = limit  # bytes of one repository
        self._lock = guard()
        self._writers: OrderedDict[ManifestWriter, None] = OrderedDict()

    def add(self, writer: ManifestWriter) -> None:
        """Add a writer, and drop the oldest ones of its repository beyond the limit."""
        with self._lock:
            self._writers[writer] = None
            self._writers.move_to_end(writer)
            of_repository = [w for w in self._writers if w.repository == writer.repository]
        left = self._limit
        for other in reversed(of_repository):
            left -= other.size
            if left < 0 and other is not writer:
                self._drop(other)

    def discard(self, writer: ManifestWriter) -> None:
        """Remove a writer that is continued or has ended."""
        with self._lock:
            self._writers.pop(writer, None)

    def drop_oldest(self) -> bool:
        """Drop the oldest writer; False if there is none."""
        with self._lock:
            oldest = next(iter(self._writers), None)
        if oldest is not None:
            self._drop(oldest)
        return oldest is not None

    def _drop(self, writer: ManifestWriter) -> None:
        log.info("%s was never complete and is dropped: newer ones need its memory", writer.label)
        writer.close()


WAITING: Final = WaitingManifests()


class ManifestWriter(ContentWriter):
    """Receives a manifest, stores it as a revision, and tags it with the upload's name."""

    def __init__(
        self,
        manifests: ManifestStore,
        tags: UploadTags,
        record: UploadRecord,
        upload_id: str = "",
        started_at: datetime | None = None,
    ) -> None:
        super().__init__(upload_id or str(uuid.uuid4()), started_at or datetime.now(UTC))
        self._record = record
        self._is_over = False
        self._manifests = manifests
        self._tags = tags
        self.repository = tags.repository
        self.label = f"{tags.repository}/_manifests/_uploads/{record.name}"
        self._content = bytearray()
        self._reservation = MemoryReservation()

    @property
    def record(self) -> UploadRecord:
        return self._record

    @property
    def size(self) -> int:
        return len(self._content)

    @property
    def is_over(self) -> bool:
        return self._is_over

    def declare(self, record: UploadRecord) -> None:
        self._check_open()
        self._record = record

    def write_at(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        if end > len(self._content):
            self.truncate(end)
        self._check_open()
        WAITING.discard(self)
        self._content[offset:end] = data

    def truncate(self, size: int) -> None:
        self._check_open()
        if size > MAX_CONTENT:
            raise TooLarge(f"{self.label}: a manifest has at most {MAX_CONTENT} bytes, not {size}")
        WAITING.discard(self)
        while not self._reservation.grow(size):
            if WAITING.drop_oldest():
                continue
            raise StorageFull(f"{self.label}: too many uploads are in memory; try again later")
        del self._content[size:]
        self._content += bytes(size - len(self._content))

    def read_at(self, offset: int, size: int) -> bytes:
        self._check_open()
        return bytes(self._content[offset : offset + size])

    def matches(self) -> bool:
        declared = self._record.digest
        return (
            declared is not None
            and self._record.size in (None, self.size)
            and Digest.of(bytes(self._content), declared.algorithm) == declared
        )

    def suspend(self) -> None:
        self._check_open()
        WAITING.add(self)

    def commit(self, digest: Digest | None = None) -> Descriptor:
        self._check_open()
        content = bytes(self._content)
        declared = digest or self._record.digest
        if declared is not None:
            check_digest(self.label, Digest.of(content, declared.algorithm), declared)
        check_length(self.label, self.size, self._record.size)
        try:
            descriptor = self._manifests.put(content)
        except ManifestIncomplete as exc:
            raise ManifestIncomplete(f"{self.label} {exc}", exc.missing) from None
        except ManifestRejected as exc:
            raise ManifestRejected(f"{self.label} {exc}") from None
        if declared is not None:
            self._manifests.links.link_blob(declared, descriptor)
        if not self._tags.tag(self._record.name, descriptor.digest):
            self._manifests.links.events.pushed(descriptor.digest, descriptor.size)
        self._end()
        return descriptor

    def cancel(self) -> None:
        self._check_open()
        self._end()

    def close(self) -> None:
        self._end()

    def _end(self) -> None:
        self._is_over = True
        WAITING.discard(self)
        self._content = bytearray()
        self._reservation.release()

    def _check_open(self) -> None:
        if self._is_over:
            raise WriterClosed(f"upload {self.id} has ended")

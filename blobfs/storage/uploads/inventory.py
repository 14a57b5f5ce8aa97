"""Lists of uploads that have not ended, and of unfinished objects that belong to none."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from functools import partial

from blobfs import paths
from blobfs.drivers.resumable import Unfinished
from blobfs.errors import BlobfsError, NotFound, PathInvalid
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository
from blobfs.storage.uploads.metadata import UploadRecord
from blobfs.storage.uploads.store import StoredUploads


@dataclass(frozen=True, slots=True)
class UnfinishedUpload:
    """An upload: *size* in bytes, *began* in seconds since the epoch; None means unknown.

    *name* is the name in its record, else its id. *reason* is the error of the last commit that
    failed. An unfinished object without an upload, which the object store bills but does not list,
    has an empty *repository* and *id*, and its path as the name.
    """

    repository: str
    name: str
    id: str
    size: int | None
    began: float | None
    reason: str
    remove: Callable[[], None]

    def age(self, now: float) -> float:
        """Seconds since the upload began; 0 if that is unknown or in the future."""
        return 0.0 if self.began is None else max(now - self.began, 0.0)


def of_repository(
    repository: Repository, *, without: Container[str] = ()
) -> Iterator[UnfinishedUpload]:
    """Yield the stored uploads of one repository, except those with an id in *without*."""
    uploads = repository.uploads
    ids = (each for each in uploads.of_both_kinds() if each not in without)
    for _, found in uploads.each(partial(_stored, repository), ids):
        if found is not None:
            yield found


def _stored(repository: Repository, upload_id: str) -> UnfinishedUpload | None:
    uploads = repository.store_of(upload_id)
    try:
        began: float | None = uploads.started_at(upload_id).timestamp()
        record = uploads.listed_record(upload_id)
    except NotFound:
        return None  # it was removed meanwhile
    except BlobfsError:
        began, record = None, UploadRecord()
    return UnfinishedUpload(
        repository.name,
        record.name or upload_id,
        upload_id,
        _size(uploads, upload_id),
        began,
        record.reason,
        partial(uploads.discard, upload_id),
    )


def _size(uploads: StoredUploads, upload_id: str) -> int | None:
    try:
        return uploads.stat(upload_id).size
    except BlobfsError:
        return None


def lost(registry: Registry) -> Iterator[UnfinishedUpload]:
    """Yield the unfinished objects that no stored upload refers to.

    A program that began one a moment ago may not have stored its record yet. Callers must
    therefore leave the recent ones, by *began*.
    """
    unfinished = list(registry.unfinished())
    tokens = set(_tokens(registry)) if unfinished else set()
    for found in unfinished:
        if found.token not in tokens and not _belongs_to_registry(registry, found):
            remove = partial(registry.abandon, found)
            yield UnfinishedUpload("", found.path, "", None, found.began, "", remove)


def _tokens(registry: Registry) -> Iterator[str]:
    for name in registry.enumerate():
        uploads = registry.repository(name).uploads
        for _, record in uploads.each(uploads.listed_record, uploads.enumerate()):
            yield record.token


def _belongs_to_registry(registry: Registry, found: Unfinished) -> bool:
    """True if *found* is the data of a registry's upload, which stores no token."""
    try:
        place = paths.parse(found.path)
        if place.repository is None or place.upload_id is None:
            return False
        registry.repository(place.repository).uploads.started_at(place.upload_id)
    except (NotFound, PathInvalid):
        return False
    return True

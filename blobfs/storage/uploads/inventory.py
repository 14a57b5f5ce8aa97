"""Lists of uploads that have not ended, and of unfinished objects that belong to none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from blobfs import paths
from blobfs.drivers.base import Unfinished
from blobfs.errors import BlobfsError, NotFound, PathInvalid
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """An upload: *size* in bytes, *began* in seconds since the epoch; None means unknown.

    *name* is the name in its record, else its id. An unfinished object without an upload, which
    the object store bills but does not list, has an empty *repository* and its path as the name.
    """

    repository: str
    name: str
    size: int | None
    began: float | None
    remove: Callable[[], None]

    def age(self, now: float) -> float:
        """Seconds since the upload began; 0 if that is unknown or in the future."""
        return 0.0 if self.began is None else max(now - self.began, 0.0)


def of_repository(repository: Repository) -> Iterator[OpenUpload]:
    """Yield the stored uploads of one repository."""
    uploads = repository.uploads
    for _, found in uploads.each(partial(_stored, repository), uploads.enumerate()):
        if found is not None:
            yield found


def _stored(repository: Repository, upload_id: str) -> OpenUpload | None:
    uploads = repository.uploads
    try:
        began: float | None = uploads.started_at(upload_id).timestamp()
        name = uploads.listed_record(upload_id).name or upload_id
    except NotFound:
        return None  # it was removed meanwhile
    except BlobfsError:
        began, name = None, upload_id
    size = _size(repository, upload_id)
    return OpenUpload(repository.name, name, size, began, partial(uploads.discard, upload_id))


def _size(repository: Repository, upload_id: str) -> int | None:
    try:
        return repository.uploads.stat(upload_id).size
    except BlobfsError:
        return None


def lost(registry: Registry) -> Iterator[OpenUpload]:
    """Yield the unfinished objects that no stored upload refers to.

    A program that began one a moment ago may not have stored its record yet. Callers must
    therefore leave the recent ones, by *began*.
    """
    unfinished = list(registry.unfinished())
    tokens = set(_tokens(registry)) if unfinished else set()
    for found in unfinished:
        if found.token not in tokens and not _belongs_to_registry(registry, found):
            yield OpenUpload("", found.path, None, found.began, partial(registry.abandon, found))


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

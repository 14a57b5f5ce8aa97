"""The uploads of a registry that have not ended, and what an object store keeps of lost ones."""

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
    """An upload: *size* is in bytes, *began* in seconds since the epoch; None is not known.

    *name* is what it is called here, else its id. One that only parts are left of, which an
    object store keeps and bills but shows nobody, has no *repository*, and their path as its name.
    """

    repository: str
    name: str
    size: int | None
    began: float | None
    remove: Callable[[], None]

    def age(self, now: float) -> float:
        """Seconds since it began: 0 if that is not known, or a clock was ahead."""
        return 0.0 if self.began is None else max(now - self.began, 0.0)


def of_repository(repository: Repository) -> Iterator[OpenUpload]:
    """The uploads of one repository that the storage knows of."""
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
        return None  # on its way out
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
    """What is left of uploads that nothing else tells of.

    A program that began one a moment ago may not have told of it yet: mind *began*.
    """
    unfinished = list(registry.unfinished())
    tokens = set(_tokens(registry)) if unfinished else set()
    for found in unfinished:
        if found.token not in tokens and not _is_told_of(registry, found):
            yield OpenUpload("", found.path, None, found.began, partial(registry.abandon, found))


def _tokens(registry: Registry) -> Iterator[str]:
    for name in registry.enumerate():
        uploads = registry.repository(name).uploads
        for _, record in uploads.each(uploads.listed_record, uploads.enumerate()):
            yield record.token


def _is_told_of(registry: Registry, found: Unfinished) -> bool:
    """Whether it is the data of an upload that a registry has begun, which keeps no token."""
    try:
        place = paths.parse(found.path)
        if place.repository is None or place.upload_id is None:
            return False
        registry.repository(place.repository).uploads.started_at(place.upload_id)
    except (NotFound, PathInvalid):
        return False
    return True

"""Every upload that has not ended, for ``/.blobfs/uploads.json``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import TypedDict

from blobfs.errors import BlobfsError
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository
from blobfs.vfs.upload import Upload
from blobfs.vfs.uploads import Uploads


class UploadState(TypedDict):
    """One upload: *offset* is in bytes, *age* in seconds since it *started* (RFC 3339)."""

    repository: str
    name: str
    uuid: str
    offset: int
    started: str
    age: float
    state: str


def upload_states(registry: Registry, uploads: Uploads) -> list[UploadState]:
    """Those of this mount, of others and of registries; walks all repositories."""
    ours = [upload for upload in uploads.kept() if upload.receipt is None]
    known = {upload.id for upload in ours}
    found = [state for upload in ours for state in _state(upload)]
    for name in registry.enumerate():
        repository = registry.repository(name)
        others = [each for each in repository.uploads.enumerate() if each not in known]
        for _, states in repository.uploads.each(partial(_stored, repository), others):
            found.extend(states)
    return sorted(found, key=lambda state: (state["repository"], state["name"], state["uuid"]))


def _stored(repository: Repository, upload_id: str) -> list[UploadState]:
    store = repository.uploads
    try:
        record = store.listed_record(upload_id)
    except BlobfsError:
        return []
    name = record.name or upload_id
    upload = Upload(f"/{repository.name}/_uploads", store, name, upload_id, record.reason)
    return list(_state(upload))


def _state(upload: Upload) -> Iterator[UploadState]:
    """What is known of it; nothing once it has ended, or where the storage does not tell."""
    try:
        started, offset = upload.started_at(), upload.info().size
    except BlobfsError:
        return
    yield {
        "repository": upload.directory.removesuffix("/_uploads").removesuffix("/_manifests")[1:],
        "name": upload.name,
        "uuid": upload.id,
        "offset": offset,
        "started": datetime.fromtimestamp(int(started), UTC).isoformat().replace("+00:00", "Z"),
        "age": round(max(time.time() - started, 0.0), 1),
        "state": upload.state,
    }

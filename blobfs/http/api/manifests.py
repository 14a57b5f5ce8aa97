"""``/v2/<name>/manifests/<reference>``: manifests by tag or digest."""

from __future__ import annotations

from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from blobfs.digest import Descriptor, Digest
from blobfs.errors import ManifestUnknown, NameInvalid, TagUnknown
from blobfs.http.api.conditional import precondition
from blobfs.http.api.errors import ErrorCode, error_response
from blobfs.http.workers import Workers
from blobfs.reference import Tag
from blobfs.storage.manifest import DOCKER_LIST, OCI_INDEX, OCI_MANIFEST
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository

_TO_BE_ACCEPTED: Final = {
    OCI_MANIFEST: "OCI manifest found, but accept header does not support OCI manifests",
    OCI_INDEX: "OCI index found, but accept header does not support OCI indexes",
}
"""Types that only clients that accept them get; each with the message for other clients."""


class _Found(NamedTuple):
    digest: Digest
    media_type: str
    payload: bytes
    for_linux_amd64: Digest | None


class Manifests:
    """Serves manifests unchanged, with their own media type."""

    def __init__(self, registry: Registry, workers: Workers) -> None:
        self._registry = registry
        self._workers = workers

    async def get(self, request: Request) -> Response:
        """Serve ``GET`` and ``HEAD``; raises the errors of the storage."""
        repository = self._registry.repository(request.path_params["name"])
        reference = _reference(request.path_params["reference"])
        digest = await self._workers.run(_resolved, repository, reference)
        status = precondition(request.headers, str(digest))
        if status is not None:
            return Response(status_code=status, headers=_names(digest))
        tag = reference if isinstance(reference, Tag) else None
        found = await self._workers.run(_pulled, repository, digest, tag)
        is_accepted = _is_accepted(request, found.media_type)
        if not is_accepted and found.media_type in _TO_BE_ACCEPTED:
            message = _TO_BE_ACCEPTED[found.media_type]
            return error_response(ErrorCode.MANIFEST_UNKNOWN, message=message)
        if not is_accepted and tag and found.media_type == DOCKER_LIST:
            found = await self._workers.run(_for_default_platform, repository, found)
        headers = _names(found.digest) | {"Content-Type": found.media_type}
        return Response(found.payload, headers=headers)


def _reference(text: str) -> Tag | Digest:
    if ":" in text:
        return Digest.parse(text)
    try:
        return Tag(text)
    except NameInvalid:
        raise TagUnknown(text) from None


def _names(digest: Digest) -> dict[str, str]:
    return {"Docker-Content-Digest": str(digest), "ETag": f'"{digest}"'}


def _is_accepted(request: Request, media_type: str) -> bool:
    """True if ``Accept`` is missing, or includes the type (RFC 9110, 12.5.1)."""
    values = ",".join(request.headers.getlist("accept"))
    accepted = {item.partition(";")[0].strip().lower() for item in values.split(",")} - {""}
    main_type, _, _ = media_type.partition("/")
    return not accepted or not accepted.isdisjoint({media_type, f"{main_type}/*", "*/*"})


def _resolved(repository: Repository, reference: Tag | Digest) -> Digest:
    return reference if isinstance(reference, Digest) else repository.tags.get(reference)


def _pulled(repository: Repository, digest: Digest, tag: Tag | None) -> _Found:
    found = _read(repository, digest)
    repository.pulled(Descriptor(digest, len(found.payload), found.media_type), tag)
    return found


def _read(repository: Repository, digest: Digest) -> _Found:
    payload = repository.manifests.payload(digest)
    manifest = repository.media_types.learn(digest, payload)
    return _Found(digest, manifest.media_type, payload, manifest.for_linux_amd64)


def _for_default_platform(repository: Repository, index: _Found) -> _Found:
    """Return the image for a client that accepts no list, as distribution chooses it."""
    if index.for_linux_amd64 is None:
        raise ManifestUnknown(index.digest)
    return _read(repository, index.for_linux_amd64)

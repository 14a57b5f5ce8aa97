"""A registry behind HTTP as the target of a copy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote

from blobfs.concurrency import PARALLEL, CallLock
from blobfs.digest import Descriptor, Digest
from blobfs.errors import (
    AccessDenied,
    DigestMismatch,
    ManifestInvalid,
    ManifestRejected,
    NotFound,
    RepositoryUnknown,
    Unsupported,
)
from blobfs.reference import Tag
from blobfs.transfer.base import Outline, Target
from blobfs.transfer.outlines import outline_of
from blobfs.transfer.registry.api import RegistryApi
from blobfs.transfer.registry.options import RegistryOptions
from blobfs.transfer.registry.referrers import referrers_tag, with_referrer
from blobfs.transfer.registry.responses import Answer
from blobfs.transfer.registry.upload import Upload


class RegistryTarget(Target):
    """The repositories of a registry, or only *repository*, which then need not be listed.

    ``_opened`` has the uploads that a registry has opened instead of a mount, until they are used
    or cancelled; each of its operations is atomic. ``_tagging`` serializes changes of the indexes
    of referrers.
    """

    def __init__(self, host: str, options: RegistryOptions, repository: str | None = None) -> None:
        self._api = RegistryApi(host, options, repository, "pull,push")
        self._opened: dict[tuple[str, Digest], Upload] = {}
        self._tagging = CallLock()

    def close(self) -> None:
        self.finish()
        self._api.close()

    def finish(self) -> None:
        while self._opened:
            self._opened.popitem()[1].cancel()

    def missing(self, repository: str, blobs: Sequence[Descriptor]) -> list[Descriptor]:
        found = PARALLEL.map(lambda blob: self._api.has_blob(repository, blob), blobs)
        return [blob for blob, is_there in zip(blobs, found, strict=True) if not is_there]

    def link(self, repository: str, blob: Descriptor, holder: str | None) -> bool:
        if holder is None or holder == repository:
            return False
        query = f"mount={quote(str(blob.digest))}&from={quote(holder, safe='')}"
        try:
            upload = Upload.begin(self._api, repository, query, (self._api.scope(holder, "pull"),))
        except (AccessDenied, NotFound):  # of the holder; or else the upload fails in the same way
            return False
        if upload is None:
            return True
        self._opened[repository, blob.digest] = upload
        return False

    def put_blob(self, repository: str, blob: Descriptor, chunks: Iterable[bytes]) -> None:
        upload = self._opened.pop((repository, blob.digest), None)
        if upload is None:
            upload = Upload(self._api, repository)
        upload.write(blob, blob.digest.verified(chunks))

    def has_manifest(self, repository: str, manifest: Descriptor) -> bool:
        return self._api.has_manifest(repository, manifest)

    def put_manifest(self, repository: str, digest: Digest, payload: bytes) -> None:
        answer, outline = self._put(repository, digest, digest, payload)
        if outline.subject is not None and "oci-subject" not in answer.headers:
            self._add_referrer(repository, outline.subject, outline.manifest, payload)

    def _add_referrer(
        self, repository: str, subject: Digest, referrer: Descriptor, payload: bytes
    ) -> None:
        """Add *referrer* to the index of a tag, as the registry has no API for referrers."""
        tag = referrers_tag(subject)
        with self._tagging:
            index = with_referrer(self._api.tagged_index(repository, tag), referrer, payload)
            if index is not None:
                self._put(repository, tag, Digest.of(index), index)

    def tag(self, repository: str, tag: Tag, digest: Digest, history: Sequence[Digest]) -> None:
        self._put(repository, tag, digest, self._api.manifest(repository, digest))

    def _put(
        self, repository: str, reference: Tag | Digest, digest: Digest, payload: bytes
    ) -> tuple[Answer, Outline]:
        try:
            outline = outline_of(digest, payload)
        except ManifestInvalid as exc:
            raise ManifestRejected(f"{repository}@{digest}: {exc}") from None
        path = f"manifests/{reference}"
        headers = {"Content-Type": outline.manifest.media_type}
        also = (500,) if outline.foreign else ()
        call = self._api.call("PUT", repository, path, headers=headers, body=payload, also=also)
        try:
            answer = self._api.client.ask(call)
        except (NotFound, Unsupported) as exc:
            raise ManifestRejected(str(exc)) from None
        if answer.status == 500:  # as docker-registry answers
            raise ManifestRejected(
                f"{self._api.host} does not take manifest {digest} (status 500), perhaps as it has"
                " layers with URLs; allow them by validation.manifests.urls.allow in the"
                " registry's configuration"
            )
        stored = answer.headers.get("docker-content-digest", str(digest))
        if stored.startswith(f"{digest.algorithm}:") and stored != str(digest):
            raise DigestMismatch(f"{self._api.host} stored manifest {digest} as {stored[:160]!r}")
        self._api.payloads.add(repository, digest, payload)
        return answer, outline

    def repositories(self) -> Iterator[str]:
        return self._api.repositories()

    def tags(self, repository: str) -> Iterator[Tag]:
        try:
            yield from self._api.tags(repository)
        except RepositoryUnknown:
            return

    def tagged(self, repository: str, tag: Tag) -> Digest:
        return self._api.tagged(repository, tag)

    def untag(self, repository: str, tag: Tag) -> None:
        more = (self._api.scope(repository, "delete"),)
        try:
            self._api.client.ask(
                self._api.call("DELETE", repository, f"manifests/{tag}", more=more, also=(404,))
            )
        except Unsupported as exc:
            raise Unsupported(
                f"{self._api.host} cannot remove a tag alone ({exc}); delete the manifest of "
                f"{repository}:{tag} with all its tags, by `skopeo delete`"
            ) from None

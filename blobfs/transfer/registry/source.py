"""A registry behind HTTP as the source of a copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from blobfs.digest import Descriptor, Digest
from blobfs.reference import Tag
from blobfs.storage.manifest import SCHEMA_1, SIGNED_SCHEMA_1
from blobfs.transfer.base import Outline, Source
from blobfs.transfer.outlines import outline_of
from blobfs.transfer.registry.api import RegistryApi
from blobfs.transfer.registry.options import RegistryOptions
from blobfs.transfer.registry.reader import BlobReader
from blobfs.transfer.registry.referrers import entries_of, referrers_in, referrers_tag


class RegistrySource(Source):
    """The repositories of a registry, or only *repository*, which then need not be listed."""

    def __init__(self, host: str, options: RegistryOptions, repository: str | None = None) -> None:
        self._api = RegistryApi(host, options, repository, "pull")
        self._has_referrers = True  # False once the registry has not known that request

    def close(self) -> None:
        self._api.close()

    def repositories(self) -> Iterator[str]:
        return self._api.repositories()

    def tags(self, repository: str) -> Iterator[Tag]:
        return self._api.tags(repository)

    def tagged(self, repository: str, tag: Tag) -> Digest:
        return self._api.tagged(repository, tag)

    def referrers(self, repository: str, digest: Digest) -> Sequence[Digest]:
        if self._has_referrers:
            found = self._api.referrers(repository, digest)
            if found is not None:
                return found
            self._has_referrers = False
        index = self._api.tagged_index(repository, referrers_tag(digest))
        return [] if index is None else referrers_in(entries_of(index))

    def manifest(self, repository: str, digest: Digest) -> bytes:
        return self._api.manifest(repository, digest)

    def outline(self, repository: str, digest: Digest) -> Outline:
        outline = outline_of(digest, self._api.manifest(repository, digest))
        if outline.manifest.media_type not in {SCHEMA_1, SIGNED_SCHEMA_1}:
            return outline
        sized = (replace(each, size=self.size(repository, each.digest)) for each in outline.blobs)
        return replace(outline, blobs=tuple(sized))  # a manifest of schema 1 has no sizes

    def size(self, repository: str, digest: Digest) -> int:
        return self._api.size(repository, digest)

    def open(self, repository: str, blob: Descriptor) -> BlobReader:
        return BlobReader(self._api, repository, blob)

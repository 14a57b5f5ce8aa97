"""The cache of those who want none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from blobfs.cache.base import DescriptorCache
from blobfs.digest import Descriptor, Digest
from blobfs.reference import RepositoryName


class NoCache(DescriptorCache):
    """Remembers nothing."""

    @property
    def is_local(self) -> bool:
        return True

    def stat_many(
        self, digests: Sequence[Digest], repository: RepositoryName | None = None
    ) -> list[Descriptor | None]:
        return [None] * len(digests)

    def set_many(
        self, descriptors: Mapping[Digest, Descriptor], repository: RepositoryName | None = None
    ) -> None:
        pass

    def clear_many(
        self, digests: Sequence[Digest], repository: RepositoryName | None = None
    ) -> None:
        pass

    def close(self) -> None:
        pass

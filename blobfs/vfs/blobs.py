"""Nodes of blobs, at every place of the tree."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from blobfs.digest import Descriptor, Digest
from blobfs.drivers.base import FileReader
from blobfs.errors import BlobUnknown, DigestMismatch, Stale
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.linkedblobstore import LinkedBlobStore
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository
from blobfs.vfs.links import digest_named
from blobfs.vfs.nodes import Attr, Directory, File, Kind, Lifetime, Node, Placed
from blobfs.vfs.upload import Upload
from blobfs.vfs.verification import Verification

_MAX_REPOSITORIES: Final = 64
"""Repositories that a blob's file remembers: an extended attribute has at most 64 KiB of names."""


@dataclass(frozen=True, slots=True)
class Blobs:
    """Services of every blob's file: the registry, and the verification of reads."""

    registry: Registry
    verification: Verification


@dataclass(frozen=True, slots=True)
class BlobFile(File):
    """A blob, which is the same file in every repository that links it.

    *receipt* is the last upload that was committed as the blob, while its name shows the blob.
    """

    never_changes = True

    blobs: Blobs
    descriptor: Descriptor
    repositories: tuple[Repository, ...] = ()  # those in which it was looked up, the last first
    receipt: Upload | None = None

    @property
    def key(self) -> str:
        return str(self.descriptor.digest)

    def attr(self) -> Attr:
        # Two links: the global store's and the repository's. Programs check the mode before they
        # replace a receipt, so its owner may write.
        is_receipt = self._receipt is not None
        return Attr(
            Kind.FILE,
            size=self.descriptor.size,
            mtime_ns=self.descriptor.mtime_ns or 0,
            nlink=2,
            lifetime=Lifetime.MOMENT if is_receipt else Lifetime.CONTENT,
            writable=is_receipt,
        )

    def merged_with(self, newer: BlobFile) -> BlobFile:
        known = {repository.name for repository in newer.repositories}
        others = tuple(r for r in self.repositories if r.name not in known)
        receipt = newer.receipt or self._receipt
        if not others and receipt is newer.receipt:
            return newer
        repositories = (newer.repositories + others)[:_MAX_REPOSITORIES]
        return replace(newer, repositories=repositories, receipt=receipt)

    @property
    def _receipt(self) -> Upload | None:
        return self.receipt if self.receipt is not None and self.receipt.is_receipt else None

    def open(self) -> FileReader:
        reader = self.blobs.registry.blobs.open_known(self.descriptor)
        try:
            verified = self.blobs.verification.reader(self.descriptor, reader)
        except DigestMismatch:
            self._raise_stale_if_replaced()
            raise
        for repository in self.repositories[:1]:
            repository.pulled(self.descriptor)
        return verified

    def _raise_stale_if_replaced(self) -> None:
        """Raise Stale, for a new lookup, if the bad blob has been replaced since."""
        found = self.blobs.registry.blobs.stat_now(self.descriptor.digest)
        if (found.size, found.mtime_ns) != (self.descriptor.size, self.descriptor.mtime_ns):
            self.blobs.registry.blobs.descriptors.invalidate(self.descriptor.digest)
            raise Stale(f"blob {self.descriptor.digest} was replaced")

    def invalidate(self) -> None:
        self.blobs.registry.blobs.invalidate(self.descriptor.digest)
        self.blobs.verification.invalidate(self.descriptor)

    def source(self, digest: Digest) -> LinkedBlobStore | BlobStore | None:
        """Return the store that has the blob under *digest*, for ``ln``; see ``Linkable``."""
        for repository in self.repositories:
            if digest in repository.layers.existing([digest]):
                return repository.layers  # *digest* may be of another algorithm
        if digest == self.descriptor.digest:
            return self.blobs.registry.blobs
        return None

    def set_mtime(self, mtime_ns: int) -> BlobFile:
        """Set the time of the blob, where the storage keeps times; return the changed node."""
        self.blobs.registry.blobs.set_mtime(self.descriptor.digest, mtime_ns)
        descriptor = self.blobs.registry.blobs.stat_now(self.descriptor.digest)
        return replace(self, descriptor=descriptor)

    def xattrs(self) -> Mapping[str, Callable[[], str]]:
        names: dict[str, Callable[[], str]] = {
            "user.blobfs.digest": lambda: str(self.descriptor.digest),
            "user.blobfs.media_type": self._media_type,
        }
        if self.repositories:
            names["user.blobfs.repository"] = self._repository
        if (receipt := self._receipt) is not None:
            names["user.blobfs.state"] = lambda: receipt.state
            names["user.blobfs.size"] = lambda: str(self.descriptor.size)
        return names

    def _repository(self) -> str:
        return ",".join(sorted(repository.name for repository in self.repositories))

    def _media_type(self) -> str:
        for repository in self.repositories:
            described = repository.media_types.describe(self.descriptor.digest)
            if described is not None:
                return described.media_type
        return self.descriptor.media_type


@dataclass(frozen=True, slots=True)
class ShardDirectory(Placed, Directory):
    """One shard of the global store: a file ``<hex>`` for each blob, in any repository or none."""

    path: str
    blobs: Blobs
    algorithm: str
    shard: str
    mtime_ns: Callable[[], int]

    def attr(self) -> Attr:
        return Attr(Kind.DIRECTORY, mtime_ns=self.mtime_ns())

    def lookup(self, name: str) -> Node:
        digest = digest_named(self.algorithm, name)
        if not name.startswith(self.shard):
            raise BlobUnknown(digest)
        return BlobFile(self.blobs, self.blobs.registry.blobs.stat(digest))

    def names(self) -> Iterator[str]:
        digests = self.blobs.registry.blobs.list_unchecked(self.algorithm, self.shard)
        return (digest.encoded for digest in digests)

    def existing(self, names: Sequence[str]) -> Collection[str]:
        digests = [Digest(self.algorithm, name) for name in names]
        return {digest.encoded for digest in self.blobs.registry.blobs.existing(digests)}

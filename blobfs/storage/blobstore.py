"""The content-addressed blob store that all repositories share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from blobfs import paths
from blobfs.cache.base import DescriptorCache
from blobfs.cache.memory import NoCache
from blobfs.digest import ALGORITHMS, Descriptor, Digest
from blobfs.drivers.base import FileInfo, FileReader, StorageDriver
from blobfs.drivers.objectstore import remote_of
from blobfs.errors import (
    AccessDenied,
    BlobDamaged,
    BlobUnknown,
    DigestInvalid,
    DigestMismatch,
    NotAFile,
    PathNotFound,
    Stale,
)
from blobfs.storage.aliases import Alias, Aliases
from blobfs.storage.descriptors import BlobDescriptorService, CachedBlobStatter
from blobfs.storage.listing.base import metadata_of

MAX_CONTENT: Final = 4 * 2**20
"""The largest content in bytes that is read into memory; distribution's limit of a manifest."""

_EMPTY: Final = {Digest.of(b"", algorithm) for algorithm in ALGORITHMS}


class BlobStore:
    """Reads and stores blobs by digest, for all repositories. Thread-safe.

    Readers may use the descriptor cache. Writers ask the storage, because a cached blob may have
    been deleted.
    """

    def __init__(self, driver: StorageDriver, cache: DescriptorCache | None = None) -> None:
        self._driver = driver
        self.metadata = metadata_of(driver)
        self.descriptors = BlobDescriptorService(cache or NoCache())
        self.aliases = Aliases()
        self._statter = CachedBlobStatter(self.descriptors, self.stat_stored, self.stat_stored)
        self._remote = remote_of(driver)
        if self._remote is not None:
            self._remote.watch(self._invalidate_changed)

    def stat(self, digest: Digest) -> Descriptor:
        """Return the descriptor of a blob; raises BlobUnknown, BlobDamaged."""
        return self._statter.stat(digest)

    def stat_stored(self, digest: Digest) -> Descriptor:
        """Do the same as ``stat``, without the descriptor cache."""
        try:
            return _descriptor(digest, self._driver.stat(paths.blob_data(digest)))
        except PathNotFound:
            raise BlobUnknown(digest) from None

    def stat_now(self, digest: Digest) -> Descriptor:
        """Do the same as ``stat``, without any cache."""
        try:
            return _descriptor(digest, self.metadata.stat_now(paths.blob_data(digest)))
        except PathNotFound:
            raise BlobUnknown(digest) from None

    def prefetch(self, digests: Sequence[Digest]) -> None:
        """Prepare a ``stat`` of each digest, with few requests."""
        self._statter.prefetch(digests, lambda known: known, self.prefetch_stored)

    def prefetch_stored(self, digests: Sequence[Digest]) -> None:
        """Prepare a ``stat_stored`` of each digest, with few requests."""
        self.metadata.prefetch([paths.blob_data(digest) for digest in digests])

    def invalidate(self, digest: Digest) -> None:
        """Discard the cached descriptor and the prefetched bytes of a blob that is damaged."""
        self.metadata.invalidate(paths.blob_data(digest))
        self.descriptors.invalidate(digest)

    def _invalidate_changed(self, path: str) -> None:
        """Discard the cached descriptor of a blob that a reader has found changed."""
        digest = paths.digest_of_blob(path)
        if digest is not None:
            self.descriptors.invalidate(digest)

    def open_known(self, descriptor: Descriptor) -> FileReader:
        """Open a blob whose descriptor is known, which may save a request.

        Raises Stale if the blob is gone or has another size. If that shows only later, the reader
        raises PathNotFound or FileChanged.
        """
        digest, size = descriptor.digest, descriptor.size
        try:
            reader = self._driver.open(paths.blob_data(digest), size)
        except (PathNotFound, NotAFile):
            self.descriptors.invalidate(digest)
            raise Stale(f"blob {digest} is gone") from None
        if reader.size != size:
            reader.close()
            self.descriptors.invalidate(digest)
            raise Stale(f"blob {digest} has changed from {size} bytes")
        return reader

    def open(self, digest: Digest) -> FileReader:
        """Open the blob to read it; raises BlobUnknown."""
        try:
            return self._driver.open(paths.blob_data(digest))
        except (PathNotFound, NotAFile):
            self.descriptors.invalidate(digest)
            raise BlobUnknown(digest) from None

    def verify_name(self, name: Digest, target: Digest) -> None:
        """Verify that *name* is a digest of the blob *target*, which is read at most once.

        Raises DigestMismatch, BlobUnknown.
        """
        if name != target:
            self.aliases.verify(Alias(name, target), lambda: self._hashed(target, name.algorithm))

    def _hashed(self, digest: Digest, algorithm: str) -> Digest:
        with self.open(digest) as reader:
            return Digest.of_chunks(reader.chunks(), algorithm)

    def set_mtime(self, digest: Digest, mtime_ns: int) -> None:
        """Set the time of a blob, where the storage keeps times that are set."""
        if not self._driver.is_object_store:
            with suppress(AccessDenied):  # the file of another user
                self._driver.set_mtime(paths.blob_data(digest), mtime_ns)
                self.descriptors.invalidate(digest)

    def redirect_url(self, digest: Digest) -> str | None:
        """Return a temporary URL of the blob that needs no credentials; None if there is none."""
        return None if self._remote is None else self._remote.redirect_url(paths.blob_data(digest))

    def get(self, digest: Digest) -> bytes:
        """Return the verified content of a small blob.

        Raises BlobUnknown, DigestMismatch, and BlobDamaged above ``MAX_CONTENT``.
        """
        with self.open(digest) as reader:
            if reader.size > MAX_CONTENT:
                raise BlobDamaged(f"blob {digest} has {reader.size} bytes, too many for a manifest")
            content = reader.read_at(0, reader.size)
        if Digest.of(content, digest.algorithm) != digest:
            raise DigestMismatch(f"the content of blob {digest} does not match its digest")
        return content

    def ensure_durable(self, digest: Digest, size: int) -> bool:
        """Sync the blob, as a registry does not; False if it is missing or has another size.

        Writers use this instead of ``stat``: a blob that a crash truncated counts as missing, and
        a cached descriptor may be out of date.
        """
        try:
            if self.stat_now(digest).size != size:
                return False
            self.sync(digest)
        except (BlobUnknown, BlobDamaged, PathNotFound):  # a collection may remove it meanwhile
            return False
        return True

    def sync(self, digest: Digest) -> None:
        """Make a blob durable that another program may have stored."""
        self._driver.sync(paths.blob_data(digest))

    def put(self, content: bytes) -> Descriptor:
        """Store a small blob durably, unless it exists."""
        digest = Digest.of(content)
        self.put_as(digest, content)
        return Descriptor(digest, len(content))

    def put_as(self, digest: Digest, content: bytes) -> None:
        """Do the same as ``put``, for content whose digest is known."""
        size = len(content)
        if not (self._driver.is_object_store and self.ensure_durable(digest, size)):
            self._driver.put_immutable(paths.blob_data(digest), (content,), size)

    def copy(self, digest: Digest, chunks: Iterable[bytes]) -> None:
        """Store a blob of any size durably; raises DigestMismatch.

        Each chunk is read once, hashed and stored, so a source that changes does no harm.
        """
        self._driver.put_immutable(paths.blob_data(digest), digest.verified(chunks))

    def holds_any(self) -> bool:
        """True if a blob may exist; False if the store is empty or missing."""
        return any(True for algorithm in ALGORITHMS for _ in self.shards(algorithm))

    def shards(self, algorithm: str) -> Iterator[str]:
        """The first two digits of the digests of all blobs, in no order."""
        for entry in self._directories(f"{paths.BLOBS}/{algorithm}"):
            if len(entry) == 2:
                yield entry

    def list_unchecked(self, algorithm: str, shard: str) -> Iterator[Digest]:
        """The blobs of one shard, in no order, including some that have been deleted."""
        for encoded in self._directories(f"{paths.BLOBS}/{algorithm}/{shard}"):
            try:
                digest = Digest(algorithm, encoded)
            except DigestInvalid:
                continue  # a stray directory
            if encoded.startswith(shard):
                yield digest

    def existing(self, digests: Sequence[Digest]) -> list[Digest]:
        """Those of *digests* that have a data file, damaged or not.

        If access to one is denied, all are returned; a later ``stat`` raises the error.
        """
        try:
            infos = self._driver.stat_many([paths.blob_data(digest) for digest in digests])
        except AccessDenied:
            return list(digests)
        return [
            digest
            for digest, info in zip(digests, infos, strict=True)
            if info is not None and not info.is_dir
        ]

    def _directories(self, path: str) -> Iterator[str]:
        try:
            entries = self._driver.listdir(path)
        except PathNotFound:
            return
        for entry in entries:
            if entry.is_dir:
                yield entry.name


def _descriptor(digest: Digest, info: FileInfo) -> Descriptor:
    if info.is_dir:
        raise BlobDamaged(f"blob {digest} is a directory")
    if info.size == 0 and digest not in _EMPTY:
        # A crash leaves an unsynced blob empty (distribution#2788, #2188).
        raise BlobDamaged(f"blob {digest} is empty")
    return Descriptor(digest, info.size, mtime_ns=info.mtime_ns)

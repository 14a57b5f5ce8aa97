"""The global, content-addressed blob store, which all repositories share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from blobfs import paths
from blobfs.cache.base import DescriptorCache
from blobfs.cache.none import NoCache
from blobfs.digest import ALGORITHMS, Descriptor, Digest, Digester
from blobfs.drivers.base import FileInfo, FileReader, StorageDriver
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
from blobfs.storage.doubtingreader import DoubtingReader

MAX_CONTENT: Final = 4 * 2**20
"""The most bytes that are held in memory as one; distribution's limit of a manifest."""

_EMPTY: Final = {Digest.of(b"", algorithm) for algorithm in ALGORITHMS}


class BlobStore:
    """Reads and stores blobs by digest, whichever repository they belong to."""

    def __init__(self, driver: StorageDriver, cache: DescriptorCache | None = None) -> None:
        self._driver = driver
        self.descriptors = BlobDescriptorService(cache or NoCache())
        self.aliases = Aliases()
        self._statter = CachedBlobStatter(self.descriptors, self.stat_stored, self.stat_stored)

    def stat(self, digest: Digest) -> Descriptor:
        """What is known of the blob; raises BlobUnknown, BlobDamaged."""
        return self._statter.stat(digest)

    def stat_stored(self, digest: Digest) -> Descriptor:
        """``stat``, without the descriptor cache."""
        try:
            return _descriptor(digest, self._driver.stat(paths.blob_data(digest)))
        except PathNotFound:
            raise BlobUnknown(digest) from None

    def stat_now(self, digest: Digest) -> Descriptor:
        """``stat``, of the storage itself: what was remembered may be gone."""
        try:
            return _descriptor(digest, self._driver.stat_now(paths.blob_data(digest)))
        except PathNotFound:
            raise BlobUnknown(digest) from None

    def prefetch(self, digests: Sequence[Digest]) -> None:
        """Get ready for a ``stat`` of each."""
        self._statter.prefetch(digests, lambda known: known, self.prefetch_stored)

    def prefetch_stored(self, digests: Sequence[Digest]) -> None:
        """Get ready for a ``stat_stored`` of each."""
        self._driver.prefetch([paths.blob_data(digest) for digest in digests])

    def invalidate(self, digest: Digest) -> None:
        """Forget what was read ahead of the blob, which is not what it should be."""
        self._driver.forget(paths.blob_data(digest))
        self.descriptors.invalidate(digest)

    def open_known(self, descriptor: Descriptor) -> FileReader:
        """``open`` a blob that has been looked at, which may save a request.

        Raises Stale if it is gone or has another size, or else the reader raises PathNotFound,
        FileChanged.
        """
        digest, size = descriptor.digest, descriptor.size
        try:
            reader = self._driver.open_of_size(paths.blob_data(digest), size)
        except (PathNotFound, NotAFile):
            self.descriptors.invalidate(digest)
            raise Stale(f"blob {digest} is gone") from None
        if reader.size != size:
            reader.close()
            self.descriptors.invalidate(digest)
            raise Stale(f"blob {digest} has changed from {size} bytes")
        if not self._driver.is_object_store:
            return reader
        return DoubtingReader(reader, lambda: self.descriptors.invalidate(digest))

    def open(self, digest: Digest) -> FileReader:
        """Open the blob to read it; raises BlobUnknown."""
        try:
            return self._driver.open(paths.blob_data(digest))
        except (PathNotFound, NotAFile):
            self.descriptors.invalidate(digest)
            raise BlobUnknown(digest) from None

    def verify_name(self, name: Digest, target: Digest) -> None:
        """Read the blob *target* once, if it is to be known by another digest, *name*.

        Raises DigestMismatch if its bytes do not hash to that, BlobUnknown.
        """
        if name != target:
            self.aliases.verify(Alias(name, target), lambda: self._hashed(target, name.algorithm))

    def _hashed(self, digest: Digest, algorithm: str) -> Digest:
        with self.open(digest) as reader:
            return Digest.of_chunks(reader.chunks(), algorithm)

    def redirect_url(self, digest: Digest) -> str | None:
        """A URL by which anybody may fetch the blob for a while; None if the storage has none."""
        return self._driver.redirect_url(paths.blob_data(digest))

    def get(self, digest: Digest) -> bytes:
        """A small blob's content, verified.

        Raises BlobUnknown, DigestMismatch, and BlobDamaged above ``MAX_CONTENT``.
        """
        with self.open(digest) as reader:
            if reader.size > MAX_CONTENT:
                raise BlobDamaged(f"blob {digest} has {reader.size} bytes, too many for a manifest")
            content = reader.read_at(0, reader.size)
        if Digest.of(content, digest.algorithm) != digest:
            raise DigestMismatch(f"the content of blob {digest} does not match its digest")
        return content

    def has_size(self, digest: Digest, size: int) -> bool:
        """Whether a blob of that digest is there, and has *size* bytes as it must.

        A writer asks this and not ``stat``: what a crash left of a blob is as good as missing,
        and what a cache knows may be gone.
        """
        try:
            return self.stat_now(digest).size == size
        except (BlobUnknown, BlobDamaged):
            return False

    def ensure_durable(self, digest: Digest, size: int) -> bool:
        """Whether the blob ``has_size``; then it is durable, which a registry leaves to chance."""
        whole = self.has_size(digest, size)
        if whole:
            self.sync(digest)
        return whole

    def sync(self, digest: Digest) -> None:
        """Make a blob durable that somebody else may have stored."""
        self._driver.sync(paths.blob_data(digest))

    def put(self, content: bytes) -> Descriptor:
        """Store a small blob, durably, unless it is there already."""
        digest = Digest.of(content)
        self.put_as(digest, content)
        return Descriptor(digest, len(content))

    def put_as(self, digest: Digest, content: bytes) -> None:
        """``put`` where the digest of *content* is known."""
        if not self.ensure_durable(digest, len(content)):
            self._driver.put_immutable(paths.blob_data(digest), (content,))

    def copy(self, digest: Digest, chunks: Iterable[bytes]) -> None:
        """Store a blob of any size, durably; raises DigestMismatch if it is not what it should be.

        The bytes that are stored are those that are hashed, whoever writes to their source.
        """
        self._driver.put_immutable(paths.blob_data(digest), _verified(digest, chunks))

    def holds_any(self) -> bool:
        """Whether a blob may be there; False where the store is empty or missing."""
        return any(True for algorithm in ALGORITHMS for _ in self.shards(algorithm))

    def shards(self, algorithm: str) -> Iterator[str]:
        """The first two digits of the blobs that may be there, in no order."""
        for entry in self._directories(f"{paths.BLOBS}/{algorithm}"):
            if len(entry) == 2:
                yield entry

    def list_unchecked(self, algorithm: str, shard: str) -> Iterator[Digest]:
        """The blobs of one shard, in no order, with some that have been deleted."""
        for encoded in self._directories(f"{paths.BLOBS}/{algorithm}/{shard}"):
            try:
                digest = Digest(algorithm, encoded)
            except DigestInvalid:
                continue  # a stray directory
            if encoded.startswith(shard):
                yield digest

    def enumerate(self) -> Iterator[Digest]:
        """Every blob, in no order."""
        for algorithm in ALGORITHMS:
            for shard in self.shards(algorithm):
                for digest in self.list_unchecked(algorithm, shard):
                    if self.existing([digest]):
                        yield digest

    def existing(self, digests: Sequence[Digest]) -> list[Digest]:
        """Those of *digests* whose bytes are there, right or wrong.

        All of them where the storage refuses to tell of one, and tells whoever looks at that.
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


def _verified(digest: Digest, chunks: Iterable[bytes]) -> Iterator[bytes]:
    digester = Digester(digest.algorithm)
    for chunk in chunks:
        digester.update(chunk)
        yield chunk
    if digester.digest() != digest:
        raise DigestMismatch(f"{digester.digest()} was read where {digest} was expected")


def _descriptor(digest: Digest, info: FileInfo) -> Descriptor:
    if info.is_dir:
        raise BlobDamaged(f"blob {digest} is a directory")
    if info.size == 0 and digest not in _EMPTY:
        # What a crash leaves of a blob that was not synced (distribution#2788, #2188).
        raise BlobDamaged(f"blob {digest} is empty")
    return Descriptor(digest, info.size, mtime_ns=info.mtime_ns)

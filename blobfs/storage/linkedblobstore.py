"""A repository's view of the blob store: exactly the blobs that a link set names."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from blobfs import metrics, paths
from blobfs.digest import ALGORITHMS, CANONICAL, Descriptor, Digest
from blobfs.drivers.base import FileReader, StorageDriver
from blobfs.errors import (
    AccessDenied,
    BlobDamaged,
    BlobfsError,
    BlobUnknown,
    Corrupt,
    DigestInvalid,
    LinkDangling,
    LinkInvalid,
    PathNotFound,
)
from blobfs.logs import about
from blobfs.reference import RepositoryName
from blobfs.storage.aliases import Alias
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.descriptors import CachedBlobStatter
from blobfs.storage.events import NULL_LISTENER, BlobEvents, Events, Listener
from blobfs.storage.linkfiles import read_link, write_link
from blobfs.storage.parallel import map_parallel

log = logging.getLogger(__name__)

T = TypeVar("T")


class LinkedBlobStore:
    """The blobs that a link set gives access to.

    A link set is a directory of ``<algorithm>/<hex>/link`` files: a repository's layers, its
    manifest revisions, or the index of a tag. *events* tell what is mounted and deleted, and
    whose it is, for the descriptor cache, which has to forget what is deleted.
    """

    def __init__(
        self,
        driver: StorageDriver,
        blobs: BlobStore,
        link_set: str,
        events: Events | None = None,
    ) -> None:
        self._driver = driver
        self._blobs = blobs
        self.link_set = link_set
        self.events = events or Events()

    def resolve(self, digest: Digest) -> Digest:
        """The digest under which the blob is stored.

        It is *digest* itself, or the canonical one for the same bytes: a blob that was pushed
        as ``sha512:…`` is stored as ``sha256:…``. Raises BlobUnknown, LinkInvalid.
        """
        path = paths.link(self.link_set, digest)
        if self._driver.is_known_to_hold(path, str(digest).encode("ascii")):
            return digest
        try:
            target = read_link(self._driver, path)
        except PathNotFound:
            raise BlobUnknown(digest) from None
        if target != digest:
            if target.algorithm != CANONICAL or digest.algorithm == CANONICAL:
                raise LinkInvalid(f"link {path} holds another digest, {target}")
            log.info("link %s leads to %s", path, target, extra=about(path=path, digest=target))
        return target

    def stat(self, digest: Digest) -> Descriptor:
        """What is known of the blob, under the digest it is stored by.

        Raises BlobUnknown, LinkInvalid, LinkDangling, BlobDamaged, and DigestMismatch for a blob
        that does not hash to *digest*.
        """
        return self._described(digest, self._blobs.stat)

    def _described(self, digest: Digest, stat: Callable[[Digest], Descriptor]) -> Descriptor:
        target = self.resolve(digest)
        try:
            descriptor = stat(target)
            self._blobs.verify_name(digest, target)
        except BlobUnknown:
            raise LinkDangling(
                f"link {paths.link(self.link_set, digest)} names a blob that is not there"
            ) from None
        except BlobDamaged as exc:
            raise BlobDamaged(f"link {paths.link(self.link_set, digest)}: {exc}") from None
        return descriptor

    def stat_now(self, digest: Digest) -> Descriptor:
        """``stat``, of the storage itself, for a writer; raises what ``stat`` does."""
        if self._driver.is_object_store:  # elsewhere the link is read in a moment
            try:
                self._driver.stat_now(paths.link(self.link_set, digest))
            except PathNotFound:
                raise BlobUnknown(digest) from None
        return self._described(digest, self._blobs.stat_now)

    def prefetch(self, digests: Sequence[Digest]) -> None:
        """Get ready for a ``stat`` of each, most of which are linked."""
        self._blobs.prefetch(digests)

    def open(self, digest: Digest) -> FileReader:
        """Open the blob to read it; raises BlobUnknown, LinkInvalid, DigestMismatch."""
        return self._blobs.open(self._verified(digest))

    def get(self, digest: Digest) -> bytes:
        """A small blob's content, verified; raises what ``BlobStore.get`` and ``resolve`` do."""
        return self._blobs.get(self._verified(digest))

    def map_contents(
        self, call: Callable[[Digest, bytes], T], digests: Iterable[Digest]
    ) -> Iterator[T | BlobfsError]:
        """``call(digest, content)`` for each of *digests*, or the error of ``get``, in their order.

        On a remote storage up to 32 are read at a time, each in the thread that then calls *call*.
        """

        def read(digest: Digest) -> T | BlobfsError:
            try:
                content = self.get(digest)
            except BlobfsError as exc:
                return exc
            return call(digest, content)

        return map_parallel(self._driver, read, digests)

    def _verified(self, digest: Digest) -> Digest:
        target = self.resolve(digest)
        self._blobs.verify_name(digest, target)
        return target

    def link(self, digest: Digest, target: Digest) -> None:
        """Give access to the blob *target*, which must be there, under the name *digest*."""
        path = paths.link(self.link_set, digest)
        if not self._driver.is_object_store:  # where to look first would cost what it may save
            try:
                if read_link(self._driver, path) == target:
                    self._driver.sync(path)
                    return
            except BlobfsError:
                pass  # what cannot be read is replaced; what cannot be replaced fails below
        write_link(self._driver, path, target)

    def put(self, content: bytes) -> Descriptor:
        """Store a small blob, and link it."""
        descriptor = self._blobs.put(content)
        self.link_blob(descriptor.digest, descriptor)
        return descriptor

    def mount(self, digest: Digest, source: LinkedBlobStore | BlobStore) -> Descriptor:
        """Give access to a blob that *source* has, without moving a byte of it.

        Raises what ``source.stat_now`` does.
        """
        descriptor = source.stat_now(digest)
        self._blobs.sync(descriptor.digest)
        self.link_blob(digest, descriptor)
        origin = source.events.repository if isinstance(source, LinkedBlobStore) else None
        self.events.mounted(descriptor.digest, descriptor.size, origin)
        return descriptor

    def link_blob(self, digest: Digest, descriptor: Descriptor) -> None:
        """Give access to a blob that is there, under its own digest and the name *digest*.

        The caller has hashed the blob by both.
        """
        if digest != descriptor.digest:
            self._blobs.aliases.remember(Alias(digest, descriptor.digest))
        for name in {descriptor.digest, digest}:
            self.link(name, descriptor.digest)

    def delete(self, digest: Digest) -> None:
        """Take access away; the blob stays until garbage is collected. Raises BlobUnknown."""
        try:
            self._driver.delete(paths.link(self.link_set, digest))
        except PathNotFound:
            raise BlobUnknown(digest) from None
        finally:  # also of what is gone already, or may be
            self._blobs.descriptors.delete(digest, self.events.repository)
        self.events.deleted(digest)

    def algorithms(self) -> list[str]:
        """The algorithms that have a directory in the link set."""
        infos = self._driver.stat_many([f"{self.link_set}/{name}" for name in ALGORITHMS])
        return [name for name, info in zip(ALGORITHMS, infos, strict=True) if info and info.is_dir]

    def enumerate(self, algorithm: str) -> Iterator[Digest]:
        """Every digest of *algorithm* that has a link file, in no order; none is read."""
        return (digest for digest in self.list_unchecked(algorithm) if self.existing([digest]))

    def list_unchecked(self, algorithm: str) -> Iterator[Digest]:
        """Like ``enumerate``, but with some whose link has been deleted, and much cheaper."""
        try:
            entries = self._driver.listdir(f"{self.link_set}/{algorithm}")
        except PathNotFound:
            return
        for entry in entries:
            try:
                digest = Digest(algorithm, entry.name)
            except DigestInvalid:
                continue  # a stray file or directory
            if entry.is_dir:
                yield digest

    def existing(self, digests: Sequence[Digest]) -> list[Digest]:
        """Those of *digests* that have a link file; deleting one leaves its directory.

        All of them where the storage refuses to tell of one, and tells whoever looks at that.
        """
        try:
            infos = self._driver.stat_many([paths.link(self.link_set, d) for d in digests])
        except AccessDenied:
            return list(digests)
        return [digest for digest, info in zip(digests, infos, strict=True) if info is not None]


class LayerStore(LinkedBlobStore):
    """The layers of *repository*: one that the cache has is there without a look at its link.

    Revisions are not remembered so. A cache cannot tell a revision from a layer, and would make
    a layer of each; of their blobs alone it tells whoever has read the link.

    A link whose blob is missing is damage, unless *left_overs* include it: then a garbage
    collection has removed the layer, which is unknown.
    """

    def __init__(
        self,
        driver: StorageDriver,
        blobs: BlobStore,
        repository: RepositoryName,
        is_left_over: Callable[[Digest, Digest], bool],
        listener: Listener = NULL_LISTENER,
    ) -> None:
        events = BlobEvents(repository, listener)
        self._is_left_over = is_left_over
        super().__init__(driver, blobs, paths.layers(repository), events)
        self._statter = CachedBlobStatter(
            blobs.descriptors, self._stat_stored, blobs.stat_stored, repository
        )

    def stat(self, digest: Digest) -> Descriptor:
        descriptor = self._statter.stat(digest)
        # The cache may be shared with others, and hold an alias that nobody here has verified.
        self._blobs.verify_name(digest, descriptor.digest)
        return descriptor

    def _stat_stored(self, digest: Digest) -> Descriptor:
        try:
            return self._described(digest, self._blobs.stat_stored)
        except LinkDangling:
            if not self._is_left_over(digest, self.resolve(digest)):
                raise
            metrics.LEFT_OVER_LINKS.inc()
            raise BlobUnknown(digest) from None

    def existing(self, digests: Sequence[Digest]) -> list[Digest]:
        """Those of *digests* that are linked, without links that are left over.

        An object store is not asked for blobs again: those are kept as long as names are.
        """
        linked = super().existing(digests)
        if self._driver.is_object_store:
            return linked
        stored = set(self._blobs.existing(linked))
        return [digest for digest in linked if digest in stored or self._shows(digest)]

    def _shows(self, digest: Digest) -> bool:
        try:
            self._stat_stored(digest)
        except BlobUnknown:
            return False
        except (Corrupt, AccessDenied):
            pass  # it is there, and whoever looks at it is told
        return True

    def prefetch(self, digests: Sequence[Digest]) -> None:
        self._statter.prefetch(digests, self.existing, self._blobs.prefetch_stored)

    def link_blob(self, digest: Digest, descriptor: Descriptor) -> None:
        generation = self._blobs.descriptors.generation
        super().link_blob(digest, descriptor)
        names = dict.fromkeys((digest, descriptor.digest), descriptor)
        self._blobs.descriptors.set_many(names, self.events.repository, generation)

"""A repository's view of the blob store: the blobs that a set of link files names."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TypeVar

from blobfs import metrics, paths
from blobfs.digest import ALGORITHMS, CANONICAL, Descriptor, Digest
from blobfs.drivers.base import FileReader, StorageDriver, map_each
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
from blobfs.storage.linkfiles import LONGER_THAN_A_LINK, read_link, write_link

log = logging.getLogger(__name__)

T = TypeVar("T")


class LinkedBlobStore:
    """The blobs of a link set. Thread-safe.

    A link set is a directory of ``<algorithm>/<hex>/link`` files: a repository's layers, its
    manifest revisions, or the index of a tag. *events* sends the mounts and deletions. Its
    repository is the one whose cached descriptors a deletion removes.
    """

    def __init__(
        self,
        driver: StorageDriver,
        blobs: BlobStore,
        link_set: str,
        events: Events | None = None,
    ) -> None:
        self._driver = driver
        self._metadata = blobs.metadata
        self._blobs = blobs
        self.link_set = link_set
        self.events = events or Events()

    def resolve(self, digest: Digest) -> Digest:
        """Return the digest under which the blob is stored.

        It is *digest* itself, or the canonical digest of an alias: a blob that was pushed as
        ``sha512:…`` is stored as ``sha256:…``. Raises BlobUnknown, LinkInvalid.
        """
        path = paths.link(self.link_set, digest)
        if self._metadata.is_known_to_hold(path, str(digest).encode("ascii")):
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
        """Return the blob's descriptor, with the digest under which the blob is stored.

        Raises BlobUnknown, LinkInvalid, LinkDangling, BlobDamaged, and DigestMismatch if the blob
        does not hash to *digest*.
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
        """Do the same as ``stat`` without any cache, for writers; raises the same errors."""
        if self._driver.is_object_store:  # elsewhere ``resolve`` reads the link itself
            try:
                self._metadata.stat_now(paths.link(self.link_set, digest))
            except PathNotFound:
                raise BlobUnknown(digest) from None
        return self._described(digest, self._blobs.stat_now)

    def prefetch(self, digests: Sequence[Digest]) -> None:
        """Prepare a ``stat`` of each digest, most of which are linked."""
        self._blobs.prefetch(digests)

    def open(self, digest: Digest) -> FileReader:
        """Open the blob to read it; raises BlobUnknown, LinkInvalid, DigestMismatch."""
        return self._blobs.open(self._verified(digest))

    def get(self, digest: Digest) -> bytes:
        """Return a small blob's verified content; raises what ``open`` does, and BlobDamaged."""
        return self._blobs.get(self._verified(digest))

    def map_contents(
        self, call: Callable[[Digest, bytes], T], digests: Iterable[Digest]
    ) -> Iterator[tuple[Digest, T | BlobfsError]]:
        """Yield each digest with ``call(digest, content)``, or with the error of ``get``, in order.

        A remote storage is read by up to 32 threads; each calls *call* on the content it has read.
        """

        def read(digest: Digest) -> T | BlobfsError:
            try:
                content = self.get(digest)
            except BlobfsError as exc:
                return exc
            return call(digest, content)

        return map_each(self._driver, read, digests)

    def _verified(self, digest: Digest) -> Digest:
        target = self.resolve(digest)
        self._blobs.verify_name(digest, target)
        return target

    def link(self, digest: Digest, target: Digest) -> None:
        """Link the existing blob *target* under the name *digest*."""
        path = paths.link(self.link_set, digest)
        if not self._driver.is_object_store:  # there a look first costs as much as the write
            try:
                if self._driver.read_at(path, 0, LONGER_THAN_A_LINK) == str(target).encode("ascii"):
                    self._driver.sync(path)
                    return
            except BlobfsError:
                pass  # an unreadable link is replaced, or the write below raises
        write_link(self._driver, path, target)

    def put(self, content: bytes) -> Descriptor:
        """Store and link a small blob."""
        descriptor = self._blobs.put(content)
        self.link_blob(descriptor.digest, descriptor)
        return descriptor

    def mount(self, digest: Digest, source: LinkedBlobStore | BlobStore) -> Descriptor:
        """Link a blob of *source* without copying it; raises the errors of ``source.stat_now``."""
        descriptor = source.stat_now(digest)
        self._blobs.sync(descriptor.digest)
        self.link_blob(digest, descriptor)
        origin = source.events.repository if isinstance(source, LinkedBlobStore) else None
        self.events.mounted(descriptor.digest, descriptor.size, origin)
        return descriptor

    def link_blob(self, digest: Digest, descriptor: Descriptor) -> None:
        """Link an existing blob under its own digest and under *digest*.

        The caller has verified both digests.
        """
        if digest != descriptor.digest:
            self._blobs.aliases.remember(Alias(digest, descriptor.digest))
        for name in {descriptor.digest, digest}:
            self.link(name, descriptor.digest)

    def delete(self, digest: Digest) -> None:
        """Remove the link; the blob stays until a garbage collection. Raises BlobUnknown."""
        try:
            self._driver.delete(paths.link(self.link_set, digest))
        except PathNotFound:
            raise BlobUnknown(digest) from None
        finally:  # also if the link was missing, or may have been removed
            self._blobs.descriptors.delete(digest, self.events.repository)
        self.events.deleted(digest)

    def algorithms(self) -> list[str]:
        """The algorithms that have a directory in the link set."""
        infos = self._driver.stat_many([f"{self.link_set}/{name}" for name in ALGORITHMS])
        return [name for name, info in zip(ALGORITHMS, infos, strict=True) if info and info.is_dir]

    def enumerate(self, algorithm: str) -> Iterator[Digest]:
        """Every digest of *algorithm* that has a link file, in no order; no link is read."""
        return (digest for digest in self.list_unchecked(algorithm) if self.existing([digest]))

    def enumerate_all(self) -> Iterator[Digest]:
        """Every digest that has a link file, in no order; no link is read."""
        return chain.from_iterable(map(self.enumerate, ALGORITHMS))

    def list_unchecked(self, algorithm: str) -> Iterator[Digest]:
        """Like ``enumerate``, but including some deleted links, and much cheaper."""
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
        """Those of *digests* that have a link file; a deleted link leaves its directory.

        If access to one is denied, all are returned; a later ``stat`` raises the error.
        """
        try:
            infos = self._driver.stat_many([paths.link(self.link_set, d) for d in digests])
        except AccessDenied:
            return list(digests)
        return [digest for digest, info in zip(digests, infos, strict=True) if info is not None]


class LayerStore(LinkedBlobStore):
    """The layers of *repository*, which the descriptor cache holds by repository. Thread-safe.

    A cached layer exists: its link is not read. Revisions are not cached by repository, because
    the cache cannot tell a revision from a layer and would turn each revision into a layer.

    A link whose blob is missing is damage, unless *is_left_over* returns true for its digest and
    its target: then a garbage collection has removed the layer, and it is unknown.
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
        # A shared cache may hold an alias that this process has not verified.
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
        """Those of *digests* that are linked, without left-over links.

        An object store is not asked for the blobs again: their cached presence lasts as long as
        that of their links.
        """
        linked = super().existing(digests)
        if self._driver.is_object_store:
            return linked
        stored = set(self._blobs.existing(linked))
        return [digest for digest in linked if digest in stored or self._is_shown(digest)]

    def _is_shown(self, digest: Digest) -> bool:
        try:
            self._stat_stored(digest)
        except BlobUnknown:
            return False
        except (Corrupt, AccessDenied):
            pass  # it exists; a later ``stat`` raises the error
        return True

    def prefetch(self, digests: Sequence[Digest]) -> None:
        self._statter.prefetch(digests, self.existing, self._blobs.prefetch_stored)

    def link_blob(self, digest: Digest, descriptor: Descriptor) -> None:
        generation = self._blobs.descriptors.generation
        super().link_blob(digest, descriptor)
        names = dict.fromkeys((digest, descriptor.digest), descriptor)
        self._blobs.descriptors.set_many(names, self.events.repository, generation)

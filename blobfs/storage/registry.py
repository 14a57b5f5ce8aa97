"""A registry: one blob store, and the repositories that share it."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from blobfs import paths
from blobfs.cache.base import DescriptorCache
from blobfs.cache.memory import NoCache
from blobfs.concurrency import guard
from blobfs.drivers.base import Closing, FileInfo, StorageDriver, stat_or_none
from blobfs.drivers.capacity import Capacity, capacity_of
from blobfs.drivers.factory import driver_for
from blobfs.drivers.location import Location
from blobfs.drivers.objectstore import ObjectStore, remote_of
from blobfs.drivers.prefetch.driver import ReadAheadDriver, ReadAheadOptions
from blobfs.drivers.resumable import Unfinished, uploads_of
from blobfs.errors import (
    AccessDenied,
    BlobUnknown,
    NotEmpty,
    PathNotFound,
    RepositoryUnknown,
    StorageUnavailable,
    TagUnknown,
)
from blobfs.reference import RepositoryName, is_component, is_repository_name
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.diskcache.cache import CachedDriver, CacheOptions
from blobfs.storage.events import NULL_LISTENER, Listener
from blobfs.storage.listing.driver import ListedDriver
from blobfs.storage.listing.presence import with_presence
from blobfs.storage.manifestmemory import ManifestMemory
from blobfs.storage.repository import Repository

log = logging.getLogger(__name__)

_KEPT: Final = 256
"""Repositories whose media types are kept, the most recently used ones (not measured)."""


class Registry(Closing):
    """The storage of a registry. It owns the driver and the descriptor cache, and closes them.

    Thread-safe, like both of these; the lock guards the table of repositories.
    """

    def __init__(
        self,
        driver: StorageDriver,
        cache: DescriptorCache | None = None,
        listener: Listener = NULL_LISTENER,
    ) -> None:
        self._driver = driver
        self._uploads = uploads_of(driver)
        self._cache = cache or NoCache()
        self._listener = listener
        self._lock = guard()
        self._repositories: OrderedDict[RepositoryName, Repository] = OrderedDict()
        self._manifests = ManifestMemory()
        self.blobs = BlobStore(driver, self._cache)

    @property
    def is_local(self) -> bool:
        """True if calls are short enough for an event loop."""
        return self._driver.is_local and self._cache.is_local

    def exists(self) -> bool:
        """True if the storage has the root directory of a registry."""
        info = self.stat(paths.ROOT)
        return info is not None and info.is_dir

    def create(self) -> None:
        """Create an empty registry in an object store, which has no empty directories."""
        self._driver.put_content(paths.CREATED, b"")

    @property
    def driver_name(self) -> str:
        """The driver's name in distribution's configuration."""
        return self._driver.name

    def reach(self) -> None:
        """Check that the storage answers; raises AccessDenied, StorageUnavailable."""
        self._driver.stat("/")

    def write_refusal(self) -> str | None:
        """Return the reason why blobs cannot be stored, without storing one; None if unknown."""
        remote = remote_of(self._driver)
        try:
            return None if remote is None else remote.write_refusal(f"{paths.BLOBS}/none")
        except StorageUnavailable as exc:  # it may accept writes later
            log.debug("%s", exc)
            return None

    def repository(self, name: str) -> Repository:
        """Return the repository, which need not exist; raises NameInvalid."""
        name = RepositoryName(name)
        with self._lock:
            repository = self._repositories.get(name)
            if repository is None:
                repository = Repository(
                    self._driver, self.blobs, name, self._listener, self._manifests
                )
                self._repositories[name] = repository
                if len(self._repositories) > _KEPT:
                    self._repositories.popitem(last=False)
            else:
                self._repositories.move_to_end(name)
            return repository

    def existing(self, name: str) -> Repository:
        """Return the repository, which must exist; raises NameInvalid, RepositoryUnknown."""
        if not self.is_repository(RepositoryName(name)):
            raise RepositoryUnknown(name)
        return self.repository(name)

    def is_repository(self, name: RepositoryName) -> bool:
        """True if *name* has one of the directories that make it a repository."""
        path = paths.repository(name)
        try:
            infos = self._driver.stat_many([f"{path}/{marker}" for marker in paths.MARKERS])
        except AccessDenied:
            return True  # one marker without access must not hide the others
        return any(info and info.is_dir for info in infos)

    def children(self, prefix: str) -> Iterator[str]:
        """The directories in a repository's directory, or in the root for ``""``, in no order.

        They are components of longer names, or ``paths.MARKERS``. Raises PathNotFound at the call.
        """
        entries = self._driver.listdir(paths.repository(prefix))
        return (
            entry.name
            for entry in entries
            if entry.is_dir and (entry.name in paths.MARKERS or is_component(entry.name))
        )

    def enumerate(self, after: str = "") -> Iterator[RepositoryName]:
        """Every repository, parents before children, sorted on each level.

        Only those *after* a name, which need not exist; directories before it are not listed. A
        directory that cannot be read counts as a repository, of which all else is AccessDenied.
        """
        last = after.split("/")
        pending = [""]
        while pending:
            prefix = pending.pop()
            try:
                names = sorted(self.children(prefix), reverse=True)
            except PathNotFound:
                continue
            except AccessDenied:
                if not prefix:
                    raise
                names = list(paths.MARKERS)
            is_repository = not set(paths.MARKERS).isdisjoint(names)
            if prefix and is_repository and prefix.split("/") > last:
                yield RepositoryName(prefix)
            for name in names:
                below = f"{prefix}/{name}" if prefix else name
                depth = below.count("/") + 1
                if is_repository_name(below) and below.split("/") >= last[:depth]:
                    pending.append(below)

    def remove(self, name: RepositoryName) -> None:
        """Remove a repository with its tags, manifests, links and uploads; those below it stay.

        Tags go first, so that no tag names a missing manifest. A missing repository is no error.
        """
        repository = self.repository(name)
        for tag in list(repository.tags.list_unchecked()):
            with suppress(TagUnknown):
                repository.tags.untag(tag)
        for links in (repository.manifests.links, repository.layers):
            for algorithm in links.algorithms():
                for digest in list(links.list_unchecked(algorithm)):
                    with suppress(BlobUnknown):
                        links.delete(digest)
        for part in (*paths.MARKERS, paths.TRASH):
            with suppress(PathNotFound):
                self._driver.delete(f"{paths.repository(name)}/{part}")
        self._driver.prune(paths.repository(name))

    def remove_empty(self, name: RepositoryName) -> None:
        """Remove the empty directories of a repository; a missing one is no error.

        Raises NotEmpty if there is a file in it, or in a repository below it.
        """
        path, trash = paths.repository(name), paths.trash(name)
        if _has_files(self._driver, path, besides=trash):
            raise NotEmpty(f"repository {name} has files; remove its tags, manifests and layers")
        with suppress(PathNotFound):
            self._driver.delete(trash)  # a removed tag has no revision any more
        self._driver.prune(path)

    def stat(self, path: str) -> FileInfo | None:
        """Return the attributes of a path of the layout; None if it is missing."""
        return stat_or_none(self._driver, path)

    def unfinished(self) -> Iterator[Unfinished]:
        """The unfinished multipart uploads of an object store."""
        return self._uploads.unfinished(paths.ROOT)

    def abandon(self, unfinished: Unfinished) -> None:
        """Abort an unfinished upload; a missing one is no error."""
        self._uploads.abandon(unfinished)

    def capacity(self) -> Capacity | None:
        """Return the size and the free space of the storage; None if it has no known limit."""
        return capacity_of(self._driver)

    def close(self) -> None:
        """Close the storage and the cache; the registry cannot be used again."""
        try:
            self._driver.close()
        finally:
            self._cache.close()


@dataclass(frozen=True, slots=True)
class RemoteOptions:
    """Options for caching and prefetching an object store.

    Listings are valid for *name_ttl_s* seconds, sizes of blobs for *content_ttl_s*.
    """

    name_ttl_s: float = 1.0
    content_ttl_s: float = 3600.0
    read_ahead: ReadAheadOptions = field(default_factory=ReadAheadOptions)
    cache: CacheOptions | None = None


def open_registry(
    storage: str | Location,
    remote: RemoteOptions | None = None,
    cache: DescriptorCache | None = None,
    listener: Listener = NULL_LISTENER,
) -> Registry:
    """The registry stored at *storage*: a directory, ``s3://bucket/prefix`` or ``memory:``.

    *remote* applies to an object store, *cache* holds descriptors, *listener* receives events. The
    caller closes the registry, or uses it in ``with``. Raises MountRefused for an invalid storage,
    PathNotFound, AccessDenied, StorageUnavailable.
    """
    driver = with_presence(driver_for(storage))
    if isinstance(driver, ObjectStore):
        driver = with_caching(driver, remote or RemoteOptions())
    return Registry(driver, cache, listener)


def with_caching(store: ObjectStore, options: RemoteOptions) -> StorageDriver:
    """Wrap *store* with listings, prefetching, and the disk cache if *options* has one.

    Raises MountRefused if the directory of the disk cache is unfit.
    """
    cached = store if options.cache is None else CachedDriver.opened(store, options.cache)
    prefetching = ReadAheadDriver(cached, options.read_ahead)
    return ListedDriver(
        prefetching,
        store,
        prefetching.invalidate,
        name_ttl_s=options.name_ttl_s,
        content_ttl_s=options.content_ttl_s,
    )


def _has_files(driver: StorageDriver, path: str, *, besides: str) -> bool:
    """True if a file is below a directory, and not below *besides*; False if it is missing."""
    pending = [path]
    while pending:
        above = pending.pop()
        try:
            entries = list(driver.listdir(above))
        except PathNotFound:
            continue
        if not all(entry.is_dir for entry in entries):
            return True
        below = (f"{above}/{entry.name}" for entry in entries)
        pending += (directory for directory in below if directory != besides)
    return False

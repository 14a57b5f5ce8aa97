"""The images of a registry and their root filesystems, for mounts and commands."""

from __future__ import annotations

import logging
import math
import os
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import BoundedSemaphore
from typing import Final

from blobfs import metrics
from blobfs.concurrency import SingleFlight, ThreadPool, refuse_to_take_long
from blobfs.digest import Descriptor, Digest
from blobfs.drivers.base import FileReader
from blobfs.errors import BlobfsError, Corrupt, DigestMismatch, LayerInvalid, NotFound, StorageFull
from blobfs.images import layer_index
from blobfs.images.image import Image, best_image, images_of
from blobfs.images.index_store import IndexStore, Make
from blobfs.images.layer import Layer
from blobfs.images.layer_index import LayerIndex
from blobfs.images.platforms import Platform
from blobfs.images.processes import ChildProcesses
from blobfs.images.recent import Recent
from blobfs.images.rootfs import RootFilesystem
from blobfs.images.seekable import SpanCache, ask_for_archive, open_archive
from blobfs.images.stored_file import StoredFile
from blobfs.images.toc import index as table_index
from blobfs.images.toc.verification import ask_for_index, open_index
from blobfs.images.tree import merge_indexes
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository

log = logging.getLogger(__name__)

_TREE: Final = "tree1"
"""The kind of trees in an IndexStore; the number is the version of their format."""

_KINDS: Final = {_TREE: "tree", layer_index.KIND: "layer", table_index.KIND: "table"}
"""Names of kinds in metrics."""

_IMAGES: Final = 1024
_TREES: Final = 64
_INDEXES: Final = 64
_FAILURES: Final = 1024
"""Things that are kept in memory; what is in use is kept beside."""

_FAILED_FOR_S: Final = 60.0
"""Time in which a layer that cannot be indexed is not read again."""

_INCOMPLETE_FOR_S: Final = 1.0
"""Time in which an index whose images are not all there is not read again."""

_Platforms = Mapping[Platform | None, Digest]

_INDEXING: Final = ThreadPool("indexing", 2)
"""Threads that read whole layers, few so that a mount has time for its requests."""

_READS: Final = BoundedSemaphore(2)
_MERGES: Final = BoundedSemaphore(1)
"""Layers that are read and trees that are written at once, each in a child process."""

_PROCESSES: Final = ChildProcesses()


def _build_counted(kind: str, build: Make, path: Path) -> None:
    """Build an index, and count that."""
    try:
        with metrics.IMAGE_INDEX_SECONDS.labels(kind).time():
            build(path)
    except (BlobfsError, OSError):
        metrics.IMAGE_INDEXES.labels(kind, "failed").inc()
        raise
    metrics.IMAGE_INDEXES.labels(kind, "built").inc()


class Images:
    """Images by repository and digest, and their root filesystems by way of *store*. Thread-safe.

    Only blobs that the repository links are read. *on_read* is called in several threads, with the
    number of bytes that were read of a layer to build its index.
    """

    def __init__(
        self,
        registry: Registry,
        store: IndexStore,
        on_read: Callable[[int], object] = metrics.IMAGE_INDEX_READ_BYTES.inc,
    ) -> None:
        self._registry = registry
        self._store = store
        self._on_read = on_read
        self._spans = SpanCache()
        metrics.IMAGE_SPANS.watch(self._spans)
        self._platforms: Recent[Digest, tuple[_Platforms, float]] = Recent(_IMAGES)
        self._images: Recent[Digest, Image] = Recent(_IMAGES)
        self._trees: Recent[Digest, tuple[RootFilesystem, Image]] = Recent(_TREES)
        self._indexes: Recent[Digest, LayerIndex] = Recent(_INDEXES)
        self._failures: Recent[Digest | Layer, tuple[BlobfsError, float]] = Recent(_FAILURES)
        self._running: SingleFlight[Digest, RootFilesystem] = SingleFlight()

    def platforms(self, repository: Repository, digest: Digest) -> _Platforms:
        """Return the images that a revision leads to; see ``images_of``.

        If one is missing or damaged, they are looked at again after _INCOMPLETE_FOR_S, or after ten
        times as long as that takes.
        """
        repository.manifests.links.stat(digest)
        found, until = self._platforms.get(digest) or ({}, 0.0)
        if time.monotonic() < until:
            return found
        refuse_to_take_long()
        began_at, until = time.monotonic(), math.inf
        try:
            found = images_of(repository, digest, broken=())
        except (NotFound, Corrupt):
            found = images_of(repository, digest)
            now = time.monotonic()
            until = now + max(_INCOMPLETE_FOR_S, 10 * (now - began_at))
        self._platforms.put(digest, (found, until))
        return found

    def here(self, repository: Repository, digest: Digest) -> Image:
        """Return the image for this machine that a revision leads to, or the first.

        Raises NotFound if it leads to none, ManifestUnknown, Corrupt.
        """
        best = best_image(self.platforms(repository, digest))
        if best is None:
            raise NotFound(f"{digest} leads to no image")
        return self.image(repository, best)

    def for_platform(self, repository: Repository, digest: Digest, platform: Platform) -> Image:
        """Return the image for *platform* that a revision leads to.

        Raises NotFound if it leads to none, ManifestUnknown, Corrupt.
        """
        found = dict(self.platforms(repository, digest))
        if None in found:
            found = {self.image(repository, digest).platform: digest}
        there = list(filter(None, found))
        best = platform.best_of(filter(platform.includes, there))
        if best is None:
            names = ", ".join(each.specifier for each in there) or "none"
            raise NotFound(f"{digest} has no image for {platform.specifier}; it has {names}")
        return self.image(repository, found[best])

    def image(self, repository: Repository, digest: Digest) -> Image:
        """Return the image of a manifest; see ``Image.read``."""
        repository.manifests.links.stat(digest)
        found = self._images.get(digest)
        if found is None:
            refuse_to_take_long()
            return self._images.put(digest, Image.read(repository, digest))
        repository.layers.stat(found.config.digest)
        return found

    def opened(self, tree: Digest) -> RootFilesystem | None:
        """Return the root filesystem of the images with *tree* if it is open; no I/O."""
        found = self._trees.get(tree)
        return None if found is None else found[0]

    def _current(self, image: Image) -> RootFilesystem | None:
        """Return the open root filesystem of *image*, unless the index of a table is obsolete."""
        root, used = self._trees.get(image.tree) or (None, image)
        tabled = (replace(each, by_table=False) for each in used.layers if each.by_table)
        is_obsolete = any(self._stored_size(layer_index.KIND, each.index) for each in tabled)
        return None if is_obsolete else root

    def failure(self, image: Image) -> str:
        """Return the reason why an image has no root filesystem; empty if none is known."""
        return str(self._failure(image.tree) or "")

    def unindexed(self, image: Image) -> Sequence[Layer]:
        """Return the layers that ``index`` has to read."""
        if self._stored_size(_TREE, image.tree):
            return []
        return [
            layer for layer in image.layers if not self._stored_size(layer_index.KIND, layer.index)
        ]

    def index_size(self, image: Image) -> int:
        """Return the size of all stored indexes that *image* uses, in bytes."""
        layers = {layer.index for layer in image.layers}
        return self._stored_size(_TREE, image.tree) + sum(
            self._stored_size(layer_index.KIND, key) for key in layers
        )

    def _stored_size(self, kind: str, key: Digest) -> int:
        """Return the size of a file of the store; 0 if there is none."""
        found = self._store.find(kind, key)
        if found is None:
            return 0
        with found:
            return found.size

    def _failure(self, key: Digest | Layer) -> BlobfsError | None:
        failure, until = self._failures.get(key) or (None, 0.0)
        return failure if time.monotonic() < until else None

    @contextmanager
    def _keeping_failure(self, key: Digest | Layer) -> Iterator[None]:
        """Raise the failure of *key* if it is known; remember the one that is raised now."""
        if failure := self._failure(key):
            raise type(failure)(str(failure))
        try:
            yield
        except (Corrupt, StorageFull) as exc:
            kept = type(exc)(str(exc))  # without the frames
            self._failures.put(key, (kept, time.monotonic() + _FAILED_FOR_S))
            raise

    def rootfs(self, repository: Repository, image: Image) -> RootFilesystem:
        """Open the root filesystem of *image*, whose layers are read if they have no index.

        Of a layer with a table of contents that can be used, little more than the table is read.
        Raises LayerInvalid and other Corrupt; StorageUnavailable, AccessDenied, StorageFull.
        """
        for layer in image.layers:
            _linked(repository, layer)
        found = self._current(image)
        if found is not None:
            return found
        with self._keeping_failure(image.tree):
            return self._running.run(image.tree, partial(self._look, repository, image))

    def index(self, repository: Repository, image: Image) -> RootFilesystem:
        """Open the root filesystem of *image*, whose layers are read in full; see ``rootfs``."""
        return self._open(repository, image, image)

    def _look(self, repository: Repository, image: Image) -> RootFilesystem:
        if (found := self._current(image)) is not None:
            return found
        self._trees.discard(image.tree)
        return self._open(repository, image, self._with_tables(repository, image))

    def _with_tables(self, repository: Repository, image: Image) -> Image:
        """Return *image* with the layers that have an index by their table, or get one now."""
        if not any(layer.table for layer in image.layers) or self._stored_size(_TREE, image.tree):
            return image
        layers = tuple(_INDEXING.map(partial(self._with_table, repository), image.layers))
        return replace(image, layers=layers)

    def _with_table(self, repository: Repository, layer: Layer) -> Layer:
        if layer.table is None or self._stored_size(layer_index.KIND, layer.index):
            return layer
        by_table = replace(layer, by_table=True)
        try:
            self._index(repository, by_table)
        except Corrupt:  # reading the layer in full reports it
            return layer
        return by_table

    def _open(self, repository: Repository, image: Image, used: Image) -> RootFilesystem:
        """Open the tree of *image*, with the indexes that *used* has."""
        write = partial(self._write_tree, repository, used)
        stored = self._stored(_TREE, used.tree, write)
        try:
            root = RootFilesystem(stored.path, partial(self._open_layer, repository, used.layers))
        except BaseException:
            stored.close()
            raise
        weakref.finalize(root, stored.close)
        if root.unplaced:
            log.warning("image %s: %s", image.digest, root.unplaced)
        self._trees.put(image.tree, (root, used))
        return root

    def _write_tree(self, repository: Repository, image: Image, path: Path) -> None:
        for _ in _INDEXING.map(partial(self._verify, repository), image.layers):
            pass
        paths = self._index_paths(repository, image)
        with _MERGES:
            _PROCESSES.run(merge_indexes, lambda *_: next(paths, b""), path, image.created_ns)

    def _index_paths(self, repository: Repository, image: Image) -> Iterator[bytes]:
        """Yield the paths of the indexes of the layers; each is in use until the next one."""
        for layer in image.layers:  # may be more than the process may have files
            index = self._index(repository, layer)
            yield os.fsencode(index.path)

    def _verify(self, repository: Repository, layer: Layer) -> None:
        """Build the index of a layer, if there is none, and compare its diff ID."""
        index = self._index(repository, layer)
        if not layer.by_table and layer.diff_id not in (None, index.diff_id):
            raise DigestMismatch(
                f"the archive of layer {index.digest} has the digest {index.diff_id},"
                f" in the image {layer.diff_id}"
            )

    def _index(self, repository: Repository, layer: Layer) -> LayerIndex:
        """Open the index of a layer, which is read if there is none."""
        found = self._indexes.get(layer.index)
        if found is not None:
            return found

        build = partial(self._build_index, repository, layer)
        kind = table_index.KIND if layer.by_table else layer_index.KIND
        stored = self._stored(kind, layer.index, build)
        try:
            index = open_index(stored.path, layer)
        except BaseException:
            stored.close()
            raise
        weakref.finalize(index, stored.close)
        if index.fault:
            raise LayerInvalid(f"layer {index.digest}: {index.fault}")
        return self._indexes.put(layer.index, index)

    def _build_index(self, repository: Repository, layer: Layer, path: Path) -> None:
        with self._blob(repository, layer) as blob, self._keeping_failure(layer):
            try:
                with _READS:
                    _PROCESSES.run(ask_for_index, partial(self._read, blob), blob.size, layer, path)
            except LayerInvalid as exc:
                raise LayerInvalid(f"layer {layer.descriptor.digest}: {exc}") from None

    def _read(self, blob: FileReader, offset: int, size: int) -> bytes:
        data = _part(blob, offset, size)
        self._on_read(len(data))
        return data

    def _stored(self, kind: str, key: Digest, build: Make) -> StoredFile:
        """Open a file of the store, and count that; *build* creates the file if it is missing."""
        found = self._store.find(kind, key)
        if found is not None:
            metrics.IMAGE_INDEXES.labels(_KINDS[kind], "found").inc()
            return found
        return self._store.open(kind, key, partial(_build_counted, _KINDS[kind], build))

    def _blob(self, repository: Repository, layer: Layer) -> FileReader:
        return self._registry.blobs.open_known(_linked(repository, layer))

    def _open_layer(
        self, repository: Repository, layers: tuple[Layer, ...], number: int
    ) -> FileReader:
        """Open the uncompressed archive of a layer."""
        layer = layers[number]
        index = self._index(repository, layer)
        blob = self._blob(repository, layer)
        try:
            return open_archive(self._store, index, blob, self._spans, _write_archive)
        except BaseException:
            blob.close()
            raise


def _part(blob: FileReader, offset: int, size: int) -> bytes:
    return blob.read_at(offset, min(size, layer_index.MAX_SPAN))


def _write_archive(blob: FileReader, compression: str, diff_id: Digest | None, path: Path) -> None:
    with _READS:
        _PROCESSES.run(ask_for_archive, partial(_part, blob), blob.size, compression, diff_id, path)


def _linked(repository: Repository, layer: Layer) -> Descriptor:
    """Return the descriptor of a layer's blob; raises LayerInvalid without a link to it."""
    digest = layer.descriptor.digest
    try:
        return repository.layers.stat(digest)
    except NotFound:
        raise LayerInvalid(f"layer {digest} is not in {repository.name}") from None

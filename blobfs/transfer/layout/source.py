"""A layout as the source of a copy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from blobfs.concurrency import SingleFlight
from blobfs.digest import Descriptor, Digest
from blobfs.drivers.base import FileReader
from blobfs.errors import (
    BlobUnknown,
    DigestMismatch,
    ManifestInvalid,
    ManifestUnknown,
    MountRefused,
    RepositoryUnknown,
    TagUnknown,
)
from blobfs.inventory.rows import unpack
from blobfs.reference import Tag
from blobfs.storage.blobstore import MAX_CONTENT
from blobfs.transfer.base import Outline, Source
from blobfs.transfer.layout.contents import Contents
from blobfs.transfer.layout.directory import DirectoryReader
from blobfs.transfer.layout.entries import Entry, Index
from blobfs.transfer.layout.store import LayoutReader
from blobfs.transfer.outlines import outline_of

_KEPT_MANIFESTS: Final = 64
"""Manifests kept in memory: a copy asks for the outline of one, and then for its bytes."""


class Manifests:
    """Reads the manifests of a layout, and keeps the last ones. Thread-safe."""

    def __init__(self, store: LayoutReader) -> None:
        self._store = store
        self.read = lru_cache(_KEPT_MANIFESTS)(self._read)

    def _read(self, digest: Digest) -> bytes:
        """Return the bytes of a manifest; raises ManifestUnknown, Corrupt."""
        try:
            with self._store.open(digest) as reader:
                if reader.size > MAX_CONTENT:
                    raise ManifestInvalid(f"manifest {digest} has {reader.size} bytes")
                return b"".join(digest.verified(reader.chunks()))
        except BlobUnknown:
            raise ManifestUnknown(digest) from None

    def outline(self, digest: Digest) -> Outline:
        """Return the outline of a manifest; raises ManifestUnknown, Corrupt."""
        return outline_of(digest, self.read(digest))


class IndexedSource(Source):
    """Reads a layout. Thread-safe.

    The index is read at the start. The manifests of a repository are read once, when all of them or
    the referrers of one are asked for.
    """

    def __init__(self, store: LayoutReader) -> None:
        self._store = store
        self._manifests = Manifests(store)
        payload = store.index()
        if payload is None:
            raise MountRefused(f"{store.place} is no OCI image layout: it has no index.json")
        self._entries: dict[str, list[Entry]] = defaultdict(list)
        for entry in Index.read(payload).entries:
            self._entries[entry.repository].append(entry)
        self._contents: dict[str, Contents] = {}
        self._reading: SingleFlight[str, Contents] = SingleFlight()

    def repositories(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def tags(self, repository: str) -> Iterator[Tag]:
        return iter({entry.tag: None for entry in self._of(repository) if entry.tag is not None})

    def tagged(self, repository: str, tag: Tag) -> Digest:
        return self._entry(repository, tag).descriptor.digest

    def history(self, repository: str, tag: Tag) -> Sequence[Digest]:
        entry = self._entry(repository, tag)
        return (*entry.history, entry.descriptor.digest) if entry.history else ()

    def revisions(self, repository: str) -> Iterator[Digest]:
        return self._read(repository).revisions()

    def blobs(self, repository: str) -> Iterator[Digest]:
        return map(unpack, self._read(repository).single)

    def referrers(self, repository: str, digest: Digest) -> Sequence[Digest]:
        return self._read(repository).referrers.get(digest, ())

    def manifest(self, repository: str, digest: Digest) -> bytes:
        return self._manifests.read(digest)

    def outline(self, repository: str, digest: Digest) -> Outline:
        return self._manifests.outline(digest)

    def size(self, repository: str, digest: Digest) -> int:
        size = self._store.size(digest)
        if size is None:
            raise BlobUnknown(digest)
        return size

    def open(self, repository: str, blob: Descriptor) -> FileReader:
        reader = self._store.open(blob.digest)
        if reader.size != blob.size:
            reader.close()
            raise DigestMismatch(f"blob {blob.digest} has {reader.size} bytes, not {blob.size}")
        return reader

    def close(self) -> None:
        self._store.close()

    def _of(self, repository: str) -> list[Entry]:
        found = self._entries.get(repository)
        if found is None and repository:
            raise RepositoryUnknown(repository)
        return found or []

    def _entry(self, repository: str, tag: Tag) -> Entry:
        """Return the entry of a tag.

        ``docker save`` gives an entry a whole name, and its tag alone as the name that other tools
        show. So a tag without a repository means that, too, if only one entry has it.
        """
        found = [entry for entry in self._entries.get(repository, ()) if entry.tag == tag]
        if not (found or repository):
            named = [
                entry for all_of in self._entries.values() for entry in all_of if entry.name == tag
            ]
            found = named if len(named) == 1 else []
        if not found:
            raise TagUnknown(tag)
        return found[0]

    def _read(self, repository: str) -> Contents:
        entries = self._of(repository)

        def read() -> Contents:
            if repository not in self._contents:
                self._contents[repository] = Contents.read(
                    repository, entries, self._manifests.outline
                )
            return self._contents[repository]

        return self._reading.run(repository, read)


class LayoutSource(IndexedSource):
    """Reads the OCI image layout in *directory*.

    Raises PathNotFound, AccessDenied, MountRefused.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(DirectoryReader.opened(directory))

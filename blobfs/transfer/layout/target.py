"""A layout as the target of a copy."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from blobfs.concurrency import CallLock
from blobfs.digest import CANONICAL, Descriptor, Digest
from blobfs.errors import Corrupt, ManifestRejected, ManifestUnknown, TagUnknown
from blobfs.inventory.rows import pack
from blobfs.reference import Tag
from blobfs.transfer.base import Outline, Target
from blobfs.transfer.layout.contents import Contents
from blobfs.transfer.layout.directory import DirectoryWriter
from blobfs.transfer.layout.entries import Entry, Index
from blobfs.transfer.layout.notes import Note, parse_notes
from blobfs.transfer.layout.source import Manifests
from blobfs.transfer.layout.store import LayoutWriter
from blobfs.transfer.outlines import outline_of

_PAUSE_S: Final = 1.0
_PAUSE_FACTOR: Final = 20
"""The index is written again after a second, and after so many times as long as that took."""


class IndexedTarget(Target):
    """Writes a layout. Thread-safe: the lock guards all fields but the store.

    The index is read at the start, and the manifests of a repository at its first use. Nothing is
    created or locked before the first change. ``flush`` makes the changes durable as notes, and
    writes the index at intervals, so that its costs do not grow with the square of its length.
    """

    def __init__(self, store: LayoutWriter) -> None:
        self._store = store
        self._manifests = Manifests(store)
        self._lock = CallLock()
        payload = store.index()
        self._index = Index() if payload is None else Index.read(payload)
        self._entries: dict[str, list[Entry]] = defaultdict(list)
        for entry in self._index.entries:
            self._entries[entry.repository].append(entry)
        self._noted: dict[str, list[Note]] = defaultdict(list)
        self._noted_blobs: dict[str, dict[bytes, int]] = defaultdict(dict)
        for note in parse_notes(store.notes()):
            if note.is_blob and note.descriptor is not None:
                packed = pack(note.descriptor.digest)
                self._noted_blobs[note.repository][packed] = note.descriptor.size
            else:
                self._noted[note.repository].append(note)
        self._contents: dict[str, Contents] = {}
        self._new: list[Note] = []
        self._is_complete = payload is not None and not self._noted and not self._noted_blobs
        self._next_index = 0.0  # monotonic

    def missing(self, repository: str, blobs: Sequence[Descriptor]) -> list[Descriptor]:
        with self._lock:
            contents = self._read(repository)
            linked = {blob.digest for blob in blobs if contents.has_blob(blob.digest)}
        return [
            blob
            for blob in blobs
            if blob.digest not in linked or self._store.size(blob.digest) != blob.size
        ]

    def link(self, repository: str, blob: Descriptor, holder: str | None) -> bool:
        if self._store.size(blob.digest) != blob.size:
            return False
        self._store.begin()
        self._add_blob(repository, blob)
        return True

    def put_blob(self, repository: str, blob: Descriptor, chunks: Iterable[bytes]) -> None:
        self._store.begin()
        self._put(blob.digest, chunks, blob.size)
        self._add_blob(repository, blob, is_new=True)

    def _put(self, digest: Digest, chunks: Iterable[bytes], size: int) -> None:
        """Store bytes under *digest*, and also under the canonical digest."""
        if digest.algorithm == CANONICAL:
            self._store.put(digest, chunks, size)
            return
        hasher = hashlib.new(CANONICAL)

        def hashed() -> Iterator[bytes]:
            for chunk in chunks:
                hasher.update(chunk)
                yield chunk

        self._store.put(digest, hashed(), size)
        self._store.alias(digest, Digest(CANONICAL, hasher.hexdigest()))

    def _add_blob(self, repository: str, blob: Descriptor, *, is_new: bool = False) -> None:
        with self._lock:
            if self._read(repository).add_blob(blob) or is_new:
                self._new.append(Note(repository, Descriptor(blob.digest, blob.size)))

    def has_manifest(self, repository: str, manifest: Descriptor) -> bool:
        with self._lock:
            if manifest.digest not in self._read(repository).manifests:
                return False
        return self._store.size(manifest.digest) == manifest.size

    def put_manifest(self, repository: str, digest: Digest, payload: bytes) -> None:
        try:
            outline = outline_of(digest, payload)
        except Corrupt as exc:
            raise ManifestRejected(str(exc)) from None
        self._refuse_incomplete(repository, outline)
        self._store.begin()
        try:
            self._manifests.read(digest)
        except (ManifestUnknown, Corrupt):
            self._put(digest, (payload,), len(payload))
        with self._lock:
            self._read(repository).add_manifest(outline)
            self._new.append(Note(repository, outline.manifest))

    def _refuse_incomplete(self, repository: str, outline: Outline) -> None:
        with self._lock:
            contents = self._read(repository)
            lacking = [
                *(each for each in outline.children if each not in contents.manifests),
                *(each.digest for each in outline.blobs if not contents.has_blob(each.digest)),
            ]
        lacking += [each.digest for each in outline.blobs if self._store.size(each.digest) is None]
        if lacking:
            raise ManifestRejected(f"{outline.manifest.digest} refers to {lacking[0]}, not stored")

    def tag(self, repository: str, tag: Tag, digest: Digest, history: Sequence[Digest]) -> None:
        with self._lock:
            contents = self._read(repository)
            descriptor = contents.manifests.get(digest)
            if descriptor is None:
                raise ManifestUnknown(digest)
            before = contents.tags.get(tag)
            if before and before.moved_to(descriptor).with_history(history) is before:
                return
            self._set_tag(Note(repository, descriptor, tag, tuple(history)))

    def untag(self, repository: str, tag: Tag) -> None:
        with self._lock:
            if tag in self._read(repository).tags:
                self._set_tag(Note(repository, None, tag))

    def _set_tag(self, note: Note) -> None:
        self._store.begin()
        self._read(note.repository).apply(note, self._manifests.outline)
        self._new.append(note)

    def repositories(self) -> Iterator[str]:
        with self._lock:
            new = (name for name, contents in self._contents.items() if not contents.is_empty)
            return iter(sorted({*self._entries, *self._noted, *self._noted_blobs, *new}))

    def tags(self, repository: str) -> Iterator[Tag]:
        with self._lock:
            return iter(list(self._read(repository).tags))

    def tagged(self, repository: str, tag: Tag) -> Digest:
        with self._lock:
            entry = self._read(repository).tags.get(tag)
        if entry is None:
            raise TagUnknown(tag)
        return entry.descriptor.digest

    def flush(self) -> None:
        with self._lock:
            if not self._new:
                return
            is_listed = not all(note.is_blob for note in self._new)
            self._is_complete = False
            self._store.add_notes(b"".join(note.line() for note in self._new))
            self._new.clear()
            begin = time.monotonic()
            if is_listed and self._store.has_live_index and begin >= self._next_index:
                self._store.write_index(self._index.payload(self._listed()))
                end = time.monotonic()
                self._next_index = end + max(_PAUSE_S, _PAUSE_FACTOR * (end - begin))

    def finish(self) -> None:
        self.flush()
        with self._lock:
            if self._is_complete:
                return
            self._store.begin()
            for repository in {*self._noted, *self._noted_blobs}:
                self._read(repository)
            self._store.finish(self._index.payload(self._listed(finished=True)))
            self._noted.clear()
            self._noted_blobs.clear()
            self._is_complete = True

    def close(self) -> None:
        self._store.close()

    def _listed(self, *, finished: bool = False) -> Iterator[Entry]:
        """The entries of the index; those of new single blobs only at the end.

        A manifest may still come for a blob.
        """
        for repository in sorted({*self._entries, *self._contents}):
            contents = self._contents.get(repository)
            if contents is None:
                yield from self._entries[repository]
            else:
                yield from contents.entries()
                for entry in contents.blobs(finished=finished):
                    if not entry.is_ours or self._store.size(entry.descriptor.digest) is not None:
                        yield entry

    def _read(self, repository: str) -> Contents:
        """Return the content of a repository, which is empty if it is new."""
        contents = self._contents.get(repository)
        if contents is None:
            entries = self._entries.get(repository, ())
            contents = Contents.read(repository, entries, self._manifests.outline)
            contents.add_blobs(self._noted_blobs.get(repository, {}))
            for note in self._noted.get(repository, ()):
                contents.apply(note, self._manifests.outline)
            self._contents[repository] = contents
        return contents


class LayoutTarget(IndexedTarget):
    """Writes the OCI image layout in *directory*, which is new, empty, or a layout.

    Raises MountRefused, AccessDenied.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(DirectoryWriter(directory))

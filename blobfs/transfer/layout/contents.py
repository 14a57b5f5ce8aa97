"""The content of one repository in a layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from blobfs.digest import Descriptor, Digest
from blobfs.errors import Corrupt, ManifestUnknown
from blobfs.inventory.rows import pack, unpack
from blobfs.reference import Tag
from blobfs.transfer.base import Outline
from blobfs.transfer.layout.entries import Entry
from blobfs.transfer.layout.notes import Note


class Contents:
    """The tags, manifests and blobs of one repository.

    A blob takes about 110 bytes of memory, as a layout may have a million. Not thread-safe.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.tags: dict[Tag, Entry] = {}
        self.manifests: dict[Digest, Descriptor] = {}
        self.unreadable: set[Digest] = set()  # manifests of entries
        self.referrers: dict[Digest, list[Digest]] = {}
        self._kept: list[Entry] = []  # of other tools
        self._listed_blobs: list[Entry] = []
        self._children: set[Digest] = set()
        self._named: set[bytes] = set()  # blobs, by manifests
        self.single: dict[bytes, int] = {}  # packed digest: size

    @classmethod
    def read(
        cls, name: str, entries: Iterable[Entry], outline: Callable[[Digest], Outline]
    ) -> Contents:
        """Return what follows from *entries*; *outline* raises ManifestUnknown, Corrupt."""
        contents = cls(name)
        for entry in entries:
            contents._read_entry(entry, outline)
        return contents

    def _read_entry(self, entry: Entry, outline: Callable[[Digest], Outline]) -> None:
        if entry.is_blob:
            self.add_blob(entry.descriptor)
            self._listed_blobs.append(entry)
            return
        is_readable = self._read_manifests(entry.descriptor.digest, outline)
        if entry.tag is not None and entry.tag not in self.tags:
            self.tags[entry.tag] = entry
        elif not (entry.is_ours and is_readable):
            self._kept.append(entry)

    def _read_manifests(self, root: Digest, outline: Callable[[Digest], Outline]) -> bool:
        """Add the manifest *root* and those below it; False if *root* cannot be read."""
        pending = [root]
        while pending:
            digest = pending.pop()
            if digest in self.manifests:
                continue
            try:
                self.add_manifest(found := outline(digest))
                pending.extend(found.children)
            except (ManifestUnknown, Corrupt):
                if digest == root:
                    self.unreadable.add(root)
        return root in self.manifests

    def add_manifest(self, outline: Outline) -> None:
        """Add a manifest, which names blobs and manifests."""
        digest = outline.manifest.digest
        self.manifests[digest] = outline.manifest
        self.unreadable.discard(digest)
        self._children.update(outline.children)
        for blob in outline.blobs:
            packed = pack(blob.digest)
            self._named.add(packed)
            self.single.pop(packed, None)
        if outline.subject is not None:
            found = self.referrers.setdefault(outline.subject, [])
            if digest not in found:
                found.append(digest)

    def apply(self, note: Note, outline: Callable[[Digest], Outline]) -> None:
        """Make the change of *note*; one whose manifest cannot be read is left out."""
        descriptor, tag = note.descriptor, note.tag
        if tag is not None:
            self._kept = [entry for entry in self._kept if entry.tag != tag]
        if descriptor is None:
            self.tags = {each: entry for each, entry in self.tags.items() if each != tag}
        elif note.is_blob:
            self.add_blob(descriptor)
        elif self._read_manifests(descriptor.digest, outline) and tag is not None:
            entry = self.tags.get(tag) or Entry.of(descriptor, self.name, tag)
            self.tags[tag] = entry.moved_to(descriptor).with_history(note.history)

    def add_blob(self, blob: Descriptor) -> bool:
        """Add a blob; True if no manifest names it."""
        packed = pack(blob.digest)
        if packed in self._named:
            return False
        self.single[packed] = blob.size
        return True

    def add_blobs(self, blobs: Mapping[bytes, int]) -> None:
        """Add blobs, by their packed digests with their sizes."""
        self.single.update((key, size) for key, size in blobs.items() if key not in self._named)

    @property
    def is_empty(self) -> bool:
        """True if the repository has nothing, so that it does not exist."""
        return not (self.tags or self.manifests or self.single or self._kept)

    def has_blob(self, digest: Digest) -> bool:
        """True if the repository has a blob, provided that the layout has it."""
        packed = pack(digest)
        return packed in self._named or packed in self.single

    def revisions(self) -> Iterator[Digest]:
        """All manifests, with those that cannot be read."""
        yield from self.manifests
        yield from self.unreadable

    def entries(self) -> Iterator[Entry]:
        """The entries of tags, and of the manifests that have none; not of blobs."""
        yield from self.tags.values()
        yield from self._kept
        listed = {entry.descriptor.digest for entry in (*self.tags.values(), *self._kept)}
        for digest, descriptor in self.manifests.items():
            if digest not in listed and digest not in self._children:
                yield Entry.of(descriptor, self.name)

    def blobs(self, *, finished: bool) -> Iterator[Entry]:
        """The entries of single blobs that the index has had, and of all at the end."""
        listed = set()
        for entry in self._listed_blobs:
            listed.add(packed := pack(entry.descriptor.digest))
            if packed in self.single or not entry.is_ours:
                yield entry
        for packed in self.single.keys() - listed if finished else ():
            yield Entry.of(Descriptor(unpack(packed), self.single[packed]), self.name)

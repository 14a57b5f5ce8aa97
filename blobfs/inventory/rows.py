"""Rows of the journal, made from the entries of a span."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import md5
from typing import Final, NamedTuple

from blobfs import paths
from blobfs.digest import ALGORITHMS, Digest
from blobfs.errors import DigestInvalid, NameInvalid
from blobfs.inventory.spans import Entry, EntryKind
from blobfs.reference import Tag


class LinkKind(IntEnum):
    """The link set that a link belongs to."""

    LAYER = 0
    REVISION = 1
    CURRENT = 2
    INDEX = 3
    SIGNATURE = 4
    """A signature of schema 1, below its revision (distribution before 2.5)."""


def pack(digest: Digest) -> bytes:
    """Return a digest as the journal stores it: a byte for the algorithm, and the hash."""
    return bytes((ALGORITHMS.index(digest.algorithm),)) + bytes.fromhex(digest.encoded)


def unpack(packed: bytes) -> Digest:
    """Return the digest that ``pack`` made *packed* of."""
    return Digest(ALGORITHMS[packed[0]], packed[1:].hex())


class BlobRow(NamedTuple):
    """A stored blob: its packed digest, size in bytes, and time in ns since the epoch."""

    digest: bytes
    size: int
    mtime: int


class LinkRow(NamedTuple):
    """A link file.

    *repository* is the name in the path, which may be invalid. *tag* is the tag of its links,
    and for a signature the directory of its revision. *digest* is that of the path, None for the
    current link of a tag. *target* is the packed content, and *fault* says what is wrong with it;
    both are None if the file was not read.
    """

    repository: str
    kind: int
    tag: str | None
    digest: bytes | None
    target: bytes | None
    fault: str | None
    size: int
    mtime: int


class UploadFileRow(NamedTuple):
    """A file of an open upload; *name* is relative to the upload's directory."""

    repository: str
    upload: str
    name: str
    size: int
    mtime: int


class OtherRow(NamedTuple):
    """A path that the layout does not have, an empty directory, or an unreadable path.

    *kind* is an ``EntryKind``.
    """

    path: str
    kind: int
    size: int
    mtime: int


class Target(NamedTuple):
    """The content of a link: a packed digest, or a fault; neither if the link was not read."""

    digest: bytes | None = None
    fault: str | None = None


@dataclass(slots=True)
class Rows:
    """The rows of one step."""

    blobs: list[BlobRow] = field(default_factory=list)
    links: list[LinkRow] = field(default_factory=list)
    upload_files: list[UploadFileRow] = field(default_factory=list)
    others: list[OtherRow] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.blobs) + len(self.links) + len(self.upload_files) + len(self.others)


class Classifier:
    """Adds the row of each entry of a span to *rows*, in the order of the span.

    *read* returns the content of the link file at a path. Without it, which is cheaper on an object
    store, ETags are compared with the digest that the link should hold.
    """

    def __init__(self, rows: Rows, read: Callable[[str], Target] | None) -> None:
        self._rows = rows
        self._read = read
        self._current_etag = ""
        """The ETag of the last row of links, if that is a current link without a target."""

    def add(self, entry: Entry) -> None:
        """Add the row of *entry*."""
        if entry.kind is not EntryKind.FILE or not self._add_file(entry):
            self._rows.others.append(
                OtherRow(entry.path, int(entry.kind), entry.size, entry.mtime_ns)
            )

    def _add_file(self, entry: Entry) -> bool:
        """Return False for a file that the layout does not have."""
        try:
            if entry.path.startswith(_BLOBS):
                return self._add_blob(entry)
            return self._add_of_repository(entry)
        except (DigestInvalid, NameInvalid):
            return False

    def _add_blob(self, entry: Entry) -> bool:
        match entry.path[len(_BLOBS) :].split("/"):
            case [algorithm, shard, encoded, "data"] if encoded[:2] == shard:
                digest = pack(Digest(algorithm, encoded))
                self._rows.blobs.append(BlobRow(digest, entry.size, entry.mtime_ns))
                return True
        return False

    def _add_of_repository(self, entry: Entry) -> bool:
        name, _, rest = entry.path[len(_REPOSITORIES) :].partition("/_")
        match rest.split("/"):
            case ["layers", algorithm, encoded, "link"]:
                self._add_link(name, LinkKind.LAYER, entry, Digest(algorithm, encoded))
            case ["manifests", "revisions", algorithm, encoded, "link"]:
                self._add_link(name, LinkKind.REVISION, entry, Digest(algorithm, encoded))
            case ["manifests", "revisions", kind, of, "signatures", algorithm, encoded, "link"]:
                digest = Digest(algorithm, encoded)
                self._add_link(name, LinkKind.SIGNATURE, entry, digest, f"{kind}/{of}")
            case ["manifests", "tags", tag, "current", "link"]:
                self._add_current(name, Tag(tag), entry)
            case ["manifests", "tags", tag, "index", algorithm, encoded, "link"]:
                digest = Digest(algorithm, encoded)
                self._complete_current(name, Tag(tag), digest)
                self._add_link(name, LinkKind.INDEX, entry, digest, Tag(tag))
            case ["uploads", upload, file, *more]:
                file = "/".join((file, *more))
                row = UploadFileRow(name, upload, file, entry.size, entry.mtime_ns)
                self._rows.upload_files.append(row)
            case _:
                return False
        return True

    def _add_link(
        self, name: str, kind: LinkKind, entry: Entry, digest: Digest, tag: str | None = None
    ) -> None:
        packed = pack(digest)
        if self._read is not None:
            target = self._read(entry.path)
        else:
            target = Target(packed if entry.etag == _etag(digest) else None)
        row = LinkRow(name, int(kind), tag, packed, *target, entry.size, entry.mtime_ns)
        self._rows.links.append(row)

    def _add_current(self, name: str, tag: Tag, entry: Entry) -> None:
        target = Target() if self._read is None else self._read(entry.path)
        row = LinkRow(name, int(LinkKind.CURRENT), tag, None, *target, entry.size, entry.mtime_ns)
        self._rows.links.append(row)
        self._current_etag = entry.etag if self._read is None else ""

    def _complete_current(self, name: str, tag: Tag, digest: Digest) -> None:
        """Set the target of the tag's current link, which comes before its history."""
        if not self._current_etag or _etag(digest) != self._current_etag:
            return
        links = self._rows.links
        for index in range(len(links) - 1, -1, -1):
            row = links[index]
            if (row.repository, row.tag) != (name, tag):
                return
            if row.kind == LinkKind.CURRENT:
                links[index] = row._replace(target=pack(digest))
                return


def link_path(repository: str, kind: int, tag: str | None, digest: bytes | None) -> str:
    """Return the path of a link file; its repository's name may be invalid."""
    directory = f"{_REPOSITORIES}{repository}"
    if kind == LinkKind.CURRENT:
        return f"{directory}/_manifests/tags/{tag}/current/link"
    if digest is None:
        raise ValueError("only the current link of a tag has no digest in its path")
    links = {
        LinkKind.LAYER: "_layers",
        LinkKind.REVISION: "_manifests/revisions",
        LinkKind.INDEX: f"_manifests/tags/{tag}/index",
        LinkKind.SIGNATURE: f"_manifests/revisions/{tag}/signatures",
    }[LinkKind(kind)]
    return paths.link(f"{directory}/{links}", unpack(digest))


_BLOBS: Final = f"{paths.BLOBS}/"
_REPOSITORIES: Final = f"{paths.REPOSITORIES}/"


def _etag(digest: Digest) -> str:
    """Return the ETag of an object that holds *digest*, if the store does not encrypt it."""
    return md5(str(digest).encode("ascii"), usedforsecurity=False).hexdigest()

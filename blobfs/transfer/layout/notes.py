"""Notes of changes that are not in the index yet, in a file of lines of JSON.

A line costs the same in a layout of any size, whereas the index is written as a whole. A killed
copy continues from the notes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

from blobfs.digest import OCTET_STREAM, Descriptor, Digest
from blobfs.errors import DigestInvalid, NameInvalid
from blobfs.reference import RepositoryName, Tag


@dataclass(frozen=True, slots=True)
class Note:
    """A new blob, manifest or tag of a repository; a tag without a manifest is removed."""

    repository: str
    descriptor: Descriptor | None
    tag: Tag | None = None
    history: tuple[Digest, ...] = ()

    @property
    def is_blob(self) -> bool:
        """True for a blob."""
        return self.descriptor is not None and self.descriptor.media_type == OCTET_STREAM

    def line(self) -> bytes:
        """Return the note as a line."""
        found = self.descriptor
        described = found and (str(found.digest), found.size, found.media_type)
        items = (self.repository, self.tag, described, [str(each) for each in self.history])
        return json.dumps(items).encode() + b"\n"


def parse_notes(lines: bytes) -> Iterator[Note]:
    """Yield the notes in *lines*; a crash may have damaged some of them."""
    for line in BytesIO(lines):
        try:
            note = _note(json.loads(line))
        except (ValueError, RecursionError, DigestInvalid, NameInvalid):
            continue
        if note is not None:
            yield note


def _note(items: object) -> Note | None:
    """Return the note of *items*; None if they have other types."""
    match items:
        case [str(repository), None | str() as tag, described, [*history]]:
            pass
        case _:
            return None
    digests = tuple(Digest.parse(each) for each in history if isinstance(each, str))
    match described:
        case None:
            descriptor = None
        case [str(digest), int(size), str(media_type)]:
            descriptor = Descriptor(Digest.parse(digest), size, media_type)
        case _:
            return None
    if repository:
        repository = RepositoryName(repository)
    return Note(repository, descriptor, Tag(tag) if tag else None, digests)

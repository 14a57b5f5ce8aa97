"""A copy of everything that a source has, one item after the other, and its content to compare."""

import io
from dataclasses import dataclass, field

from blobfs.digest import Descriptor, Digest
from blobfs.reference import Tag
from blobfs.transfer.base import Source, Target


@dataclass(frozen=True)
class Repository:
    """The tags with their histories, the manifests, and the blobs of a repository."""

    tags: dict[Tag, tuple[Digest, frozenset[Digest]]] = field(default_factory=dict)
    revisions: set[Digest] = field(default_factory=set)
    blobs: set[Digest] = field(default_factory=set)


class Stream:
    """A standard stream of bytes."""

    def __init__(self, content: bytes = b"") -> None:
        self.buffer = io.BytesIO(content)


def content_of(source: Source) -> dict[str, Repository]:
    """The content of a place, after the bytes of all blobs were compared with their digests."""
    return {name: _repository(source, name) for name in source.repositories()}


def _repository(source: Source, name: str) -> Repository:
    found = Repository(
        {
            tag: (source.tagged(name, tag), frozenset(source.history(name, tag)))
            for tag in source.tags(name)
        },
        set(source.revisions(name)),
        set(source.blobs(name)),
    )
    for digest in found.revisions:
        found.blobs.update(blob.digest for blob in source.outline(name, digest).blobs)
    for digest in found.blobs:
        read(source, name, digest)
    return found


def read(source: Source, repository: str, digest: Digest) -> bytes:
    """The bytes of a blob, which have its digest."""
    blob = Descriptor(digest, source.size(repository, digest))
    with source.open(repository, blob) as reader:
        return b"".join(digest.verified(reader.chunks()))


def copy(source: Source, target: Target) -> int:
    """Copy everything, and return the number of blobs whose bytes were sent."""
    sent = 0
    for name, content in content_of(source).items():
        blobs = [Descriptor(each, source.size(name, each)) for each in sorted(content.blobs)]
        for blob in target.missing(name, blobs):
            if not target.link(name, blob, None):
                with source.open(name, blob) as reader:
                    target.put_blob(name, blob, reader.chunks())
                sent += 1
        target.flush()
        for digest in sorted(content.revisions):
            _put_manifest(source, target, name, digest)
        for tag, (digest, history) in content.tags.items():
            target.tag(name, tag, digest, sorted(history))
        target.flush()
    target.finish()
    return sent


def _put_manifest(source: Source, target: Target, name: str, digest: Digest) -> None:
    outline = source.outline(name, digest)
    for child in outline.children:
        _put_manifest(source, target, name, child)
    if not target.has_manifest(name, outline.manifest):
        target.put_manifest(name, digest, source.manifest(name, digest))
        target.flush()

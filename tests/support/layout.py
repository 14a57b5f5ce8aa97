"""Puts a registry's files into any driver, well-formed or not, so that tests read as sentences."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from blobfs import paths
from blobfs.digest import ALGORITHMS, CANONICAL, Digest
from blobfs.drivers.base import StorageDriver
from blobfs.reference import RepositoryName, Tag
from blobfs.storage.blobstore import BlobStore
from blobfs.storage.manifest import INDEXES, OCI_INDEX, OCI_MANIFEST

Json = bool | int | float | str | None | Sequence["Json"] | dict[str, "Json"]

APP = RepositoryName("team/app")
LATEST = Tag("latest")
EMPTY = Digest.of(b"")


def all_blobs(blobs: BlobStore) -> list[Digest]:
    """List every blob, as a mount does, in no order."""
    return [
        digest
        for algorithm in ALGORITHMS
        for shard in blobs.shards(algorithm)
        for digest in blobs.list_unchecked(algorithm, shard)
        if blobs.existing([digest])
    ]


class Layout:
    """A registry's storage as its writers would leave it: blobs, links, tags."""

    def __init__(self, driver: StorageDriver) -> None:
        self.driver = driver

    def blob(self, content: bytes, algorithm: str = CANONICAL) -> Digest:
        """Store a blob that nothing links."""
        digest = Digest.of(content, algorithm)
        self.put(paths.blob_data(digest), content)
        return digest

    def layer(self, content: bytes, repository: RepositoryName = APP) -> Digest:
        """Store a blob and link it as a layer."""
        return self.link(paths.layers(repository), self.blob(content))

    def revision(self, payload: bytes, repository: RepositoryName = APP) -> Digest:
        """Store a manifest and link it as a revision."""
        return self.link(paths.revisions(repository), self.blob(payload))

    def tag(self, digest: Digest, tag: Tag = LATEST, repository: RepositoryName = APP) -> None:
        """Let the tag stand for *digest* from now on."""
        self.link(paths.tag_index(repository, tag), digest)
        self.put(paths.tag_current_link(repository, tag), str(digest).encode())

    def link(self, link_set: str, digest: Digest, content: bytes | None = None) -> Digest:
        """Link *digest* in a link set, by a file that holds *content*, or else its digest."""
        self.put(paths.link(link_set, digest), str(digest).encode() if content is None else content)
        return digest

    def put(self, path: str, content: bytes = b"") -> None:
        """Store a file, which may be a stray one."""
        self.driver.put_content(path, content)


def manifest(media_type: str, *digests: Digest, size: int = 1) -> bytes:
    """A manifest of any media type: a config and its layers, or the children of an index."""
    references = [descriptor(digest, size=size) for digest in digests]
    document: dict[str, Json] = {"schemaVersion": 2, "mediaType": media_type}
    if media_type in INDEXES:
        return as_bytes(document | {"manifests": references})
    return as_bytes(document | {"config": references[0], "layers": references[1:]})


def image(*digests: Digest) -> bytes:
    """An OCI manifest of a config and layers."""
    return manifest(OCI_MANIFEST, *digests)


def index(*digests: Digest) -> bytes:
    """An OCI index of manifests."""
    return manifest(OCI_INDEX, *digests)


def descriptor(
    digest: Digest, *, size: int = 1, media_type: str = "application/x-part"
) -> dict[str, Json]:
    """What a manifest says of a blob."""
    return {"mediaType": media_type, "digest": str(digest), "size": size}


def as_bytes(document: Json) -> bytes:
    """A document as a client would push it."""
    return json.dumps(document).encode()


def plant_layers(storage: Path, count: int) -> list[str]:
    """Store layers of one blob's size; a thousand each are hard links to one file of bytes."""
    layers, blobs = f"{storage}{paths.layers(APP)}/sha256", f"{storage}{paths.BLOBS}/sha256"
    os.makedirs(layers, exist_ok=True)
    for shard in range(256):
        os.makedirs(f"{blobs}/{shard:02x}", exist_ok=True)
    names, data = [], ""
    for number in range(count):
        digest = Digest.of(str(number).encode())
        link, blob = f"{layers}/{digest.encoded}", f"{storage}{paths.blob_data(digest)}"
        os.mkdir(link)
        with open(f"{link}/link", "wb", buffering=0) as file:
            file.write(str(digest).encode())
        os.mkdir(os.path.dirname(blob))
        if number % 1000 == 0:
            data = blob
            Path(data).write_text("bytes")
        else:
            os.link(data, blob)
        names.append(digest.encoded)
    return names

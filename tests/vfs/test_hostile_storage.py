"""Whatever lies in a storage, reading it ends well or with an error that we foresaw."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blobfs import paths
from blobfs.cli import reports
from blobfs.digest import ALGORITHMS, Digest
from blobfs.drivers.base import StorageDriver
from blobfs.drivers.base_driver import BaseDriver
from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.errors import BlobfsError, NotADirectory, NotAFile
from blobfs.reference import Reference, RepositoryName, Tag
from blobfs.storage.manifest import MEDIA_TYPES
from blobfs.storage.registry import Registry
from blobfs.vfs.nodes import BrokenNode, Directory, File, Node, Symlink
from blobfs.vfs.verification import Verify
from tests.support.layout import manifest
from tests.support.walking import content, tree_of, walk

T = TypeVar("T")

NAMES = [RepositoryName(name) for name in ("a", "a/b", "c")]
TAGS = [Tag("latest"), Tag("v1")]
LEAVES = [b"", b"layer", b"other layer"]
PAYLOADS = LEAVES + [
    manifest(media_type, Digest.of(b"layer"), Digest.of(b"other layer"))
    for media_type in sorted(MEDIA_TYPES)
]
DIGESTS = [Digest.of(payload, algorithm) for payload in PAYLOADS for algorithm in ALGORITHMS]
LINK_SETS = [
    *map(paths.layers, NAMES),
    *map(paths.revisions, NAMES),
    *(paths.tag_index(name, tag) for name in NAMES for tag in TAGS),
]
TEXTS = [str(digest).encode() for digest in DIGESTS]

good = st.sampled_from(
    [(paths.blob_data(digest), PAYLOADS[i // len(ALGORITHMS)]) for i, digest in enumerate(DIGESTS)]
    + [
        (paths.link(link_set, digest), str(digest).encode())
        for link_set in LINK_SETS
        for digest in DIGESTS
    ]
)
somewhere = st.one_of(
    good.map(lambda file: file[0]),
    st.sampled_from([paths.tag_current_link(name, tag) for name in NAMES for tag in TAGS]),
    good.map(lambda file: file[0].rpartition("/")[0]),
    good.map(lambda file: f"{file[0]}/below"),
    st.lists(st.sampled_from(["a", "_layers", "sha256", "link", "data", "..."]), min_size=1).map(
        lambda names: f"{paths.REPOSITORIES}/{'/'.join(names)}"
    ),
)
something = st.sampled_from(TEXTS + PAYLOADS) | st.binary(max_size=100)
storages = st.lists(good | st.tuples(somewhere, something), max_size=40)


def laid_out(files: Iterable[tuple[str, bytes]]) -> StorageDriver:
    """A storage of these files, but for those that others are in the way of."""
    driver = BaseDriver(InMemoryDriver())
    for path, stored in files:
        with suppress(NotADirectory, NotAFile):
            driver.put_content(path, stored)
    return driver


def use(node: Node) -> None:
    """Do with a node whatever a mount can."""
    for render in node.xattrs().values():
        with suppress(BlobfsError):
            assert render().isprintable()
    with suppress(BlobfsError):
        if isinstance(node, Symlink):
            assert len(node.target()) == node.attr().size
        if isinstance(node, File):
            assert len(content(node.open(), 7)) == node.attr().size


def at_once(items: Iterable[T], label: str) -> Iterator[T]:
    assert label
    return iter(items)


@settings(deadline=None)
@given(files=storages, verify=st.sampled_from(Verify))
def test_tree_is_walked_to_its_end_and_what_is_listed_is_found_unless_it_is_broken(
    files: list[tuple[str, bytes]], verify: Verify
) -> None:
    root = tree_of(laid_out(files), expose_blobs=True, verify=verify).root()
    for _, child in walk(root):
        use(child.node)
        if isinstance(child.node, Directory):
            find_all(child.node)


def find_all(directory: Directory) -> None:
    for below in directory.children(directory.names()):
        if isinstance(below.node, BrokenNode):
            with pytest.raises(BlobfsError):
                directory.lookup(below.name).attr()
        else:
            assert directory.lookup(below.name).key == below.node.key


@settings(deadline=None)
@given(files=storages)
def test_registry_is_told_of(files: list[tuple[str, bytes]]) -> None:
    registry = Registry(laid_out(files))
    assert reports.repositories(registry, at_once).as_table()
    for name in registry.enumerate():
        assert reports.tags(registry, name).as_json()
        for tag in TAGS:
            with suppress(BlobfsError):
                list(reports.content(registry, Reference(name, tag)))
        for digest in DIGESTS:
            with suppress(BlobfsError):
                pieces = reports.content(registry, Reference(name, digest))
                assert Digest.of_chunks(pieces, digest.algorithm) == digest

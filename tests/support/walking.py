"""Going through a tree by path, as the kernel does: one lookup for each name."""

import posixpath
from collections.abc import Iterator

from blobfs.cache.base import DescriptorCache
from blobfs.drivers.base import FileReader, StorageDriver
from blobfs.storage.registry import Registry
from blobfs.vfs.blobs import BlobFile
from blobfs.vfs.nodes import Child, Directory, Node, Symlink
from blobfs.vfs.tree import Tree
from blobfs.vfs.verification import Verification, Verify


def tree_of(
    driver: StorageDriver,
    *,
    expose_blobs: bool = False,
    allow_delete: bool = False,
    verify: Verify = Verify.NONE,
    cache: DescriptorCache | None = None,
) -> Tree:
    """What a mount of the storage shows."""
    return Tree(
        Registry(driver, cache),
        Verification(verify),
        expose_blobs=expose_blobs,
        allow_delete=allow_delete,
    )


def find(root: Directory, path: str) -> Node:
    """What is at an absolute path; a symlink at its end is not followed."""
    node: Node = root
    for name in path.split("/")[1:]:
        assert isinstance(node, Directory), f"{node.key} is no directory"
        node = node.lookup(name)
    return node


def directory(root: Directory, path: str) -> Directory:
    """The directory at an absolute path."""
    found = find(root, path) if path != "/" else root
    assert isinstance(found, Directory)
    return found


def blob_file(root: Directory, path: str) -> BlobFile:
    """The blob at an absolute path."""
    found = find(root, path)
    assert isinstance(found, BlobFile)
    return found


def symlink(root: Directory, path: str) -> Symlink:
    """The symlink at an absolute path."""
    found = find(root, path)
    assert isinstance(found, Symlink)
    return found


def follow(root: Directory, path: str) -> Node:
    """What the symlink at an absolute path leads to."""
    target = posixpath.join(posixpath.dirname(path), symlink(root, path).target())
    return find(root, posixpath.normpath(target))


def children(root: Directory, path: str = "/") -> dict[str, Child]:
    """What a listing of the directory at *path* shows, by name; no name is there twice."""
    listed = directory(root, path)
    found = listed.children(listed.names())
    by_name = {child.name: child for child in found}
    assert len(by_name) == len(found)
    return by_name


def names(root: Directory, path: str = "/") -> list[str]:
    """The names that a listing of the directory at *path* shows, sorted."""
    return sorted(children(root, path))


def walk(root: Directory, path: str = "/") -> Iterator[tuple[str, Child]]:
    """Everything that listings show below *path*, with its own path."""
    for name, child in children(root, path).items():
        below = posixpath.join(path, name)
        yield below, child
        if isinstance(child.node, Directory):
            yield from walk(root, below)


def content(reader: FileReader, chunk: int = 2**20) -> bytes:
    """All that a reader gives when it is read to its end, which closes it."""
    with reader:
        return b"".join(reader.chunks(chunk))

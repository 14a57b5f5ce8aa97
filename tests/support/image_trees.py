"""Trees of images to compare: by ``RootFilesystem``, and as ``umoci unpack`` makes them."""

import os
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blobfs.drivers.base import BytesReader
from blobfs.images.rootfs import ROOT, Entry, RootFilesystem
from blobfs.images.tar import read_members
from blobfs.images.tree import write_tree
from tests.support.layers import CREATED_NS, LayerImages, MemorySource


@dataclass(frozen=True)
class Node:
    """All of a path that a container sees. *names* are all paths of a file, its hard links."""

    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    device: tuple[int, int]
    target: bytes | None
    content: bytes | None
    xattrs: Mapping[bytes, bytes]
    names: frozenset[bytes] = field(default_factory=frozenset)


Tree = dict[bytes, Node]

NOW = 2**70
"""The time of what umoci makes or changes by itself, such as directories that no layer names."""


def merged(layers: Sequence[bytes], path: Path) -> RootFilesystem:
    """Write the tree of *layers*, archives from the lowest to the highest, and open it."""
    members = (read_members(MemorySource(layer)) for layer in layers)
    write_tree(path, members, CREATED_NS)
    return RootFilesystem(path, lambda number: BytesReader(layers[number]))


def tree_of(rootfs: RootFilesystem) -> Tree:
    """All paths; those with a fault are left out."""
    found: dict[bytes, tuple[int, Node]] = {b"": (ROOT, _node(rootfs, rootfs.entry(ROOT)))}
    pending = [(b"", ROOT)]
    while pending:
        parent, directory = pending.pop()
        for name, entry in rootfs.entries(directory, list(rootfs.names(directory))):
            path = parent + b"/" + name
            if entry.fault:
                continue
            found[path] = (entry.number, _node(rootfs, entry))
            if entry.is_directory:
                pending.append((path, entry.number))
    return _with_names(found)


def _node(rootfs: RootFilesystem, entry: Entry) -> Node:
    content = None
    if stat.S_ISREG(entry.mode):
        with rootfs.open(entry.number) as reader:
            assert reader.size == entry.size
            content = b"".join(reader.chunks())
    target = entry.target if stat.S_ISLNK(entry.mode) else None
    return Node(
        entry.mode, entry.uid, entry.gid, 0 if entry.is_directory else entry.size, entry.mtime_ns,
        entry.device, target, content, rootfs.xattrs(entry.number),
    )  # fmt: skip


def faults_of(rootfs: RootFilesystem) -> dict[bytes, str]:
    """All paths with a fault."""
    found = {}
    pending = [(b"", ROOT)]
    while pending:
        parent, directory = pending.pop()
        for name, entry in rootfs.entries(directory, list(rootfs.names(directory))):
            if entry.fault:
                found[parent + b"/" + name] = entry.fault
            elif entry.is_directory:
                pending.append((parent + b"/" + name, entry.number))
    return found


def unpacked(images: LayerImages, tag: str, bundle: Path) -> tuple[Tree, str]:
    """The tree that umoci makes below *bundle*, without its own times; and why it failed."""
    return unpacked_layout(images.directory, tag, bundle)


def unpacked_layout(layout: Path, tag: str, bundle: Path) -> tuple[Tree, str]:
    """``unpacked`` of an image in the OCI layout at *layout*."""
    started = time.time_ns() - 10**9
    command = ["umoci", "unpack", "--image", f"{layout}:{tag}", str(bundle)]
    ended = subprocess.run(command, capture_output=True, check=False, text=True, errors="replace")
    if ended.returncode:
        return {}, ended.stderr.strip().splitlines()[-1]
    return tree_below(bundle / "rootfs", started), ""


def tree_below(root: Path, started_ns: int) -> Tree:
    """All paths below *root*; times from *started_ns* on become ``NOW``."""
    top = os.fsencode(root)
    found = {}
    for path in _walk(top):
        info = os.lstat(path)
        is_file, is_link = stat.S_ISREG(info.st_mode), stat.S_ISLNK(info.st_mode)
        is_device = stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode)
        node = Node(
            info.st_mode, info.st_uid, info.st_gid,
            info.st_size if is_file or is_link else 0,
            info.st_mtime_ns if info.st_mtime_ns < started_ns else NOW,
            (os.major(info.st_rdev), os.minor(info.st_rdev)) if is_device else (0, 0),
            os.readlink(path) if is_link else None,
            Path(os.fsdecode(path)).read_bytes() if is_file else None,
            _xattrs(path),
        )  # fmt: skip
        found[path.removeprefix(top)] = (info.st_ino, node)
    return _with_names(found)


def _walk(top: bytes) -> Iterator[bytes]:
    yield top
    pending = [top]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                yield entry.path
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)


def _xattrs(path: bytes) -> dict[bytes, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {
        os.fsencode(name): os.getxattr(path, name, follow_symlinks=False)
        for name in names
        if name != "security.selinux"
    }


def _with_names(found: Mapping[bytes, tuple[int, Node]]) -> Tree:
    groups: dict[int, set[bytes]] = {}
    for path, (number, _) in found.items():
        groups.setdefault(number, set()).add(path)
    return {
        path: Node(**{**vars(node), "names": frozenset(groups[number])})
        for path, (number, node) in found.items()
    }


def differences(ours: Tree, theirs: Tree) -> list[str]:
    """All fields that differ; where umoci has a time of its own, and at the root, any is right."""
    found = [f"only ours: {path!r}" for path in ours.keys() - theirs.keys()]
    found += [f"only umoci's: {path!r}" for path in theirs.keys() - ours.keys()]
    for path in ours.keys() & theirs.keys():
        mine, other = vars(ours[path]), vars(theirs[path])
        for key, value in other.items():
            is_own_time = key == "mtime_ns" and (value == NOW or not path)
            if mine[key] != value and not is_own_time:
                found.append(f"{path!r}: {key} is {mine[key]!r}, umoci's {value!r}")
    return sorted(found)

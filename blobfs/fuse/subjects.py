"""What a request of the kernel is about, said for people: in logs, and of what is under way."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from pyfuse3 import FileHandleT

from blobfs.fuse.inodes import InodeTable
from blobfs.vfs.blobs import BlobFile
from blobfs.vfs.nodes import Node
from blobfs.vfs.upload_nodes import UploadFile

_NAMED: Final = (
    ("parent_inode", "name", "path"),
    ("parent_inode_old", "name_old", "path"),
    ("parent_inode_new", "name_new", "target"),
    ("new_parent_inode", "new_name", "path"),
)
"""Arguments of handlers that are a directory, and a name in it; and what both are said to be."""


class RequestDescriber:
    """Says it by the inodes that the kernel holds, and what handles stand for.

    Used on the event loop only, and raises nothing: what is not there is left out.
    """

    def __init__(self, inodes: InodeTable, opened: Callable[[FileHandleT], Node | None]) -> None:
        self._inodes = inodes
        self._opened = opened

    def of(self, arguments: Mapping[str, Any]) -> dict[str, object]:
        """What the handler that was called with *arguments* is asked for."""
        subject: dict[str, object] = {}
        for directory, name, field in _NAMED:
            inode = self._inodes.get(arguments.get(directory, 0))
            if inode is not None:
                parent = inode.node.key.rstrip("/")
                subject[field] = f"{parent}/{os.fsdecode(arguments[name])}"
        subject |= _of_node(self._node(arguments))
        if "off" in arguments:
            subject["offset"] = arguments["off"]
        if "size" in arguments or "buf" in arguments:
            subject["size"] = arguments.get("size") or len(arguments.get("buf", b""))
        repository, marker, _ = str(subject.get("path", "")).partition("/_")
        if marker:
            subject.setdefault("repository", repository[1:])
        return subject

    def _node(self, arguments: Mapping[str, Any]) -> Node | None:
        inode = self._inodes.get(arguments.get("inode", 0))
        if inode is not None:
            return inode.node
        return self._opened(arguments["fh"]) if "fh" in arguments else None


def _of_node(node: Node | None) -> dict[str, object]:
    match node:
        case None:
            return {}
        case BlobFile(repositories=(repository, *_)):
            return {"digest": node.key, "repository": str(repository.name)}
        case BlobFile():
            return {"digest": node.key}
        case UploadFile():
            return {"path": node.upload.path}
    return {"path": node.key}

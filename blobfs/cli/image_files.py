"""The files of an image as ``blobfs ls`` and ``cat`` print them.

Names are hostile: for a terminal all but printable characters are escaped. In JSON a byte that is
not UTF-8 is a lone surrogate, as in Python's file names.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from blobfs.cli.reports import human_size
from blobfs.errors import NotADirectory, NotAFile, NotFound
from blobfs.images.rootfs import Entry, RootFilesystem
from blobfs.logs import printable
from blobfs.timestamps import format_seconds

_BATCH: Final = 1000
"""Files whose lines are aligned with each other, and that are in memory."""

_TYPES: Final = {
    stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character device", stat.S_IFBLK: "block device", stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}  # fmt: skip

_UNKNOWN: Final = "?"


class ListedFile(NamedTuple):
    """A name with its entry."""

    name: bytes
    entry: Entry

    @property
    def text(self) -> str:
        """The name for a terminal."""
        return shown(self.name)

    @property
    def type(self) -> str:
        """The type in words."""
        return _TYPES.get(stat.S_IFMT(self.entry.mode), _UNKNOWN)

    @property
    def is_device(self) -> bool:
        """True for a device, which has a number and no size."""
        return stat.S_ISCHR(self.entry.mode) or stat.S_ISBLK(self.entry.mode)


def shown(name: bytes) -> str:
    """Return a name or path for a terminal."""
    return printable(os.fsdecode(name))


def resolved(files: RootFilesystem, path: bytes) -> Entry:
    """Return the entry at *path*; raises NotFound, NotADirectory, LayerInvalid."""
    try:
        return files.resolve(path)
    except NotFound:
        raise NotFound(f"{shown(path)} is not in the image") from None
    except NotADirectory:
        raise NotADirectory(f"{shown(path)} leads through a file of the image") from None


def content(files: RootFilesystem, path: bytes) -> Iterator[bytes]:
    """Yield the bytes of a file; raises the errors of ``resolved``, NotAFile and Corrupt."""
    entry = resolved(files, path)
    if not stat.S_ISREG(entry.mode):
        raise NotAFile(f"{shown(path)} is no regular file in the image")
    with files.open(entry.number) as reader:
        yield from reader.chunks()


def listed(files: RootFilesystem, path: bytes) -> Iterator[ListedFile]:
    """Yield the files in a directory by name, or the file at *path* itself."""
    entry = resolved(files, path)
    if not entry.is_directory:
        yield ListedFile(path, entry)
        return
    names = files.names(entry.number)
    while batch := list(islice(names, _BATCH)):
        for name, found in files.entries(entry.number, batch):
            yield ListedFile(name, found)


def as_json(file: ListedFile) -> str:
    """Return one JSON object."""
    entry = file.entry
    document: dict[str, object] = {"name": os.fsdecode(file.name), "type": file.type}
    if entry.fault:
        return json.dumps(document | {"fault": entry.fault})
    document |= {
        "mode": f"{stat.S_IMODE(entry.mode):04o}",
        "links": entry.links,
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "mtime": format_seconds(entry.mtime_ns // 10**9),
        "mtime_ns": entry.mtime_ns,
    }
    if file.is_device:
        document["device"] = entry.device
    if entry.target:
        document["target"] = os.fsdecode(entry.target)
    return json.dumps(document)


def long_lines(found: Iterator[ListedFile], *, human: bool) -> Iterator[str]:
    """Yield lines as ``ls -ln`` prints them; *human* shortens sizes."""
    widths = [0] * 4
    while batch := list(islice(found, _BATCH)):
        rows = [_numbers(each, human=human) for each in batch]
        widths = [
            max(width, *map(len, column))
            for width, column in zip(widths, zip(*rows, strict=True), strict=True)
        ]
        for each, row in zip(batch, rows, strict=True):
            numbers = " ".join(map(str.rjust, row, widths))
            arrow = f" -> {shown(each.entry.target)}" if each.entry.target else ""
            yield f"{_mode(each.entry)} {numbers} {_time(each.entry)} {each.text}{arrow}"


def _numbers(file: ListedFile, *, human: bool) -> tuple[str, str, str, str]:
    entry = file.entry
    if entry.fault:
        return _UNKNOWN, _UNKNOWN, _UNKNOWN, _UNKNOWN
    if file.is_device:
        size = ", ".join(map(str, entry.device))
    else:
        size = human_size(entry.size) if human else str(entry.size)
    return str(entry.links), str(entry.uid), str(entry.gid), size


def _mode(entry: Entry) -> str:
    text = stat.filemode(entry.mode)
    return text[0] + _UNKNOWN * (len(text) - 1) if entry.fault else text


def _time(entry: Entry) -> str:
    moment = time.localtime(entry.mtime_ns // 10**9)
    return f"{_UNKNOWN:>16}" if entry.fault else time.strftime("%Y-%m-%d %H:%M", moment)

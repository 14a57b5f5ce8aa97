"""Members of a layer: what an archive says of one name."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an archive.

    *path* is as the archive has it, without NUL, and hostile. *mode* is that of stat(2), with the
    type; a hard link is a regular file with *is_hard_link* and the path *link*. *link* is the
    target of a symlink, too. *size* is that of the content in bytes, 0 for all but files.

    The content is at *offset* of the uncompressed archive. *extents* are the ranges (start, length)
    of a sparse file that are stored there, one after the other; all else are zeros. None is a file
    without holes. *device* is major and minor number. *fault* says why the member cannot be shown;
    it is empty for all others.
    """

    path: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    offset: int = 0
    link: bytes = b""
    is_hard_link: bool = False
    device: tuple[int, int] = (0, 0)
    extents: tuple[tuple[int, int], ...] | None = None
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)
    fault: str = ""

    @property
    def is_directory(self) -> bool:
        """True for a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def stored_size(self) -> int:
        """The bytes that the member takes in an index, about."""
        size = 64 + len(self.path) + len(self.link) + 24 * len(self.extents or ())
        return size + sum(len(name) + len(value) for name, value in self.xattrs.items())

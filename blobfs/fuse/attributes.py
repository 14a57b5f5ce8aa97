"""Replies to the kernel about a node: the fields of stat(2), and their timeouts."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import Final

from pyfuse3 import EntryAttributes, InodeT, ModeT

from blobfs.vfs.nodes import Attr, Kind, Lifetime, Stored

_MODE: Final = {
    Kind.DIRECTORY: stat.S_IFDIR | 0o755,
    Kind.FILE: stat.S_IFREG | 0o444,
    Kind.SYMLINK: stat.S_IFLNK | 0o777,
    Kind.SPECIAL: stat.S_IFREG,  # not used: its attributes are stored
}

_FOR_EVER_S: Final = 1e9

_BLOCK_SIZE: Final = 128 * 1024
"""The preferred size of reads (``st_blksize``), in bytes: the size of one request."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The lifetimes of entries in the kernel's caches, in seconds.

    *entry_s* is for names that contain a digest, *attr_s* for the attributes of their targets.
    *name_s* is for tags, directories and listings, *negative_s* for missing names.
    """

    entry_s: float = 3600.0
    attr_s: float = 86400.0
    name_s: float = 1.0
    negative_s: float = 1.0


@dataclass(frozen=True, slots=True)
class AttributeMapper:
    """Maps the attributes of nodes to replies: adds the owner, the umask and the timeouts."""

    uid: int = field(default_factory=os.getuid)
    gid: int = field(default_factory=os.getgid)
    umask: int = 0
    timeouts: Timeouts = Timeouts()

    def entry(self, inode: InodeT, attr: Attr) -> EntryAttributes:
        """Return the reply for *inode*."""
        entry = EntryAttributes()
        entry.st_ino = inode
        entry.entry_timeout, entry.attr_timeout = self._timeouts(attr.lifetime)
        mode = _MODE[attr.kind] | (stat.S_IWUSR if attr.writable else 0)
        if attr.kind is not Kind.SYMLINK:
            mode &= ~self.umask
        entry.st_mode = ModeT(mode)
        entry.st_nlink = attr.nlink
        entry.st_uid = self.uid
        entry.st_gid = self.gid
        entry.st_size = attr.size
        entry.st_blksize = _BLOCK_SIZE
        entry.st_blocks = (attr.size + 511) // 512
        if attr.stored is not None:
            self._apply(attr.stored, entry)
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = attr.mtime_ns
        return entry

    def _apply(self, stored: Stored, entry: EntryAttributes) -> None:
        """Replace the attributes of the mount; the modes of an image have no umask."""
        entry.st_mode = ModeT(stored.mode)
        entry.st_rdev = os.makedev(*stored.device)
        if stored.owner is not None:
            entry.st_uid, entry.st_gid = stored.owner

    def missing(self, *, may_appear: bool) -> EntryAttributes:
        """Return the reply for a missing name; the kernel does not cache it if it *may_appear*."""
        entry = EntryAttributes()
        entry.st_ino = InodeT(0)
        entry.entry_timeout = 0.0 if may_appear else self.timeouts.negative_s
        return entry

    def _timeouts(self, lifetime: Lifetime) -> tuple[float, float]:
        match lifetime:
            case Lifetime.CONTENT:
                return self.timeouts.entry_s, self.timeouts.attr_s
            case Lifetime.NAME:
                return self.timeouts.name_s, self.timeouts.name_s
            case Lifetime.MOMENT:
                return 0.0, 0.0
            case Lifetime.MOUNT:
                return _FOR_EVER_S, _FOR_EVER_S

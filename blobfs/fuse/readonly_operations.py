"""The handlers of FUSE requests that only read."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar, TypeVarTuple, cast

import pyfuse3
import trio
from pyfuse3 import (
    ROOT_INODE,
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    InodeT,
    ReaddirToken,
    RequestContext,
    StatvfsData,
    XAttrNameT,
)

from blobfs import metrics
from blobfs.concurrency import TakesLong, waiting
from blobfs.drivers.base import FileReader
from blobfs.drivers.capacity import UNBOUNDED, Capacity
from blobfs.errors import (
    AttributeUnknown,
    BlobfsError,
    CallerKilled,
    DigestMismatch,
    NameTooLong,
    NotFound,
    ReadOnly,
    Unsupported,
)
from blobfs.fuse.attributes import AttributeMapper
from blobfs.fuse.errnos import logs_errors, replies_errno
from blobfs.fuse.handles import HandleBudget, HandleTable
from blobfs.fuse.inodes import Inode, InodeTable
from blobfs.fuse.notifier import Notifier
from blobfs.fuse.open_file_scanner import UNKNOWN_OPENER, Opener, is_being_killed
from blobfs.fuse.readdir import Batches, Listing, listing_of
from blobfs.fuse.requests import RequestDescriber, Requests
from blobfs.fuse.threads import StorageThreads
from blobfs.fuse.upload_dispatcher import UploadDispatcher
from blobfs.vfs.nodes import Child, Directory, File, Node, Symlink
from blobfs.vfs.tree import Tree
from blobfs.vfs.upload import STATES
from blobfs.vfs.upload_handle import OpenUpload

log = logging.getLogger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MAX_NAME: Final = 255
"""The longest name, in bytes."""

_PREPARATION_S: Final = 1800.0
"""Time for the preparation of a directory, such as the index of an image of many gigabytes."""

_LOOK_S: Final = 0.5
"""Interval at which a preparation looks whether the program that waits for it is killed."""

_ROOT_WAIT_S: Final = 0.01
"""Time that a reply waits for new attributes of the root."""


@dataclass(frozen=True, slots=True)
class OpenFile:
    """An open file; *writing* and *opener* are set if it is open for writing."""

    file: File
    reader: FileReader
    writing: OpenUpload | None = None
    opener: Opener = UNKNOWN_OPENER


class _RootAttributes:
    """The last known attributes of the root.

    A thread asks the storage for new ones. It stores them even if no request waits any more.
    """

    def __init__(self, root: Inode) -> None:
        self._node = root.node
        self.attr = root.attr
        self.is_asked = False

    def ask(self) -> None:
        """Ask the storage, and store its reply; raises the errors of the storage."""
        self.is_asked = True
        try:
            self.attr = self._node.attr()
        finally:
            self.is_asked = False


class ReadOnlyOperations(pyfuse3.Operations):
    """The handlers of a read-only mount. Each request is a task; all run on the event loop.

    It owns the tables of inodes and handles, the notifier and the list of requests.
    """

    supports_dot_lookup = False  # only NFS re-export asks for "." and ".."

    def __init__(
        self,
        tree: Tree,
        threads: StorageThreads,
        mapper: AttributeMapper,
        dispatcher: UploadDispatcher | None = None,
        budget: HandleBudget | None = None,
    ) -> None:
        super().__init__()
        self._dispatcher = dispatcher or UploadDispatcher(threads)
        self._budget = budget or HandleBudget()
        self._tree = tree
        self._threads = threads
        self._mapper = mapper
        self._inodes = InodeTable(tree.root(), mapper)
        self._listings: HandleTable[Listing] = HandleTable()
        self._batches = Batches()
        self._root = _RootAttributes(self._inodes[ROOT_INODE])
        self._files: HandleTable[OpenFile] = HandleTable()
        self._notifier = Notifier()
        self.requests = Requests(RequestDescriber(self._inodes, self._opened).of, self._user_of)
        metrics.INODES.set_function(lambda: len(self._inodes))
        metrics.OPEN_HANDLES.labels("directory").set_function(lambda: len(self._listings))
        metrics.OPEN_HANDLES.labels("file").set_function(lambda: len(self._files))
        for state in STATES:
            metrics.UPLOADS.labels(state).set_function(partial(tree.uploads.count, state))

    def _opened(self, fh: FileHandleT) -> Node | None:
        if (opened := self._files.get(fh)) is not None:
            return opened.file
        listing = self._listings.get(fh)
        return None if listing is None else listing.inode.node

    def _user_of(self, fh: object) -> int:
        """Return the user who has opened a handle; the kernel may read ahead for that user."""
        handle = cast(FileHandleT, fh)
        return self._files.user(handle) or self._listings.user(handle) or 0

    def counts(self) -> dict[str, object]:
        """Return the numbers of requests, inodes and handles; waiting requests are by user."""
        return {
            "in_flight": len(self.requests),
            "waiting": self._threads.admission.counts(),
            "inodes": len(self._inodes),
            "open_directories": len(self._listings),
            "open_files": len(self._files),
        }

    def interrupt_uploads(self) -> None:
        """Stop running commits before the end of the mount."""
        self._tree.uploads.interrupt()

    def suspend_uploads(self, within_s: float) -> None:
        """Make the received bytes of uploads durable before the end of the mount.

        It waits for calls in progress for little longer than *within_s*.
        """
        self._tree.uploads.suspend(within_s)

    @replies_errno
    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        text = text_of(name)
        directory = self._inodes.node(parent_inode, Directory)
        if (known := directory.known(text)) is not None:
            child: Child | None = Child.of(text, known)
        else:
            child = await self._look_up(directory, text, ctx.pid)
        if child is None:
            return self._mapper.missing(may_appear=directory.gains_names)
        return self._inodes.remember(self._inodes[parent_inode], child).entry

    async def _look_up(self, directory: Directory, name: str, thread: int) -> Child | None:
        await self._dispatcher.wait_for_commits(directory.key)
        await self._prepare(directory, thread)
        return await self._ask(directory, _look_up, directory, name)

    async def _prepare(self, directory: Directory, thread: int) -> None:
        """Wait until *directory* is ready, or *thread* of a program is killed.

        The kernel keeps a killed program until the reply. The preparation goes on.
        """
        if directory.is_ready:
            return
        failures: list[BlobfsError] = []

        async def prepare() -> None:
            key = (directory.key, "prepare")
            try:
                await self._threads.run_shared(key, directory.prepare, deadline_s=_PREPARATION_S)
            except BlobfsError as exc:
                failures.append(exc)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(prepare)
            await _wait_for_kill(thread)
            failures.append(CallerKilled(f"the program that waits for {directory.key} is killed"))
            nursery.cancel_scope.cancel()
        if failures:
            raise failures[0]

    async def _ask(self, node: Node, call: Callable[[*Ts], T], *args: *Ts) -> T:
        """Return ``call(*args)``, which is a method of *node* or of a reader of it."""
        if isinstance(node, Directory) and node.takes_long:
            return await self._threads.run_in_thread(call, *args)
        if node.asks_storage:
            return await self._threads.run(call, *args)
        try:
            with waiting:
                return call(*args)
        except TakesLong:
            return await self._threads.run_in_thread(call, *args)

    @logs_errors
    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for inode, lookups in inode_list:
            self._inodes.forget(inode, lookups)

    @replies_errno
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        held = self._inodes.get(inode) or await self._inodes.held(inode, self._threads.run)
        if inode == ROOT_INODE:
            return await self._root_attributes(held)
        return self._inodes.refresh(held, await self._ask(held.node, held.node.attr))

    async def _root_attributes(self, held: Inode) -> EntryAttributes:
        """Return the last known attributes if the storage is slow: every path needs the root."""
        with trio.move_on_after(0.0 if self._root.is_asked else _ROOT_WAIT_S):
            try:
                await self._threads.run(self._root.ask)
            except BlobfsError as exc:
                log.debug("the last known attributes of the root are used: %r", exc)
        return self._inodes.refresh(held, self._root.attr)

    @replies_errno
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        symlink = self._inodes.node(inode, Symlink)
        return FileNameT(os.fsencode(await self._ask(symlink, symlink.target)))

    @replies_errno
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        with self._budget.claim(ctx.uid) as claim:
            return self._listings.add(await self._listing(inode, ctx.pid), claim)

    @replies_errno
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        listing = self._listings[fh]
        if start_id == 0 and listing.replied:  # rewinddir(3)
            self._inodes[listing.inode.number].names_until = 0.0
            listing.release()
            listing = await self._listing(listing.inode.number, 0)
            self._listings.replace(fh, listing)
        await listing.reply(token, start_id, self._inodes, self._threads)

    async def _listing(self, inode: InodeT, thread: int) -> Listing:
        directory = self._inodes.node(inode, Directory)
        await self._dispatcher.wait_for_commits(directory.key)
        await self._prepare(directory, thread)
        return await listing_of(self._inodes[inode], self._inodes, self._threads, self._batches)

    @replies_errno
    async def releasedir(self, fh: FileHandleT) -> None:
        self._listings.pop(fh).release()

    @replies_errno
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        file = self._inodes.node(inode, File)
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            return await self._open_to_write(file, flags, ctx)
        with self._budget.claim(ctx.uid, file.key, descriptors=int(file.asks_storage)) as claim:
            fh = self._files.add(OpenFile(file, await self._open(file)), claim)
        # The content of other files is made at each opening, and must not be cached.
        return FileInfo(fh=fh, keep_cache=file.never_changes, direct_io=not file.never_changes)

    async def _open(self, file: File) -> FileReader:
        if file.shares_openings and file.takes_long:
            return await self._threads.run_shared(file.key, file.open)
        return await self._read(file, file.open)

    async def _open_to_write(self, file: File, flags: FlagT, ctx: RequestContext) -> FileInfo:
        raise ReadOnly(f"{file.key} is immutable")

    @replies_errno
    async def read(  # type: ignore[override]  # pyfuse3 takes any buffer
        self, fh: FileHandleT, off: int, size: int
    ) -> bytes | memoryview:
        data = await self._content(self._files[fh], off, size)
        metrics.READ_BYTES.inc(len(data))
        return data

    async def _content(self, opened: OpenFile, offset: int, size: int) -> bytes | memoryview:
        if (data := opened.reader.read_nowait(offset, size)) is not None:
            return data
        try:
            return await self._read(opened.file, opened.reader.read_at, offset, size)
        except DigestMismatch:
            self._discard_content(opened.file)
            raise

    def _discard_content(self, file: File) -> None:
        """Discard cached content of *file*, so that it is fetched again: a cache may be damaged."""
        inode = self._inodes.find_file(file.key)
        if not self._threads.inline and inode is not None:
            self._notifier.invalidate(inode.number, file.invalidate)

    async def _read(self, file: File, call: Callable[[*Ts], T], *args: *Ts) -> T:
        """Return ``call(*args)``, which opens or reads *file*."""
        if file.takes_long:
            return await self._threads.run_in_thread(call, *args)
        return await self._ask(file, call, *args)

    @replies_errno
    async def release(self, fh: FileHandleT) -> None:
        await self._threads.run(self._files.pop(fh).reader.close)

    @replies_errno
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        return _statvfs(await self._threads.run(self._tree.registry.capacity))

    @replies_errno
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        node = (await self._inodes.held(inode, self._threads.run)).node
        if node.has_stored_xattrs:
            stored = await self._ask(node, node.stored_xattrs)
            if name in stored:
                return stored[name]
        if not name.startswith(b"user."):
            # With this error ls(1) does not ask again for each file.
            raise Unsupported(f"only user.* attributes exist, not {os.fsdecode(name)}")
        if (measured := node.measured_xattrs().get(os.fsdecode(name))) is not None:
            await self._threads.run_shared(measured.key, measured.measure)
            return os.fsencode(measured.value())
        value = await self._threads.run_in_thread(_xattr, node, os.fsdecode(name))
        return os.fsencode(value)

    @replies_errno
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        node = (await self._inodes.held(inode, self._threads.run)).node
        if node.has_stored_xattrs:
            return [XAttrNameT(name) for name in await self._ask(node, node.stored_xattrs)]
        return [XAttrNameT(name.encode()) for name in await self._ask(node, node.xattrs)]


async def _wait_for_kill(thread: int) -> None:
    while True:
        await trio.sleep(_LOOK_S)
        if is_being_killed(thread):
            return


def text_of(name: FileNameT) -> str:
    """Decode a name of the kernel; raises NameTooLong."""
    if len(name) > MAX_NAME:
        raise NameTooLong(f"longer than {MAX_NAME} bytes: {name[:80]!r}…")
    return os.fsdecode(name)


def _xattr(node: Node, name: str) -> str:
    """Return the value of an extended attribute; this may read all manifests."""
    render = node.xattrs().get(name)
    if render is None:
        raise AttributeUnknown(f"no attribute {name}")
    return render()


def _look_up(parent: Directory, name: str) -> Child | None:
    """Return the child *name* with its attributes, in one call; None if it does not exist."""
    try:
        node = parent.lookup(name)
        return Child.of(name, node)
    except NotFound:
        return None


def _statvfs(capacity: Capacity | None) -> StatvfsData:
    block = 4096  # df(1) uses f_bsize as f_frsize
    capacity = capacity or UNBOUNDED
    data = StatvfsData()
    data.f_bsize = data.f_frsize = block
    data.f_blocks = capacity.size // block
    data.f_bfree = capacity.free // block
    data.f_bavail = capacity.available // block
    data.f_files = capacity.files
    data.f_ffree = data.f_favail = capacity.files_free
    data.f_namemax = MAX_NAME
    return data

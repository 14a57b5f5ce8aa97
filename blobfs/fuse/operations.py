"""The handlers of requests that change the tree."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar, TypeVarTuple

import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    InodeT,
    ModeT,
    RequestContext,
    SetattrFields,
    XAttrNameT,
)

from blobfs import metrics
from blobfs.errors import Busy, Exists, Invalid, NotPermitted, ReadOnly, Stale, Unsupported
from blobfs.fuse.errnos import replies_errno
from blobfs.fuse.inodes import Inode
from blobfs.fuse.making_calls import call_making
from blobfs.fuse.open_file_scanner import Opener
from blobfs.fuse.readonly_operations import OpenFile, ReadOnlyOperations, text_of
from blobfs.vfs.blobs import BlobFile
from blobfs.vfs.nodes import Child, Directory, File, Kind, MutableDirectory, Node, Symlink
from blobfs.vfs.upload import Upload
from blobfs.vfs.upload_handle import OpenUpload
from blobfs.vfs.upload_nodes import remove_xattr, set_xattr, upload_of

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_WRITER_DESCRIPTORS: Final = 2
"""Descriptors of an open upload: its file, and the directory of the file."""


class Operations(ReadOnlyOperations):
    """The handlers of a writable mount. Used on the event loop only, as the base class."""

    async def _look_up(self, directory: Directory, name: str, thread: int) -> Child | None:
        if isinstance(directory, MutableDirectory):
            kind = directory.asked_for(name)
            if kind is not None and await self._is_being_made(name, kind, thread):
                return None  # the kernel asks to make it then, which succeeds
        return await super()._look_up(directory, name, thread)

    async def _is_being_made(self, name: str, kind: Kind, thread: int) -> bool:
        call = call_making(kind, thread)
        return call is not None and await self._threads.run_in_thread(call.is_of, name)

    @replies_errno
    async def create(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> tuple[FileInfo, EntryAttributes]:
        directory, text = self._inodes.node(parent_inode, MutableDirectory), text_of(name)
        self._budget.check(ctx.uid, _WRITER_DESCRIPTORS)
        await self._dispatcher.wait_for_commits(directory.key)
        try:
            node = await self._ask(directory, directory.create, text)
        except Exists:  # it did not exist at the kernel's lookup
            if flags & os.O_EXCL:
                raise
            parent = self._inodes.node(parent_inode, Directory)
            node = await self._ask(directory, parent.lookup, text)
        if not isinstance(node, File):
            raise ReadOnly(f"{node.key} is immutable")
        info = await self._open_to_write(node, flags, ctx)
        self._inodes.changed()
        child = Child.of(text, node)
        return info, self._inodes.remember(self._inodes[parent_inode], child).entry

    async def _open_to_write(self, file: File, flags: FlagT, ctx: RequestContext) -> FileInfo:
        upload = upload_of(file)
        if upload is None:
            raise ReadOnly(f"{file.key} is immutable")
        await self._dispatcher.wait_for_commits(upload.directory)
        if flags & os.O_TRUNC and upload.is_receipt:
            _replace_receipt(upload)
        with self._budget.claim(ctx.uid, file.key, _WRITER_DESCRIPTORS) as claim:
            writing = await self._dispatcher.open(upload, truncate=bool(flags & os.O_TRUNC))
            opened = OpenFile(file, file.open(), writing, Opener.of_thread(ctx.pid))
            fh = self._files.add(opened, claim)
        return FileInfo(fh=fh, keep_cache=False, direct_io=True)

    @replies_errno
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        await self._dispatcher.write(self._writing(fh), off, buf)
        metrics.WRITTEN_BYTES.inc(len(buf))
        return len(buf)

    def _writing(self, fh: FileHandleT) -> OpenUpload:
        writing = self._files[fh].writing
        if writing is None:
            raise ReadOnly("the file is not open for writing")
        return writing

    @replies_errno
    async def flush(self, fh: FileHandleT) -> None:
        opened = self._files[fh]
        if opened.writing is not None and not opened.writing.is_clean:
            inode = self._inodes.find_file(opened.file.key)
            number = 0 if inode is None else inode.number
            await self._dispatcher.flush(opened.writing, opened.opener, number)
            self._invalidate_after_commit(opened.writing.upload)

    @replies_errno
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        opened = self._files[fh]
        if opened.writing is not None:
            await self._dispatcher.sync(opened.writing)
            self._invalidate_after_commit(opened.writing.upload)

    @replies_errno
    async def release(self, fh: FileHandleT) -> None:
        opened = self._files.pop(fh)
        if opened.writing is None:
            await self._threads.run(opened.reader.close)
        else:  # its reader holds no resources
            await self._dispatcher.release(opened.writing)
            self._invalidate_after_commit(opened.writing.upload)

    def _invalidate_after_commit(self, upload: Upload) -> None:
        """Invalidate the kernel's caches after a commit."""
        self._inodes.changed()
        if upload.receipt is None:
            return
        descriptor = upload.receipt.descriptor
        held = self._inodes.find_file(str(descriptor.digest))
        if held is None or not isinstance(held.node, BlobFile):
            return
        if held.attr.size != descriptor.size:  # the blob had another size before
            held.node = replace(held.node, descriptor=descriptor)
            self._notifier.invalidate(held.number)

    @replies_errno
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        held = self._inodes[inode]
        if (upload := upload_of(held.node)) is not None:
            await self._set_upload_attributes(upload, attr, fields, fh)
        elif isinstance(held.node, BlobFile) and not held.node.is_read_only:
            await self._set_blob_attributes(held, attr, fields)
        elif _is_immutable(held.node) or fields.update_size:
            raise ReadOnly(f"{held.node.key} is immutable")
        # Changes of owners, modes and times of directories and tags succeed without effect, because
        # cp -a and rsync -a set them on all they copy.
        return self._inodes.refresh(held, await self._ask(held.node, held.node.attr))

    async def _set_upload_attributes(
        self, upload: Upload, attr: EntryAttributes, fields: SetattrFields, fh: FileHandleT | None
    ) -> None:
        if fields.update_size:
            if fh is not None:
                writing = self._writing(fh)
                await self._dispatcher.run_write(writing, writing.truncate, attr.st_size)
            else:
                await self._dispatcher.wait_for_commits(upload.directory)
                await self._dispatcher.truncate(upload, attr.st_size)
                self._invalidate_after_commit(upload)
        if fields.update_mtime:
            if upload.is_copy and upload.receipt is not None:
                await self._threads.run_write(upload.set_mtime, attr.st_mtime_ns)
            else:
                upload.set_mtime(attr.st_mtime_ns)

    async def _set_blob_attributes(
        self, held: Inode, attr: EntryAttributes, fields: SetattrFields
    ) -> None:
        """Set the time, as copying programs do; a mode and an owner that it has are accepted."""
        now = held.entry
        is_changed = (
            fields.update_size
            or (fields.update_mode and attr.st_mode & 0o7777 != now.st_mode & 0o7777)
            or (fields.update_uid and attr.st_uid != now.st_uid)
            or (fields.update_gid and attr.st_gid != now.st_gid)
        )
        if is_changed or not isinstance(held.node, BlobFile):
            raise ReadOnly(f"{held.node.key} is immutable")
        if fields.update_mtime:
            held.node = await self._threads.run_write(held.node.set_mtime, attr.st_mtime_ns)

    @replies_errno
    async def setxattr(
        self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext
    ) -> None:
        if not name.startswith(b"user."):
            raise Unsupported(f"only user.* attributes exist, not {os.fsdecode(name)}")
        node = self._inodes[inode].node
        is_blob = isinstance(node, BlobFile) and upload_of(node) is None
        if is_blob and name.startswith(b"user.blobfs."):
            return  # a program copies the attributes of a mount
        upload = self._upload(inode)
        await self._dispatcher.wait_for_commits(upload.directory)
        await self._dispatcher.finish(upload, set_xattr, upload, os.fsdecode(name), value)
        self._invalidate_after_commit(upload)

    @replies_errno
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        if not name.startswith(b"user."):
            raise Unsupported(f"only user.* attributes exist, not {os.fsdecode(name)}")
        remove_xattr(self._upload(inode), os.fsdecode(name))

    def _upload(self, inode: InodeT) -> Upload:
        node = self._inodes[inode].node
        if (upload := upload_of(node)) is None:
            raise ReadOnly(f"{node.key} is immutable")
        return upload

    @replies_errno
    async def mknod(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        rdev: int,
        ctx: RequestContext,
    ) -> EntryAttributes:
        if not stat.S_ISREG(mode):
            raise NotPermitted(f"{os.fsdecode(name)}: a mount has no devices, sockets or pipes")
        directory = self._inodes.node(parent_inode, MutableDirectory)
        await self._dispatcher.wait_for_commits(directory.key)
        return await self._make(parent_inode, name, directory.create)

    @replies_errno
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        directory = self._inodes.node(parent_inode, MutableDirectory)
        return await self._make(parent_inode, name, directory.mkdir)

    @replies_errno
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        directory = self._inodes.node(parent_inode, MutableDirectory)
        entry = await self._make(parent_inode, name, directory.symlink, os.fsdecode(target))
        # ln -sfn renames it at once, and the kernel would use the cached entry under the new name.
        entry.entry_timeout = entry.attr_timeout = 0.0
        return entry

    @replies_errno
    async def link(
        self,
        inode: InodeT,
        new_parent_inode: InodeT,
        new_name: FileNameT,
        ctx: RequestContext,
    ) -> EntryAttributes:
        directory = self._inodes.node(new_parent_inode, MutableDirectory)
        return await self._make(
            new_parent_inode, new_name, directory.link, self._inodes[inode].node
        )

    async def _make(
        self, parent: InodeT, name: FileNameT, make: Callable[[str, *Ts], Node], *args: *Ts
    ) -> EntryAttributes:
        """Return the reply for the child that ``make(name, *args)`` returns."""
        text = text_of(name)
        child = await self._threads.run_write(_make_child, make, text, *args)
        self._inodes.drop_child(self._inodes[parent], text)
        return self._inodes.remember(self._inodes[parent], child).entry

    @replies_errno
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        directory = self._inodes.node(parent_inode, MutableDirectory)
        await self._remove(parent_inode, name, directory.unlink)

    @replies_errno
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        directory = self._inodes.node(parent_inode, MutableDirectory)
        await self._remove(parent_inode, name, directory.rmdir)

    async def _remove(self, parent: InodeT, name: FileNameT, remove: Callable[[str], None]) -> None:
        text = text_of(name)
        await self._dispatcher.wait_for_commits(self._inodes[parent].node.key)
        await self._threads.run_write(remove, text)
        self._inodes.drop_child(self._inodes[parent], text)

    @replies_errno
    async def rename(  # noqa: PLR0913, PLR0917  (pyfuse3's)
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        if flags & ~pyfuse3.RENAME_NOREPLACE:
            raise Invalid("RENAME_NOREPLACE is the only supported flag")
        source = self._inodes.node(parent_inode_old, MutableDirectory)
        target = self._inodes.node(parent_inode_new, Directory)
        await self._dispatcher.wait_for_commits(source.key)
        rename = partial(source.rename, replace=not flags)
        await self._threads.run_write(rename, text_of(name_old), target, text_of(name_new))
        for parent, name in ((parent_inode_old, name_old), (parent_inode_new, name_new)):
            self._inodes.drop_child(self._inodes[parent], os.fsdecode(name))


def _is_immutable(node: Node) -> bool:
    return node.is_read_only or not isinstance(node, Directory | Symlink)


def _replace_receipt(receipt: Upload) -> None:
    """Make the kernel look the name up again: the lookup returns a new upload with its own inode.

    The kernel repeats the request with the same inode only if the name is another name of the blob
    than the receipt's. Raises Stale, Busy, ReadOnly.
    """
    if receipt.is_open:
        raise Busy(f"{receipt.path} is being written already")
    receipt.is_to_be_replaced = not receipt.is_to_be_replaced
    if receipt.is_to_be_replaced:
        raise Stale(f"{receipt.path} is replaced by a new upload")
    raise ReadOnly("a blob is immutable")


def _make_child(make: Callable[[str, *Ts], Node], name: str, *args: *Ts) -> Child:
    return Child.of(name, make(name, *args))

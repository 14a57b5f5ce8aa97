"""The calls of handlers to open uploads: on the event loop or in threads, and their order."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVarTuple

import trio

from blobfs.errors import StorageTimeout
from blobfs.fuse.open_file_scanner import Opener, OpenFileScanner
from blobfs.fuse.threads import SlowPeriod, StorageThreads
from blobfs.vfs.upload import Upload
from blobfs.vfs.upload_handle import OpenUpload

Ts = TypeVarTuple("Ts")

_SLOW_WRITE_S: Final = 0.01
"""A write that blocks the event loop for longer sends the next writes to threads."""

_ORDINARY_COMMIT_S: Final = 5.0
"""Time after a last close in which lookups in the repository wait for its commit."""


@dataclass(frozen=True, slots=True)
class _Ending:
    """An upload after its last close, which may be about to be committed."""

    repository: str  # its path in the tree, with a slash at the end
    over: trio.Event
    waited_for_until: float  # trio.current_time()


class _Opening:
    """An opening of an upload in a thread; its caller may stop waiting."""

    def __init__(self, opening: Callable[[], OpenUpload]) -> None:
        self.is_wanted = True
        self._opening = opening

    def run(self) -> OpenUpload:
        opened = self._opening()
        if not self.is_wanted:
            opened.release()
        return opened


class UploadDispatcher:
    """Calls open uploads for the handlers. Used on the event loop only, so it takes no lock."""

    def __init__(
        self,
        threads: StorageThreads,
        *,
        deadline_s: float = 300.0,
        max_undeclared: int | None = None,
    ) -> None:
        """*deadline_s* bounds the time of a close; *max_undeclared* is as for ``OpenUpload``."""
        self._threads = threads
        self._deadline_s = deadline_s
        self._max_undeclared = max_undeclared
        self._scanner = OpenFileScanner()
        self._endings: set[_Ending] = set()
        self._slow = SlowPeriod()

    async def open(self, upload: Upload, *, truncate: bool) -> OpenUpload:
        """Open *upload* for writing."""
        bound = self._max_undeclared
        opened = OpenUpload.open_nowait(upload, truncate=truncate, max_undeclared=bound)
        if opened is not None:
            return opened
        opening = _Opening(partial(OpenUpload, upload, truncate=truncate, max_undeclared=bound))
        try:
            return await self._threads.run_write(opening.run, deadline_s=self._deadline_s)
        except StorageTimeout:
            opening.is_wanted = False
            raise

    async def write(self, opened: OpenUpload, offset: int, data: bytes) -> None:
        """Call ``OpenUpload.write``; on the event loop if that takes microseconds."""
        began = time.monotonic()
        if self._slow.includes(began) or not opened.write_nowait(offset, data):
            await self.run_write(opened, opened.write, offset, data)
            return
        if time.monotonic() - began > _SLOW_WRITE_S:  # the kernel throttles writers to the disk
            self._slow.begin()

    async def run_write(self, opened: OpenUpload, call: Callable[[*Ts], None], *args: *Ts) -> None:
        """Run ``call(*args)`` in a thread; after a timeout the close of the upload fails too."""
        try:
            await self._threads.run_write(call, *args)
        except StorageTimeout as exc:
            opened.fail(exc)
            opened.upload.interrupt("a write took longer than its deadline")
            raise

    async def truncate(self, upload: Upload, size: int) -> None:
        """Call ``Upload.truncate`` of an upload that is not open."""
        await self.finish(upload, upload.truncate, size, self._max_undeclared)

    async def flush(self, opened: OpenUpload, opener: Opener, inode: int) -> None:
        """Call ``OpenUpload.flush``, with a search for other holders."""
        search = partial(self._scanner.report, opener, opened.upload.name, inode)
        await self.finish(opened.upload, opened.flush, search)

    async def sync(self, opened: OpenUpload) -> None:
        """Call ``OpenUpload.sync``."""
        await self.finish(opened.upload, opened.sync)

    async def release(self, opened: OpenUpload) -> None:
        """Call ``OpenUpload.release``; until it returns, ``wait_for_commits`` waits for it."""
        directory = opened.upload.directory
        repository = directory.removesuffix("/_uploads").removesuffix("/_manifests")
        ending = _Ending(f"{repository}/", trio.Event(), trio.current_time() + _ORDINARY_COMMIT_S)
        self._endings.add(ending)
        try:
            await self.finish(opened.upload, opened.release)
        finally:
            self._endings.discard(ending)
            ending.over.set()

    async def wait_for_commits(self, path: str) -> None:
        """Wait for commits of uploads that were closed before, in the repository of *path*.

        The wait for each commit ends _ORDINARY_COMMIT_S after its close.
        """
        for ending in [e for e in self._endings if f"{path}/".startswith(e.repository)]:
            with self._threads.admission.waiting(), trio.move_on_at(ending.waited_for_until):
                await ending.over.wait()

    async def finish(self, upload: Upload, call: Callable[[*Ts], None], *args: *Ts) -> None:
        """Run ``call(*args)``, which may commit *upload*, in a thread until the deadline."""
        try:
            await self._threads.run_write(call, *args, deadline_s=self._deadline_s)
        except StorageTimeout:
            upload.interrupt(
                f"its commit took longer than --upload-deadline ({self._deadline_s:g} s);"
                " raise that, and close it again"
            )
            raise

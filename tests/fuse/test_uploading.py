"""Writes on the event loop: which of them wait for no thread."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from blobfs.drivers.inmemory import InMemoryDriver
from blobfs.fuse.threads import StorageThreads
from blobfs.fuse.upload_dispatcher import UploadDispatcher
from blobfs.storage.registry import Registry
from blobfs.storage.uploads.staging import MultipartStaging
from blobfs.vfs.uploads import Uploads

PATIENCE_S = 10.0


@asynccontextmanager
async def _busy(threads: StorageThreads) -> AsyncIterator[None]:
    """All threads that write are held up inside the block; there is one."""
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        let_go.wait(PATIENCE_S)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(threads.run_write, hold)
        await trio.to_thread.run_sync(held.wait)
        try:
            yield
        finally:
            let_go.set()


@pytest.mark.parametrize("written", [b"", bytes(2 * 2**20)], ids=["in memory", "in the storage"])
async def test_write_that_only_adds_waits_for_no_thread(written: bytes) -> None:
    threads = StorageThreads(inline=False, limit=1)  # as for a storage that is far away
    uploads = Uploads().at("/a/_uploads", Registry(InMemoryDriver()).repository("a").uploads)
    uploading = UploadDispatcher(threads)
    opened = await uploading.open(uploads.begin("x"), truncate=False)
    await uploading.write(opened, 0, written)
    async with _busy(threads):
        with trio.fail_after(PATIENCE_S / 2):
            await uploading.write(opened, len(written), b"more")
    assert opened.upload.writer is not None
    assert opened.upload.writer.size == len(written) + 4


async def test_write_does_not_wait_on_the_event_loop_for_who_is_at_the_upload() -> None:
    uploads = Uploads().at("/a/_uploads", Registry(InMemoryDriver()).repository("a").uploads)
    opened = await UploadDispatcher(StorageThreads(inline=True)).open(
        uploads.begin("x"), truncate=False
    )
    with opened.upload.lock:
        assert not opened.write_nowait(0, b"x")
    assert opened.write_nowait(0, b"x")


def test_write_that_has_to_save_all_is_for_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = InMemoryDriver()
    driver.is_object_store = True
    monkeypatch.setattr(MultipartStaging, "checkpoint_s", -1.0)  # so it is due
    writer = Registry(driver).repository("a").uploads.create()
    assert not writer.write_nowait(0, b"x")
    writer.write_at(0, b"x")
    assert writer.is_stored


async def test_commit_that_takes_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """[S7.18] Unless the commit takes longer than 5 s."""
    monkeypatch.setattr("blobfs.fuse.upload_dispatcher._ORDINARY_COMMIT_S", 0.05)
    uploads = Uploads().at("/a/_uploads", Registry(InMemoryDriver()).repository("a").uploads)
    threads = StorageThreads(inline=False, limit=1)
    uploading = UploadDispatcher(threads)
    opened = await uploading.open(uploads.begin("x"), truncate=False)
    async with _busy(threads), trio.open_nursery() as nursery:
        nursery.start_soon(uploading.release, opened)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(PATIENCE_S / 2):
            await uploading.wait_for_commits("/a/_layers/sha256")
        nursery.cancel_scope.cancel()

"""The bridge: at once where storage is local, in threads and with a deadline where it may block."""

import os
import threading
from pathlib import Path

import pytest
import trio

from blobfs.concurrency import refuse_to_take_long
from blobfs.errors import BlobUnknown, StorageTimeout
from blobfs.fuse.threads import StorageThreads


async def test_local_call_runs_on_the_event_loop() -> None:
    assert await StorageThreads(inline=True).run(threading.get_ident) == threading.get_ident()


async def test_other_call_runs_in_a_thread() -> None:
    assert await StorageThreads(inline=False).run(threading.get_ident) != threading.get_ident()


def _taking_long(_argument: int = 0) -> int:
    refuse_to_take_long()
    return threading.get_ident()


async def test_local_call_that_takes_long_is_made_again_in_a_thread() -> None:
    threads = StorageThreads(inline=True)
    assert await threads.run(_taking_long) != threading.get_ident()
    assert threading.get_ident() not in await threads.run_each(_taking_long, range(3))
    assert _taking_long() == threading.get_ident(), "where no event loop waits"


async def test_call_that_hangs_times_out_and_holds_up_nobody() -> None:
    threads = StorageThreads(inline=False, deadline_s=0.05)
    hung = threading.Event()
    with pytest.raises(StorageTimeout):
        await threads.run(hung.wait)
    assert await threads.run(int, "7") == 7
    hung.set()


@pytest.mark.parametrize("inline", [True, False])
async def test_results_come_in_the_order_of_the_arguments(inline: bool) -> None:
    threads = StorageThreads(inline=inline)
    assert await threads.run_each(lambda n: n * n, range(100)) == [n * n for n in range(100)]


@pytest.mark.parametrize("inline", [True, False])
async def test_one_that_fails_fails_all(inline: bool) -> None:
    def fail(number: int) -> int:
        if number == 3:
            raise BlobUnknown(number)
        return number

    with pytest.raises(BlobUnknown):
        await StorageThreads(inline=inline).run_each(fail, range(9))


async def test_local_calls_go_to_threads_once_one_needed_the_disk(on_disk: Path) -> None:
    file = on_disk / "file"
    file.write_bytes(bytes(2**20))

    def read_from_disk(_argument: int) -> int:
        with file.open("rb", buffering=0) as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            stream.read()
        return threading.get_ident()

    first, *others = await StorageThreads(inline=True).run_each(read_from_disk, range(5))
    assert first == threading.get_ident()
    assert threading.get_ident() not in others


async def test_event_loop_goes_on_between_local_calls() -> None:
    steps = 0

    async def count() -> None:
        nonlocal steps
        while True:
            steps += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await StorageThreads(inline=True).run_each(str, range(50))
        nursery.cancel_scope.cancel()
    assert steps >= 40

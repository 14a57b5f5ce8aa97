"""What HTTP may take of the event loop."""

import time

import trio
import trio.testing

from blobfs.http.loopshare import RateLimiter


def _work() -> float:
    """Hold the loop for 5 ms."""
    until = time.perf_counter() + 0.005
    while time.perf_counter() < until:
        pass
    return 0.005


async def test_one_that_comes_alone_does_not_wait() -> None:
    """[S17.6] Who asks without end waits, and the mount does not."""
    share = RateLimiter(0.1)
    began = trio.current_time()
    assert await share.run(_work) == 0.005
    assert trio.current_time() - began < 0.02


async def test_many_together_have_their_share_and_no_more(nursery: trio.Nursery) -> None:
    """[S17.6] Metrics and tasks may have a tenth of the event loop's time."""
    share = RateLimiter(0.1)
    held_s = 0.0

    async def ask_without_end() -> None:
        nonlocal held_s
        while True:
            took_s = await share.run(_work)
            held_s += took_s

    began = trio.current_time()
    for _ in range(20):
        nursery.start_soon(ask_without_end)
    with trio.fail_after(5):
        while held_s < 0.03:
            await trio.lowlevel.checkpoint()
    assert held_s <= 0.1 * (trio.current_time() - began) + 0.01
    nursery.cancel_scope.cancel()


async def test_first_come_first_served(nursery: trio.Nursery) -> None:
    share = RateLimiter(0.1)
    served: list[int] = []
    for number in range(5):
        nursery.start_soon(share.run, served.append, number)
        await trio.testing.wait_all_tasks_blocked(0.0)
    with trio.fail_after(5):
        while len(served) < 5:
            await trio.lowlevel.checkpoint()
    assert served == sorted(served)

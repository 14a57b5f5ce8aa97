"""Requests that wait are bounded, and places in threads are shared fairly."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from blobfs.errors import StorageOverloaded
from blobfs.fuse.requests import Operation, Request, Requests
from blobfs.fuse.threads import StorageThreads
from blobfs.fuse.waiting import Admission, Bounds, ThreadPlaces


class _Context:
    def __init__(self, uid: int, pid: int = 0) -> None:
        self.uid = uid
        self.pid = pid


class _Handlers:
    async def lookup(self, name: str, ctx: _Context) -> None: ...
    async def read(self, fh: int, size: int) -> None: ...
    async def write(self, fh: int, size: int) -> None: ...
    async def flush(self, fh: int) -> None: ...


OPERATIONS = {
    name: Operation(vars(_Handlers)[name]) for name in ("lookup", "read", "write", "flush")
}


class Waiting:
    """Requests that wait for a storage that hangs, until the end of the test."""

    def __init__(self, nursery: trio.Nursery, bounds: Bounds | None = None) -> None:
        self._nursery = nursery
        self.requests = Requests(opener=lambda fh: int(str(fh)))  # of a file, the user's number
        self.admission = Admission(bounds)

    async def begin(self, name: str, user: int) -> None:
        """One more request; raises StorageOverloaded."""
        await self._nursery.start(self._wait, name, user)

    async def _wait(self, name: str, user: int, task_status: trio.TaskStatus[None]) -> None:
        arguments = ("x", _Context(user)) if name == "lookup" else (user, 1)
        self.requests.begin(OPERATIONS[name], arguments)
        with self.admission.waiting():
            task_status.started()
            await trio.sleep_forever()


@pytest.fixture
def bounds() -> Bounds:
    return Bounds(operation=3, user=5, all=7, write=2)


async def test_no_more_requests_of_one_user_and_operation_wait_than_may(
    nursery: trio.Nursery, bounds: Bounds
) -> None:
    """[S4.7] The requests that wait for the storage are bounded: 1,024 of one user and operation
    (256 writes).
    """
    waiting = Waiting(nursery, bounds)
    for _ in range(3):
        await waiting.begin("lookup", 1000)
    with pytest.raises(StorageOverloaded, match="user 1000"):
        await waiting.begin("lookup", 1000)
    await waiting.begin("read", 1000)
    await waiting.begin("lookup", 1001)
    assert waiting.admission.counts() == {
        "1000": {"lookup": 3, "read": 1},
        "1001": {"lookup": 1},
    }


async def test_no_more_requests_of_one_user_or_of_all_wait_than_may(
    nursery: trio.Nursery, bounds: Bounds
) -> None:
    """[S4.7] 2,048 of one user, 3,584 in all."""
    waiting = Waiting(nursery, bounds)
    for name in ("lookup", "lookup", "lookup", "read", "read"):
        await waiting.begin(name, 1000)
    with pytest.raises(StorageOverloaded, match="5 requests of user 1000"):
        await waiting.begin("read", 1000)
    for user in (1001, 1002):
        await waiting.begin("read", user)
    with pytest.raises(StorageOverloaded, match="7 requests wait"):
        await waiting.begin("read", 1003)


async def test_fewer_writes_wait_as_each_holds_its_bytes(
    nursery: trio.Nursery, bounds: Bounds
) -> None:
    waiting = Waiting(nursery, bounds)
    for _ in range(2):
        await waiting.begin("write", 1000)
    with pytest.raises(StorageOverloaded):
        await waiting.begin("write", 1000)


async def test_close_is_never_refused(nursery: trio.Nursery, bounds: Bounds) -> None:
    """[S4.7] A close is never refused."""
    waiting = Waiting(nursery, bounds)
    for _ in range(9):
        await waiting.begin("flush", 1000)


async def test_request_that_has_waited_makes_room_for_another() -> None:
    admission = Admission(Bounds(operation=1))
    requests = Requests()
    for _ in range(3):
        request = requests.begin(OPERATIONS["lookup"], ("x", _Context(1000)))
        with admission.waiting(), admission.waiting():  # as it may wait for several calls
            assert request.is_waiting
        requests.end(request)
    assert admission.counts() == {}


class Hanging:
    """Calls by users in threads, each of which hangs until the end of the block."""

    def __init__(self, nursery: trio.Nursery, places: ThreadPlaces) -> None:
        self._nursery = nursery
        self._places = places
        self._over = threading.Event()
        self.begun: list[int] = []

    async def _call(self, user: int) -> None:
        Requests().begin(OPERATIONS["lookup"], ("x", _Context(user)))
        await trio.to_thread.run_sync(
            self._hang,
            user,
            limiter=self._places,  # type: ignore[arg-type]
            abandon_on_cancel=True,
        )

    def _hang(self, user: int) -> None:
        self.begun.append(user)
        self._over.wait()

    async def add(self, user: int, number: int) -> None:
        """Make *number* more calls of a *user*."""
        for _ in range(number):
            self._nursery.start_soon(self._call, user)
        await trio.testing.wait_all_tasks_blocked(0.02)

    def end(self) -> None:
        """Let all of them end."""
        self._over.set()


@contextmanager
def _hanging(nursery: trio.Nursery, places: ThreadPlaces) -> Iterator[Hanging]:
    hanging = Hanging(nursery, places)
    try:
        yield hanging
    finally:
        hanging.end()


async def test_one_user_leaves_places_in_threads_to_others(nursery: trio.Nursery) -> None:
    """[S4.8] The calls of one user leave threads to those of others."""
    with _hanging(nursery, ThreadPlaces(6, reserve=2, hangs_after_s=60)) as hanging:
        await hanging.add(1000, 10)
        assert hanging.begun == [1000] * 4
        await hanging.add(1001, 1)
        assert hanging.begun == [1000] * 4 + [1001]


async def test_user_with_the_fewest_calls_is_next(nursery: trio.Nursery) -> None:
    with _hanging(nursery, ThreadPlaces(4, reserve=0, hangs_after_s=0.2, most=6)) as hanging:
        await hanging.add(1000, 10)
        await hanging.add(1001, 10)
        with trio.fail_after(5):
            while len(hanging.begun) < 6:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert hanging.begun[4:] == [1001, 1001]


async def test_call_that_hangs_gives_its_place_to_another_up_to_a_bound(
    nursery: trio.Nursery,
) -> None:
    """[S4.8] One that hangs gives its place to another call after 0.25 s, up to 213 threads of one
    user and 320 in all.
    """
    places = ThreadPlaces(2, reserve=0, hangs_after_s=0.05, most=9)
    with _hanging(nursery, places) as hanging:
        await hanging.add(1000, 20)
        with trio.fail_after(5):
            while len(hanging.begun) < 6:  # noqa: ASYNC110
                await trio.sleep(0.01)
        await trio.sleep(0.3)
        assert len(hanging.begun) == 6, "two thirds of the threads are one user's"
        await hanging.add(1001, 1)
        assert hanging.begun[6:] == [1001]


async def test_place_is_free_again_when_its_call_has_ended(nursery: trio.Nursery) -> None:
    places = ThreadPlaces(1, reserve=0, hangs_after_s=60)
    with _hanging(nursery, places) as hanging:
        await hanging.add(1000, 2)
        assert len(hanging.begun) == 1
        hanging.end()
        with trio.fail_after(5):
            while len(hanging.begun) < 2:  # noqa: ASYNC110
                await trio.sleep(0.01)


async def test_shared_call_is_made_once_for_all_who_ask_meanwhile(nursery: trio.Nursery) -> None:
    """[S18.6] Programs that open `uploads.json` at the same time share one walk of the storage."""
    threads = StorageThreads(inline=True)
    may_end = threading.Event()
    calls: list[int] = []
    results: list[int] = []

    def walk() -> int:
        calls.append(1)
        may_end.wait()
        return len(calls)

    async def ask() -> None:
        results.append(await threads.run_shared("walk", walk))

    for _ in range(300):
        nursery.start_soon(ask)
    await trio.testing.wait_all_tasks_blocked(0.02)
    may_end.set()
    with trio.fail_after(5):
        while len(results) < 300:  # noqa: ASYNC110
            await trio.sleep(0.01)
    assert results == [1] * 300


def test_requests_in_flight_are_told_of_up_to_a_bound() -> None:
    """[S18.2] `requests.json` has the oldest 200 requests of the kernel that are not answered, the
    oldest first.
    """
    requests = Requests(opener=lambda _: 1000)
    for number in range(1, 501):
        requests.begin(OPERATIONS["read"], (number, 1))
    found = requests.in_flight()
    assert len(requests) == 500
    assert len(found) == 200
    assert found[0]["uid"] == 1000
    assert found[0]["seconds"] >= found[-1]["seconds"]  # type: ignore[operator]


def test_request_names_the_program_that_waits() -> None:
    """[S18.2] The user, the process and its program as far as the kernel tells them."""
    requests = Requests()
    request: Request = requests.begin(OPERATIONS["lookup"], ("x", _Context(1000, os.getpid())))
    [found] = requests.in_flight()
    assert (found["uid"], found["pid"]) == (1000, os.getpid())
    assert found["program"]
    requests.end(request)

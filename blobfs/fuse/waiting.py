"""Bounds on the requests that wait for the storage, so that no user starves others.

A request that waits holds a task of pyfuse3, and a thread while its call runs. Tasks are cheap
(about 20 KiB) but bounded: ``Admission`` reserves tasks for other operations, for other users, and
for requests that need no storage. Threads are few: ``ThreadPlaces`` shares them fairly, and after a
moment a call that hangs frees its place for another call, up to a bound.

Used on the event loop only, so it takes no lock.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

import trio

from blobfs.errors import StorageOverloaded
from blobfs.fuse.requests import Request, current_request

T = TypeVar("T")

MAX_TASKS: Final = 4096
"""Requests that pyfuse3 serves at once."""

_PROGRAM: Final = -1
"""The user of a call that no request makes: the program itself."""

_NEVER_REFUSED: Final = frozenset({"flush", "release", "releasedir"})
"""Requests that release resources, or that a program cannot repeat."""

_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Bounds:
    """The number of requests that may wait: of one user and operation, of one user, of all."""

    operation: int = 1024
    user: int = 2048
    all: int = MAX_TASKS - 512
    write: int = 256  # of one user; each holds up to 2 MiB


class Admission:
    """Counts the requests that wait, and refuses more than *bounds* allow."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self._bounds = bounds or Bounds()
        self._by_operation: Counter[tuple[int, str]] = Counter()
        self._by_user: Counter[int] = Counter()
        self._all = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the request of this task as waiting inside the block; raises StorageOverloaded."""
        request = current_request()
        if request is None or request.is_waiting:  # it may wait for several calls at once
            yield
            return
        self._refuse_too_many(request)
        self._count(request, 1)
        try:
            yield
        finally:
            self._count(request, -1)

    def _count(self, request: Request, number: int) -> None:
        request.is_waiting = number > 0
        self._all += number
        _add(self._by_operation, (request.user, request.operation.name), number)
        _add(self._by_user, request.user, number)

    def _refuse_too_many(self, request: Request) -> None:
        user, operation, bounds = request.user, request.operation.name, self._bounds
        if operation in _NEVER_REFUSED:
            return
        most = bounds.write if operation == "write" else bounds.operation
        if self._by_operation[user, operation] >= most:
            raise _overloaded(f"{most} requests ({operation}) of user {user}")
        if self._by_user[user] >= bounds.user:
            raise _overloaded(f"{bounds.user} requests of user {user}")
        if self._all >= bounds.all:
            raise _overloaded(f"{bounds.all} requests")

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of requests that wait, by user and operation."""
        found: dict[str, dict[str, int]] = {}
        for (user, operation), number in self._by_operation.items():
            found.setdefault(str(user), {})[operation] = number
        return found


def _overloaded(waiting: str) -> StorageOverloaded:
    return StorageOverloaded(
        f"{waiting} wait for the storage, which is the limit; .blobfs/requests.json shows them"
    )


@dataclass(slots=True)
class _Share:
    """The running and hanging calls of one user, and the calls that wait for a place."""

    running: int = 0
    hanging: int = 0
    queue: deque[tuple[object, trio.Event]] = field(default_factory=deque)


class ThreadPlaces:
    """A limiter for the threads of trio: *limit* calls at a time, *limit* - *reserve* of one user.

    After *hangs_after_s* a call does not count any more, as its thread only waits. *most* bounds
    all threads. If several users wait, the user with the fewest running calls is next.
    """

    def __init__(
        self, limit: int = 40, *, reserve: int = 8, hangs_after_s: float = 0.25, most: int = 320
    ) -> None:
        self._limit = limit
        self._of_one = max(1, limit - reserve)
        self._hangs_after_s = hangs_after_s
        self._most = most
        self._most_of_one = most * 2 // 3
        self._shares: dict[int, _Share] = {}
        self._running: OrderedDict[object, tuple[int, float]] = OrderedDict()  # user, since when
        self._hanging: dict[object, int] = {}
        self._is_looking = False

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """Wait for a place for *borrower*."""
        request = current_request()
        user = _PROGRAM if request is None else request.user
        share = self._shares.setdefault(user, _Share())
        self._notice_hanging()
        if not share.queue and self._has_place(share):
            self._take(borrower, user)
            return
        turn = (borrower, trio.Event())
        share.queue.append(turn)
        self._look_again()
        try:
            await turn[1].wait()
        except trio.Cancelled:
            if turn[1].is_set():
                self.release_on_behalf_of(borrower)
            else:
                share.queue.remove(turn)
                self._drop_if_empty(user)
            raise

    def release_on_behalf_of(self, borrower: object) -> None:
        """Free the place of *borrower*, at the end of its call."""
        if (running := self._running.pop(borrower, None)) is not None:
            user = running[0]
            self._shares[user].running -= 1
        else:
            user = self._hanging.pop(borrower)
            self._shares[user].hanging -= 1
        self._drop_if_empty(user)
        self._fill()

    def _take(self, borrower: object, user: int) -> None:
        self._running[borrower] = (user, trio.current_time())
        self._shares[user].running += 1

    def _has_place(self, share: _Share) -> bool:
        if len(self._running) >= self._limit or share.running >= self._of_one:
            return False
        if len(self._running) + len(self._hanging) >= self._most:
            return False
        return share.running + share.hanging < self._most_of_one

    def _notice_hanging(self) -> None:
        before = trio.current_time() - self._hangs_after_s
        while self._running:
            borrower, (user, since) = next(iter(self._running.items()))
            if since > before:
                return
            del self._running[borrower]
            self._hanging[borrower] = user
            self._shares[user].running -= 1
            self._shares[user].hanging += 1

    def _fill(self) -> None:
        """Give free places to waiting calls."""
        self._notice_hanging()
        while len(self._running) < self._limit:
            waiting = [
                (share.running, user)
                for user, share in self._shares.items()
                if share.queue and self._has_place(share)
            ]
            if not waiting:
                return
            _, user = min(waiting)
            borrower, may_run = self._shares[user].queue.popleft()
            self._take(borrower, user)
            may_run.set()

    def _drop_if_empty(self, user: int) -> None:
        share = self._shares[user]
        if not (share.running or share.hanging or share.queue):
            del self._shares[user]

    def _look_again(self) -> None:
        if not self._is_looking:
            self._is_looking = True
            trio.lowlevel.spawn_system_task(self._look_for_hanging)

    async def _look_for_hanging(self) -> None:
        """Reuse the places of hanging calls as long as other calls wait."""
        try:
            while any(share.queue for share in self._shares.values()):
                await trio.sleep(_POLL_S)
                self._fill()
        finally:
            self._is_looking = False


def _add(counter: Counter[T], key: T, number: int) -> None:
    counter[key] += number
    if not counter[key]:
        del counter[key]

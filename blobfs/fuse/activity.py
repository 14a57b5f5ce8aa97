"""The activity of a mount: its requests, and the stacks of its tasks and threads.

``MountProbe`` shows it to other threads, such as that of HTTP.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from types import FrameType
from typing import Final, Protocol, TypeVar

import trio

from blobfs.concurrency import complete
from blobfs.logs import printable

T = TypeVar("T")

_MAX_SHOWN: Final = 200

_IDLE: Final = (
    "/trio/_core/_thread_cache.py",
    "/blobfs/notifications/sender.py",
    "/pyfuse3/_pyfuse3.py",
    "/selectors.py",
)
"""Modules in which idle threads wait for work."""

_IDLE_CALLS: Final = (" _run_next", " _wait_for_call")
"""The methods of ``ThreadPool`` in which its idle threads wait."""


@dataclass(frozen=True, slots=True)
class Stack:
    """The stack of a task or thread, outermost call first."""

    name: str
    calls: list[str]


@dataclass(frozen=True, slots=True)
class Activity:
    """The number of all requests, the oldest requests, and the stacks of tasks and threads."""

    in_flight: int
    requests: list[Mapping[str, object]]
    tasks: list[Stack]
    threads: list[Stack]

    def as_json(self) -> object:
        """Return a document for programs."""
        return asdict(self)

    def as_text(self) -> str:
        """Return a text for people, requests first."""
        lines = [
            f"{self.in_flight} requests in flight",
            *("  " + " ".join(f"{k}={v}" for k, v in asked.items()) for asked in self.requests),
        ]
        for title, stacks in (("tasks", self.tasks), ("threads", self.threads)):
            lines += ["", f"{len(stacks)} {title}"]
            for stack in stacks:
                lines += [f"  {stack.name}", *(f"    {call}" for call in stack.calls)]
        return "\n".join(map(printable, lines)) + "\n"


class InFlight(Protocol):
    """The requests of a mount: ``len`` counts them, ``in_flight`` describes the oldest."""

    def __len__(self) -> int: ...

    def in_flight(self) -> Iterable[Mapping[str, object]]: ...


class MountProbe:
    """Asks the event loop of a mount from other threads. Thread-safe; created on that loop."""

    def __init__(self, requests: InFlight) -> None:
        self._loop = trio.lowlevel.current_trio_token()
        self._requests = requests

    def ping(self) -> Future[None]:
        """Return a future that the event loop completes; after its end nothing does."""
        return self._call(lambda: None)

    def activity(self, *, with_idle: bool) -> Future[Activity]:
        """Return the future activity; idle tasks and threads only if *with_idle*."""
        return self._call(partial(_activity, self._requests, with_idle=with_idle))

    def _call(self, call: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        try:
            self._loop.run_sync_soon(complete, future, call)
        except trio.RunFinishedError:
            pass
        return future


def _activity(requests: InFlight, *, with_idle: bool) -> Activity:
    """Return the activity; it takes about 10 ms for 200 tasks and threads."""
    tasks = (stack for stack in _tasks() if with_idle or not _is_idle_task(stack))
    threads = (stack for stack in _threads() if with_idle or not _is_idle_thread(stack))
    return Activity(
        len(requests),
        list(requests.in_flight()),
        list(islice(tasks, _MAX_SHOWN)),
        list(islice(threads, _MAX_SHOWN)),
    )


def _tasks() -> Iterator[Stack]:
    pending = [trio.lowlevel.current_root_task()]
    while pending:
        task = pending.pop()
        if task is None:
            continue
        yield _stack(task.name, _awaited(task))
        for nursery in task.child_nurseries:
            pending.extend(nursery.child_tasks)


def _awaited(task: trio.lowlevel.Task) -> Iterator[tuple[FrameType, int]]:
    try:
        yield from task.iter_await_frames()
    except (AttributeError, TypeError):  # pyfuse3's compiled coroutines have no frames
        pass


def _is_idle_task(stack: Stack) -> bool:
    """True if the task waits for no storage call; pyfuse3's tasks are shown as requests."""
    return not any("/blobfs/fuse/threads.py" in call for call in stack.calls)


def _threads() -> Iterator[Stack]:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():  # noqa: SLF001  (documented)
        calls = reversed(list(traceback.walk_stack(frame)))
        yield _stack(names.get(ident, "unknown"), calls)


def _is_idle_thread(stack: Stack) -> bool:
    """True if the innermost call is in a module whose threads wait for work."""
    calls = [call for call in stack.calls if "/threading.py:" not in call]
    if not calls or calls[-1].endswith(_IDLE_CALLS):
        return True
    return calls[-1].partition(":")[0].endswith(_IDLE)


def _stack(name: str, frames: Iterable[tuple[FrameType, int]]) -> Stack:
    codes = ((frame.f_code, line) for frame, line in frames)
    return Stack(name, [f"{code.co_filename}:{line} {code.co_name}" for code, line in codes])

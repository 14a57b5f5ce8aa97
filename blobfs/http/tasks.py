"""What a mount is doing at this moment: its requests, and where its tasks and threads are."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from types import FrameType
from typing import Final, TypedDict

import trio

from blobfs.logs import printable

_MOST: Final = 200

_IDLE: Final = (
    "/trio/_core/_thread_cache.py",
    "/concurrent/futures/thread.py",
    "/blobfs/drivers/prefetch/fetcher.py",
    "/blobfs/notifications/sender.py",
    "/pyfuse3/_pyfuse3.py",
    "/queue.py",
)
"""Modules whose threads wait for a task where they are innermost."""


class Stack(TypedDict):
    """Where something is, outermost call first."""

    name: str
    calls: list[str]


class Doing(TypedDict):
    """What is under way: the number of all requests, and the oldest of them."""

    in_flight: int
    requests: list[Mapping[str, object]]
    tasks: list[Stack]
    threads: list[Stack]


def doing(
    requests: Iterable[Mapping[str, object]], number: int, *, with_idle: bool = False
) -> Doing:
    """What is under way; to be called on the event loop.

    *requests* are the oldest of *number* requests. Tasks and threads that wait for something to do
    are left out without *with_idle*. At most 200 of each are told of, which takes some 10 ms.
    """
    tasks = (stack for stack in _tasks() if with_idle or not _is_idle_task(stack))
    threads = (stack for stack in _threads() if with_idle or not _is_idle_thread(stack))
    return {
        "in_flight": number,
        "requests": list(requests),
        "tasks": list(islice(tasks, _MOST)),
        "threads": list(islice(threads, _MOST)),
    }


def as_text(what: Doing) -> str:
    """For people; the requests come first."""
    lines = [
        f"{what['in_flight']} requests in flight",
        *("  " + " ".join(f"{k}={v}" for k, v in request.items()) for request in what["requests"]),
    ]
    for title, stacks in (("tasks", what["tasks"]), ("threads", what["threads"])):
        lines += ["", f"{len(stacks)} {title}"]
        for stack in stacks:
            lines += [f"  {stack['name']}", *(f"    {call}" for call in stack["calls"])]
    return "\n".join(map(printable, lines)) + "\n"


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
    except (AttributeError, TypeError):  # pyfuse3's coroutines are compiled, and show no frames
        pass


def _is_idle_task(stack: Stack) -> bool:
    """Whether it is none of a request: those of pyfuse3 are told of as requests."""
    return not any("/blobfs/http/" in call and "/server.py" not in call for call in stack["calls"])


def _threads() -> Iterator[Stack]:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():  # noqa: SLF001  (documented)
        calls = reversed(list(traceback.walk_stack(frame)))
        yield _stack(names.get(ident, "unknown"), calls)


def _is_idle_thread(stack: Stack) -> bool:
    """Whether it waits for something to do: innermost it is in a loop that takes tasks."""
    calls = [call for call in stack["calls"] if "/threading.py:" not in call]
    return not calls or calls[-1].partition(":")[0].endswith(_IDLE)


def _stack(name: str, frames: Iterable[tuple[FrameType, int]]) -> Stack:
    summary = traceback.StackSummary.extract(frames, lookup_lines=False)
    return {"name": name, "calls": [f"{f.filename}:{f.lineno} {f.name}" for f in summary]}

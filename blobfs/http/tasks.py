"""The activity of a mount: its requests, and the stacks of its tasks and threads."""

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

_MAX_SHOWN: Final = 200

_IDLE: Final = (
    "/trio/_core/_thread_cache.py",
    "/blobfs/notifications/sender.py",
    "/pyfuse3/_pyfuse3.py",
)
"""Modules in which idle threads wait for work."""

_IDLE_CALLS: Final = (" _run_next", " _wait_for_call")
"""The methods of ``ThreadPool`` in which its idle threads wait."""


class Stack(TypedDict):
    """The stack of a task or thread, outermost call first."""

    name: str
    calls: list[str]


class Activity(TypedDict):
    """The number of all requests, the oldest requests, and the stacks of tasks and threads."""

    in_flight: int
    requests: list[Mapping[str, object]]
    tasks: list[Stack]
    threads: list[Stack]


def activity(
    requests: Iterable[Mapping[str, object]], number: int, *, with_idle: bool = False
) -> Activity:
    """Return the activity of the mount; called on the event loop.

    *requests* are the oldest of *number* requests. Idle tasks and threads are left out without
    *with_idle*. At most 200 of each are returned, which takes about 10 ms.
    """
    tasks = (stack for stack in _tasks() if with_idle or not _is_idle_task(stack))
    threads = (stack for stack in _threads() if with_idle or not _is_idle_thread(stack))
    return {
        "in_flight": number,
        "requests": list(requests),
        "tasks": list(islice(tasks, _MAX_SHOWN)),
        "threads": list(islice(threads, _MAX_SHOWN)),
    }


def as_text(what: Activity) -> str:
    """Format an activity for people, requests first."""
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
    except (AttributeError, TypeError):  # pyfuse3's compiled coroutines have no frames
        pass


def _is_idle_task(stack: Stack) -> bool:
    """True if the task serves no HTTP request; pyfuse3's tasks are shown as requests."""
    return not any("/blobfs/http/" in call and "/server.py" not in call for call in stack["calls"])


def _threads() -> Iterator[Stack]:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():  # noqa: SLF001  (documented)
        calls = reversed(list(traceback.walk_stack(frame)))
        yield _stack(names.get(ident, "unknown"), calls)


def _is_idle_thread(stack: Stack) -> bool:
    """True if the innermost call is in a module whose threads wait for work."""
    calls = [call for call in stack["calls"] if "/threading.py:" not in call]
    if not calls or calls[-1].endswith(_IDLE_CALLS):
        return True
    return calls[-1].partition(":")[0].endswith(_IDLE)


def _stack(name: str, frames: Iterable[tuple[FrameType, int]]) -> Stack:
    summary = traceback.StackSummary.extract(frames, lookup_lines=False)
    return {"name": name, "calls": [f"{f.filename}:{f.lineno} {f.name}" for f in summary]}

"""What a mount is doing at this moment: its requests, and where its tasks and threads are."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType
from typing import TypedDict

import trio


class Stack(TypedDict):
    """Where something is, outermost call first."""

    name: str
    calls: list[str]


class Doing(TypedDict):
    """What is under way."""

    requests: list[Mapping[str, object]]
    tasks: list[Stack]
    threads: list[Stack]


def doing(requests: Iterable[Mapping[str, object]]) -> Doing:
    """*requests*, and the stacks of all tasks and threads; to be called on the event loop."""
    return {"requests": list(requests), "tasks": list(_tasks()), "threads": list(_threads())}


def as_text(what: Doing) -> str:
    """For people; the requests come first."""
    lines = [
        f"{len(what['requests'])} requests in flight",
        *("  " + " ".join(f"{k}={v}" for k, v in request.items()) for request in what["requests"]),
    ]
    for title, stacks in (("tasks", what["tasks"]), ("threads", what["threads"])):
        lines += ["", f"{len(stacks)} {title}"]
        for stack in stacks:
            lines += [f"  {stack['name']}", *(f"    {call}" for call in stack["calls"])]
    return "\n".join(lines) + "\n"


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


def _threads() -> Iterator[Stack]:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():  # noqa: SLF001  (documented)
        calls = reversed(list(traceback.walk_stack(frame)))
        yield _stack(names.get(ident, "unknown"), calls)


def _stack(name: str, frames: Iterable[tuple[FrameType, int]]) -> Stack:
    summary = traceback.StackSummary.extract(frames, lookup_lines=False)
    return {"name": name, "calls": [f"{f.filename}:{f.lineno} {f.name}" for f in summary]}

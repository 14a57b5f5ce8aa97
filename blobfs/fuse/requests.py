"""The kernel's requests in flight, their durations, and their descriptions for people.

Used on the event loop only, so it takes no lock.
"""

from __future__ import annotations

import errno
import inspect
import os
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import islice
from typing import Any, Final

import trio
from pyfuse3 import FileHandleT

from blobfs import metrics
from blobfs.fuse.inodes import InodeTable
from blobfs.vfs.blobs import BlobFile
from blobfs.vfs.nodes import Node
from blobfs.vfs.upload_nodes import UploadFile

_LAG_S: Final = 0.001
"""Shorter steps of the event loop delay no request, and are not measured."""

_SHOWN: Final = 200
"""Requests that ``in_flight`` describes (about 25 µs each)."""

Subject = Callable[[Mapping[str, object]], Mapping[str, object]]
"""A function that describes a request, for people, by the arguments of its handler."""


_NAMED: Final = (
    ("parent_inode", "name", "path"),
    ("parent_inode_old", "name_old", "path"),
    ("parent_inode_new", "name_new", "target"),
    ("new_parent_inode", "new_name", "path"),
)
"""Arguments of handlers for a directory and a name in it, and the field for both together."""


class Operation:
    """A handler: its *name*, the names of its *parameters*, and its metrics."""

    def __init__(self, handler: Callable[..., object]) -> None:
        self.name = handler.__name__
        self.parameters = tuple(inspect.signature(handler).parameters)[1:]

    @cached_property
    def record_seconds(self) -> Callable[[float], None]:
        """Record the duration of a request, in seconds."""
        return metrics.FUSE_SECONDS.labels(self.name).observe

    @cached_property
    def count_replies(self) -> metrics.Children:
        """Count replies, by the name of the errno."""
        return metrics.Children(lambda name: metrics.FUSE_REQUESTS.labels(self.name, name).inc)


class Request:
    """One request of the kernel.

    *user* is the user of the program, or the user who has opened the handle. *is_waiting* is True
    while the request counts as one that waits for the storage.
    """

    __slots__ = ("arguments", "began", "is_waiting", "operation", "user")

    def __init__(self, operation: Operation, arguments: tuple[Any, ...], user: int) -> None:
        self.operation = operation
        self.arguments = arguments
        self.user = user
        self.is_waiting = False
        self.began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """The time since its beginning."""
        return time.perf_counter() - self.began

    @property
    def process(self) -> int:
        """The process that asks; 0 if the kernel does not name one, as for its own read-ahead."""
        return getattr(self.arguments[-1], "pid", 0) if self.arguments else 0


_current: Final[ContextVar[Request | None]] = ContextVar("request", default=None)


def current_request() -> Request | None:
    """Return the request that this task serves."""
    return _current.get()


class Requests:
    """The requests in flight; *subject* describes one, *opener* returns the user of a handle."""

    def __init__(
        self, subject: Subject = dict, opener: Callable[[object], int] = lambda _: 0
    ) -> None:
        self._subject = subject
        self._opener = opener
        self._running: dict[Request, None] = {}  # the oldest first

    def begin(self, operation: Operation, arguments: tuple[Any, ...]) -> Request:
        """Begin a request in this task; it is in flight until ``end``."""
        user = getattr(arguments[-1], "uid", None) if arguments else 0
        if user is None:
            user = self._opener(arguments[0])
        request = Request(operation, arguments, user)
        self._running[request] = None
        _current.set(request)
        return request

    def end(self, request: Request, number: int = 0) -> None:
        """End and count a request; *number* is the errno of its reply, or 0."""
        del self._running[request]
        _current.set(None)
        operation = request.operation
        operation.record_seconds(time.perf_counter() - request.began)
        operation.count_replies[errno_name(number)](1)

    def __len__(self) -> int:
        return len(self._running)

    def about(self, request: Request) -> dict[str, object]:
        """Describe a request by ``path`` or ``digest``, ``repository``, ``offset`` and so on."""
        named = zip(request.operation.parameters, request.arguments, strict=False)
        return dict(self._subject(dict(named)))

    def in_flight(self) -> list[dict[str, object]]:
        """Describe the oldest requests in flight, with their beginning and duration.

        The number is bounded, so that this takes a few milliseconds; ``len`` counts all.
        """
        now = datetime.now(UTC), time.perf_counter()
        return [
            {
                "operation": request.operation.name,
                **self.about(request),
                "uid": request.user,
                **_program(request.process),
                "waiting": request.is_waiting,
                **_since(*now, request.began),
            }
            for request in islice(self._running, _SHOWN)
        ]


def _since(now: datetime, now_s: float, began: float) -> dict[str, object]:
    seconds = now_s - began
    since = now - timedelta(seconds=seconds)
    return {"since": since.isoformat(" ", "milliseconds"), "seconds": round(seconds, 6)}


def _program(process: int) -> dict[str, object]:
    """Return the process that asks, and its name; empty if the kernel asks by itself."""
    if not process:
        return {}
    try:
        with open(f"/proc/{process}/comm", encoding="utf-8", errors="backslashreplace") as file:
            return {"pid": process, "program": file.read().removesuffix("\n")}
    except OSError:  # it has ended, or is in another pid namespace
        return {"pid": process}


def errno_name(number: int) -> str:
    """Return the name of an errno, such as ``ENOENT``; ``OK`` for 0."""
    return errno.errorcode.get(number, str(number)) if number else "OK"


class RequestDescriber:
    """Describes requests by the nodes of their inodes and handles.

    It raises nothing: it leaves out what it does not find.
    """

    def __init__(self, inodes: InodeTable, opened: Callable[[FileHandleT], Node | None]) -> None:
        self._inodes = inodes
        self._opened = opened

    def of(self, arguments: Mapping[str, Any]) -> dict[str, object]:
        """Describe the request of a handler that was called with *arguments*."""
        subject: dict[str, object] = {}
        for directory, name, field in _NAMED:
            inode = self._inodes.get(arguments.get(directory, 0))
            if inode is not None:
                parent = inode.node.key.rstrip("/")
                subject[field] = f"{parent}/{os.fsdecode(arguments[name])}"
        subject |= _of_node(self._node(arguments))
        if "off" in arguments:
            subject["offset"] = arguments["off"]
        if "size" in arguments or "buf" in arguments:
            subject["size"] = arguments.get("size") or len(arguments.get("buf", b""))
        repository, marker, _ = str(subject.get("path", "")).partition("/_")
        if marker:
            subject.setdefault("repository", repository[1:])
        return subject

    def _node(self, arguments: Mapping[str, Any]) -> Node | None:
        inode = self._inodes.get(arguments.get("inode", 0))
        if inode is not None:
            return inode.node
        return self._opened(arguments["fh"]) if "fh" in arguments else None


def _of_node(node: Node | None) -> dict[str, object]:
    match node:
        case None:
            return {}
        case BlobFile(repositories=(repository, *_)):
            return {"digest": node.key, "repository": str(repository.name)}
        case BlobFile():
            return {"digest": node.key}
        case UploadFile():
            return {"path": node.upload.path}
    return {"path": node.key}


class LongestStep(trio.abc.Instrument):
    """Measures the longest step of a task on the event loop, in seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.perf_counter()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        seconds = time.perf_counter() - self._began
        if seconds > _LAG_S:
            metrics.EVENT_LOOP_LAG.observe(seconds)
            self.seconds = max(self.seconds, seconds)

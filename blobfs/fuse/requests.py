"""The kernel's requests as they are served: which are under way, and how long they took.

Used on the event loop only, so nothing of it takes a lock.
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
"""Steps of the event loop that took less held nobody up, and are not measured."""

_SHOWN: Final = 200
"""Requests that ``in_flight`` tells of, the oldest (some 25 µs each)."""

Subject = Callable[[Mapping[str, object]], Mapping[str, object]]
"""What a request is about, for people, by the arguments of its handler."""


_NAMED: Final = (
    ("parent_inode", "name", "path"),
    ("parent_inode_old", "name_old", "path"),
    ("parent_inode_new", "name_new", "target"),
    ("new_parent_inode", "new_name", "path"),
)
"""Arguments of handlers that are a directory, and a name in it; and what both are said to be."""


class Operation:
    """A handler as it is counted: its *name*, and what its arguments are called."""

    def __init__(self, handler: Callable[..., object]) -> None:
        self.name = handler.__name__
        self.parameters = tuple(inspect.signature(handler).parameters)[1:]

    @cached_property
    def took(self) -> Callable[[float], None]:
        """Called with the seconds that a request took."""
        return metrics.FUSE_SECONDS.labels(self.name).observe

    @cached_property
    def answered(self) -> metrics.Children:
        """Called, by the errno's name, with how many were answered by it."""
        return metrics.Children(lambda name: metrics.FUSE_REQUESTS.labels(self.name, name).inc)


class Request:
    """One request; what it is about is found out only if somebody asks.

    *user* is whose program asks, or has opened what it is about. *is_waiting* says that the
    request is counted among those that wait for the storage.
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
        """How long ago it began."""
        return time.perf_counter() - self.began

    @property
    def process(self) -> int:
        """The process that asks, where the kernel tells; 0 for its own readahead and the like."""
        return getattr(self.arguments[-1], "pid", 0) if self.arguments else 0


_current: Final[ContextVar[Request | None]] = ContextVar("request", default=None)


def current_request() -> Request | None:
    """The request that this task serves."""
    return _current.get()


class Requests:
    """Those under way; *subject* says what each is about, *opener* which user has a handle."""

    def __init__(
        self, subject: Subject = dict, opener: Callable[[object], int] = lambda _: 0
    ) -> None:
        self._subject = subject
        self._opener = opener
        self._under_way: dict[Request, None] = {}  # the oldest first

    def begin(self, operation: Operation, arguments: tuple[Any, ...]) -> Request:
        """A request that is under way from now on in this task, until ``end``."""
        user = getattr(arguments[-1], "uid", None) if arguments else 0
        if user is None:
            user = self._opener(arguments[0])
        request = Request(operation, arguments, user)
        self._under_way[request] = None
        _current.set(request)
        return request

    def end(self, request: Request, number: int = 0) -> None:
        """Count a request that was answered; *number* is its errno, or 0."""
        del self._under_way[request]
        _current.set(None)
        operation = request.operation
        operation.took(time.perf_counter() - request.began)
        operation.answered[errno_name(number)](1)

    def __len__(self) -> int:
        return len(self._under_way)

    def about(self, request: Request) -> dict[str, object]:
        """What a request is about: ``path`` or ``digest``, ``repository``, ``offset`` and so on."""
        named = zip(request.operation.parameters, request.arguments, strict=False)
        return dict(self._subject(dict(named)))

    def in_flight(self) -> list[dict[str, object]]:
        """The oldest that are under way, *since* when, and for how many *seconds*.

        So many are told of as take a few milliseconds; ``len`` counts all.
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
            for request in islice(self._under_way, _SHOWN)
        ]


def _since(now: datetime, now_s: float, began: float) -> dict[str, object]:
    seconds = now_s - began
    since = now - timedelta(seconds=seconds)
    return {"since": since.isoformat(" ", "milliseconds"), "seconds": round(seconds, 6)}


def _program(process: int) -> dict[str, object]:
    """The process that asks, and its name; nothing where the kernel asks by itself."""
    if not process:
        return {}
    try:
        with open(f"/proc/{process}/comm", encoding="utf-8", errors="backslashreplace") as file:
            return {"pid": process, "program": file.read().removesuffix("\n")}
    except OSError:  # it has ended, or is of another pid namespace
        return {"pid": process}


def errno_name(number: int) -> str:
    """``ENOENT`` and the like; ``OK`` for 0."""
    return errno.errorcode.get(number, str(number)) if number else "OK"


class RequestDescriber:
    """Says it by the inodes that the kernel holds, and what handles stand for.

    Used on the event loop only, and raises nothing: what is not there is left out.
    """

    def __init__(self, inodes: InodeTable, opened: Callable[[FileHandleT], Node | None]) -> None:
        self._inodes = inodes
        self._opened = opened

    def of(self, arguments: Mapping[str, Any]) -> dict[str, object]:
        """What the handler that was called with *arguments* is asked for."""
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
    """How long the event loop was held at most by one task, in seconds."""

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

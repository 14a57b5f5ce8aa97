"""The kernel's requests as they are served: which are under way, and how long they took.

Used on the event loop only, so nothing of it takes a lock.
"""

from __future__ import annotations

import errno
import inspect
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Final

import trio

from blobfs import metrics

_LAG_S: Final = 0.001
"""Steps of the event loop that took less held nobody up, and are not measured."""

Subject = Callable[[Mapping[str, object]], Mapping[str, object]]
"""What a request is about, for people, by the arguments of its handler."""


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
    """One request; what it is about is found out only if somebody asks."""

    __slots__ = ("arguments", "began", "operation")

    def __init__(self, operation: Operation, arguments: tuple[object, ...]) -> None:
        self.operation = operation
        self.arguments = arguments
        self.began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """How long ago it began."""
        return time.perf_counter() - self.began


class Requests:
    """Those under way; *subject* says what each is about."""

    def __init__(self, subject: Subject = dict) -> None:
        self._subject = subject
        self._under_way: set[Request] = set()

    def begin(self, operation: Operation, arguments: tuple[object, ...]) -> Request:
        """A request that is under way from now on, until ``end``."""
        request = Request(operation, arguments)
        self._under_way.add(request)
        return request

    def end(self, request: Request, number: int = 0) -> None:
        """Count a request that was answered; *number* is its errno, or 0."""
        self._under_way.discard(request)
        operation = request.operation
        operation.took(time.perf_counter() - request.began)
        operation.answered[errno_name(number)](1)

    def about(self, request: Request) -> dict[str, object]:
        """What a request is about: ``path`` or ``digest``, ``repository``, ``offset`` and so on."""
        named = zip(request.operation.parameters, request.arguments, strict=False)
        return dict(self._subject(dict(named)))

    def in_flight(self) -> list[dict[str, object]]:
        """What is under way, the oldest first, *since* when, and for how many *seconds*."""
        now = datetime.now(UTC)
        return [
            {
                "operation": request.operation.name,
                **self.about(request),
                "since": (now - timedelta(seconds=request.seconds)).isoformat(" ", "milliseconds"),
                "seconds": round(request.seconds, 6),
            }
            for request in sorted(self._under_way, key=lambda request: request.began)
        ]


def errno_name(number: int) -> str:
    """``ENOENT`` and the like; ``OK`` for 0."""
    return errno.errorcode.get(number, str(number)) if number else "OK"


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

"""What a mount has done so far, for ``/.blobfs/stats.json``."""

from __future__ import annotations

import errno
import time
from collections import Counter
from typing import TypedDict

import trio


class _OperationStats(TypedDict):
    count: int
    seconds: float
    errors: dict[str, int]


class Requests:
    """Counts requests by operation and errno. Used on the event loop only."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}
        self._errors: dict[str, Counter[str]] = {}

    def record(self, operation: str, seconds: float, number: int = 0) -> None:
        """Count one request that took *seconds*; *number* is its errno, or 0."""
        self._counts[operation] += 1
        self._seconds[operation] = self._seconds.get(operation, 0.0) + seconds
        if number:
            name = errno.errorcode.get(number, str(number))
            self._errors.setdefault(operation, Counter())[name] += 1

    def snapshot(self) -> dict[str, _OperationStats]:
        """The counts by operation; *seconds* is the sum of all its requests."""
        return {
            operation: {
                "count": count,
                "seconds": round(self._seconds[operation], 6),
                "errors": dict(self._errors.get(operation, {})),
            }
            for operation, count in sorted(self._counts.items())
        }


class LongestStep(trio.abc.Instrument):
    """How long the event loop was held at most by one task, in seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.perf_counter()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.seconds = max(self.seconds, time.perf_counter() - self._began)

"""Moves long calls from the event loop to a thread.

Calls to local storage run on the event loop, because most take microseconds. A call that detects
a long operation, such as reading many files, raises ``TakesLong`` there and is repeated in
a thread. Outside an event loop, in a thread or in a program with the library, it does not raise.
"""

from __future__ import annotations

import threading
from types import TracebackType


class TakesLong(Exception):
    """The call has changed nothing and must be repeated in a thread."""


class _Waiting(threading.local):
    """Context manager that marks the calls of this thread as calls on the event loop."""

    is_waiting = False

    def __enter__(self) -> None:
        self.is_waiting = True

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.is_waiting = False


waiting = _Waiting()


def refuse_to_take_long() -> None:
    """Raise TakesLong if the call runs on the event loop."""
    if waiting.is_waiting:
        raise TakesLong

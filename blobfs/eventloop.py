"""Calls that turn out to take long while an event loop waits for them.

A call to local storage is made on the event loop, as most take microseconds. One that finds out
that it has to read many files raises ``TakesLong`` there, and is made again in a thread. Where no
event loop waits, as in a thread or a program that uses the library, nothing is raised.
"""

from __future__ import annotations

import threading
from types import TracebackType


class TakesLong(Exception):
    """The call must be made again in a thread. It has changed nothing."""


class _Waiting(threading.local):
    """The state of a thread; entered, it is an event loop that waits for a call."""

    is_waiting = False

    def __enter__(self) -> None:
        self.is_waiting = True

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.is_waiting = False


waiting = _Waiting()


def refuse_to_take_long() -> None:
    """Raise TakesLong if an event loop waits for the call that this thread makes."""
    if waiting.is_waiting:
        raise TakesLong

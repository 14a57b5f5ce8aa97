"""The circuit breaker: stops calls that keep failing, and tries again later."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from blobfs.concurrency import guard

_FAILURES: Final = 3  # in a row
_FIRST_WAIT_S: Final = 1.0
_LONGEST_WAIT_S: Final = 4.0  # a recovery is noticed within 5 s


class CircuitBreaker:
    """Admits all calls until three in a row fail, then one trial call per waiting time.

    The waiting time begins with 1 s and doubles with each failed trial, up to 4 s. *name* names
    the calls in log lines; *clock* gives seconds. Thread-safe: a lock guards the state, and calls
    are admitted and succeed without it while the breaker is closed.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._clock = clock
        self._lock = guard()
        self._failures = 0  # since the last success
        self._wait_s = _FIRST_WAIT_S
        self._in_trial = False
        self._retry_at_s: float | None = None  # not None: open

    @property
    def is_healthy(self) -> bool:
        """True unless the last call failed."""
        return self._failures == 0

    def allows_call(self) -> bool:
        """Return True to permit a call; the caller then reports ``succeeded`` or ``failed``."""
        if self._retry_at_s is None:
            return True
        with self._lock:
            now_s = self._clock()
            if self._retry_at_s is not None:
                if now_s < self._retry_at_s:
                    return False
                self._in_trial = True
                self._retry_at_s = now_s + self._wait_s
            return True

    def succeeded(self) -> bool:
        """Record a success; returns True if it closed the breaker."""
        if self._failures == 0:
            return False
        with self._lock:
            was_open = self._retry_at_s is not None
            self._failures = 0
            self._wait_s = _FIRST_WAIT_S
            self._in_trial = False
            self._retry_at_s = None
            return was_open

    def failed(self) -> bool:
        """Record a failure; returns True if it opened the breaker."""
        with self._lock:
            self._failures += 1
            if self._retry_at_s is None:
                if self._failures < _FAILURES:
                    return False
                self._retry_at_s = self._clock() + self._wait_s
                return True
            if self._in_trial:  # not for a call that began before the breaker opened
                self._in_trial = False
                self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
                self._retry_at_s = self._clock() + self._wait_s
            return False

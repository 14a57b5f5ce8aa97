"""When to leave alone what has failed, and when to try it again."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock
from typing import Final

_FAILURES: Final = 3  # in a row
_FIRST_WAIT_S: Final = 1.0
_LONGEST_WAIT_S: Final = 4.0  # what works again is noticed within 5 s


class Breaker:
    """Admits calls until some in a row fail; then one in a while, to try. Thread-safe.

    The while begins with 1 s and doubles with each failure, up to 4 s. *name* is what the calls
    are called, for a log; *clock* gives seconds.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._clock = clock
        self._lock = Lock()
        self._failures = 0  # since the last success
        self._wait_s = _FIRST_WAIT_S
        self._trying = False
        self._again_at_s: float | None = None  # not None: open

    @property
    def is_well(self) -> bool:
        """Whether the last call succeeded, if there was any."""
        return self._failures == 0

    def admits(self) -> bool:
        """Whether to make a call now; then ``succeeded`` or ``failed`` has to follow."""
        if self._again_at_s is None:
            return True
        with self._lock:
            now_s = self._clock()
            if self._again_at_s is not None:
                if now_s < self._again_at_s:
                    return False
                self._trying = True
                self._again_at_s = now_s + self._wait_s
            return True

    def succeeded(self) -> bool:
        """Note a success; whether it ends a time of failure."""
        if self._failures == 0:
            return False
        with self._lock:
            was_open = self._again_at_s is not None
            self._failures = 0
            self._wait_s = _FIRST_WAIT_S
            self._trying = False
            self._again_at_s = None
            return was_open

    def failed(self) -> bool:
        """Note a failure; whether it begins a time in which calls are not made."""
        with self._lock:
            self._failures += 1
            if self._again_at_s is None:
                if self._failures < _FAILURES:
                    return False
                self._again_at_s = self._clock() + self._wait_s
                return True
            if self._trying:  # and not a call that was made before
                self._trying = False
                self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
                self._again_at_s = self._clock() + self._wait_s
            return False

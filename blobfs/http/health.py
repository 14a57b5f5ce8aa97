"""Whether what a mount stands on answers: checks that may hang, asked so that nobody else does.

The form is that of distribution's health package: a map of what fails to the reason.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from threading import Lock, Thread
from typing import Final, Self

import trio

from blobfs.errors import BlobfsError
from blobfs.storage.registry import Registry

log = logging.getLogger(__name__)

_LOOK_S: Final = 0.01


class Check:
    """One question, asked on a thread of its own, one at a time. Thread-safe.

    *ask* raises what is wrong. An answer is good for *kept_s*; one that takes longer than
    *limit_s* is a failure for as long as it takes.
    """

    def __init__(
        self, ask: Callable[[], object], *, limit_s: float = 5.0, kept_s: float = 1.0
    ) -> None:
        self._ask = ask
        self._limit_s = limit_s
        self._kept_s = kept_s
        self._lock = Lock()
        self._asked: float | None = None  # as time.monotonic() has it; None: nothing is awaited
        self._answered: float | None = None
        self._reason = ""

    def begin(self) -> None:
        """Ask, unless the last answer is good still, or awaited."""
        now = time.monotonic()
        with self._lock:
            is_fresh = self._answered is not None and now - self._answered < self._kept_s
            if is_fresh or self._asked is not None:
                return
            self._asked = now
        try:
            Thread(target=self._run, name="blobfs-health", daemon=True).start()
        except RuntimeError as exc:  # there may be no more threads
            self._end(str(exc))

    def _run(self) -> None:
        try:
            self._ask()
        except BlobfsError as exc:
            self._end(str(exc))
        except Exception:
            log.exception("a health check: unexpected")
            self._end("unexpected, see the log")
        else:
            self._end("")

    def _end(self, reason: str) -> None:
        with self._lock:
            self._asked = None
            self._answered = time.monotonic()
            self._reason = reason

    @property
    def is_unknown(self) -> bool:
        """Whether nothing is known yet: no answer came, and the first is not late."""
        return self._answered is None and not self.failure

    @property
    def is_awaited(self) -> bool:
        """Whether an answer may still come in time."""
        asked = self._asked
        return asked is not None and time.monotonic() - asked < self._limit_s

    @property
    def failure(self) -> str:
        """Why what was asked is not well, as far as is known by now; empty if it is."""
        asked = self._asked
        waited_s = 0.0 if asked is None else time.monotonic() - asked
        return f"no answer for {waited_s:.0f} s" if waited_s >= self._limit_s else self._reason

    @property
    def age_s(self) -> float | None:
        """How long ago the last answer came."""
        answered = self._answered
        return None if answered is None else time.monotonic() - answered


class Health:
    """Several checks by name, such as ``storagedriver_s3``."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks

    @classmethod
    def of_storage(cls, registry: Registry) -> Self:
        """Whether the storage answers, under the name that a registry has for that."""
        return cls({f"storagedriver_{registry.driver_name}": Check(registry.reach)})

    async def failures(self) -> dict[str, str]:
        """What fails, and why. Waits as long as an answer may take, and never longer."""
        self._begin()
        # Looked at, not called back: an answer may come when there is no loop to call any more.
        while any(check.is_awaited for check in self._checks.values()):  # noqa: ASYNC110
            await trio.sleep(_LOOK_S)
        return self._failures()

    @property
    def is_unknown(self) -> bool:
        """Whether a check has no answer yet, for which ``report`` waits."""
        return any(check.is_unknown for check in self._checks.values())

    def report(self) -> dict[str, object]:
        """``snapshot``, which is waited for in this thread as long as nothing is known."""
        self._begin()
        while any(check.is_unknown and check.is_awaited for check in self._checks.values()):
            time.sleep(_LOOK_S)
        return self.snapshot()

    def snapshot(self) -> dict[str, object]:
        """What was answered last, without waiting; what is old by now is asked anew."""
        status = "unknown" if self.is_unknown else "ok"
        failures = self._failures()
        ages = {name: check.age_s for name, check in self._checks.items()}
        self._begin()
        return {
            "status": "failing" if failures else status,
            "failures": failures,
            "seconds_ago": {name: age and round(age, 3) for name, age in ages.items()},
        }

    def _begin(self) -> None:
        for check in self._checks.values():
            check.begin()

    def _failures(self) -> dict[str, str]:
        failures = {name: check.failure for name, check in self._checks.items()}
        return {name: reason for name, reason in failures.items() if reason}

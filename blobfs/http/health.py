"""Health checks of the storage and other services; each runs in its own thread with a deadline.

Source of the format: distribution's health package, a map from failing checks to reasons.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Final, Self

from blobfs.concurrency import guard, start_thread
from blobfs.errors import BlobfsError, Exists, StorageUnavailable
from blobfs.storage.registry import Registry

log = logging.getLogger(__name__)

POLL_S: Final = 0.01
"""Interval at which those who wait for checks look at them; a thread may end at any time."""


class Check:
    """A check that runs in its own thread, at most once at a time. Thread-safe: a lock guards it.

    *ask* raises an error if the service fails. A result is valid for *kept_s*. A run that takes
    longer than *limit_s* is a failure until it ends.
    """

    def __init__(
        self, ask: Callable[[], object], *, limit_s: float = 5.0, kept_s: float = 1.0
    ) -> None:
        self._ask = ask
        self._limit_s = limit_s
        self._kept_s = kept_s
        self._lock = guard()
        self._started: float | None = None  # monotonic; None if no check is running
        self._ended: float | None = None
        self._reason = ""

    def begin(self) -> None:
        """Start a run, unless the last result is still valid, or a run is in progress."""
        now = time.monotonic()
        with self._lock:
            is_fresh = self._ended is not None and now - self._ended < self._kept_s
            if is_fresh or self._started is not None:
                return
            self._started = now
        try:
            start_thread("health", self._run)
        except StorageUnavailable as exc:  # no more threads are allowed
            self._end(str(exc))

    def _run(self) -> None:
        try:
            self._ask()
        except BlobfsError as exc:
            self._end(str(exc))
        except Exception:
            log.exception("a health check failed unexpectedly")
            self._end("unexpected error, see the log")
        else:
            self._end("")

    def _end(self, reason: str) -> None:
        with self._lock:
            self._started = None
            self._ended = time.monotonic()
            self._reason = reason

    @property
    def is_unknown(self) -> bool:
        """True if there is no result yet, and the first run is not late."""
        return self._ended is None and not self.failure

    @property
    def is_awaited(self) -> bool:
        """True if a run may still end in time."""
        started = self._started
        return started is not None and time.monotonic() - started < self._limit_s

    @property
    def failure(self) -> str:
        """The reason of the last failure; empty without one."""
        started = self._started
        waited_s = 0.0 if started is None else time.monotonic() - started
        return f"no answer for {waited_s:.0f} s" if waited_s >= self._limit_s else self._reason

    @property
    def age_s(self) -> float | None:
        """The age of the last result; None without one."""
        ended = self._ended
        return None if ended is None else time.monotonic() - ended


class Health:
    """Several checks by name, such as ``storagedriver_s3``. Thread-safe, as each check is."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks

    @classmethod
    def of_storage(cls, registry: Registry, files: Iterable[str] = ()) -> Self:
        """Return checks with the names that a registry gives them.

        One is of the storage. Those of *files* fail while the file exists.
        """
        checks = {file: Check(partial(_check_absent, file)) for file in files}
        return cls({f"storagedriver_{registry.driver_name}": Check(registry.reach), **checks})

    def begin(self) -> None:
        """Start the checks whose last results are outdated."""
        for check in self._checks.values():
            check.begin()

    @property
    def is_awaited(self) -> bool:
        """True if a check is running and not late."""
        return any(check.is_awaited for check in self._checks.values())

    def failures(self) -> dict[str, str]:
        """Return the failing checks with their reasons, by the last results."""
        failures = {name: check.failure for name, check in self._checks.items()}
        return {name: reason for name, reason in failures.items() if reason}

    @property
    def is_unknown(self) -> bool:
        """True if a check has no result yet; then ``report`` waits."""
        return any(check.is_unknown for check in self._checks.values())

    def report(self) -> dict[str, object]:
        """Return ``snapshot``, after a wait in this thread for the first results."""
        self.begin()
        while any(check.is_unknown and check.is_awaited for check in self._checks.values()):
            time.sleep(POLL_S)
        return self.snapshot()

    def snapshot(self) -> dict[str, object]:
        """Return the last results without a wait, and start runs for the outdated ones."""
        status = "unknown" if self.is_unknown else "ok"
        failures = self.failures()
        ages = {name: check.age_s for name, check in self._checks.items()}
        self.begin()
        return {
            "status": "failing" if failures else status,
            "failures": failures,
            "seconds_ago": {name: age and round(age, 3) for name, age in ages.items()},
        }


def _check_absent(file: str) -> None:
    if Path(file).exists():
        raise Exists("file exists")

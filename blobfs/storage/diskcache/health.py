"""Availability of a cache's directory after failures."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from blobfs.concurrency import guard
from blobfs.logs import about

log = logging.getLogger(__name__)


class Health:
    """State of a directory: usable, or unused for *retry_s* seconds after a failure.

    Each change is logged once. Thread-safe: the lock guards the changes.
    """

    def __init__(self, directory: Path, retry_s: float) -> None:
        self.failures = 0
        self.needs_repair = False  # set by a failure, reset by the repair
        self._directory = directory
        self._retry_s = retry_s
        self._lock = guard()
        self._failed_until_s: float | None = None

    def is_usable(self) -> bool:
        """True if it has not failed, or *retry_s* has passed since."""
        until_s = self._failed_until_s
        return until_s is None or time.monotonic() >= until_s

    def failed(self, exc: OSError) -> None:
        """Note a failure."""
        with self._lock:
            was_usable = self._failed_until_s is None
            self.failures += 1
            self.needs_repair = True
            self._failed_until_s = time.monotonic() + self._retry_s
        if was_usable:
            fields = about(path=self._directory, errno=exc.errno)
            log.warning(
                "the cache in %s is not used for %g s: %s",
                self._directory,
                self._retry_s,
                exc,
                extra=fields,
            )

    def worked(self) -> None:
        """Note a success."""
        with self._lock:
            had_failed = self._failed_until_s is not None
            self._failed_until_s = None
        if had_failed:
            log.info(
                "the cache in %s works again", self._directory, extra=about(path=self._directory)
            )

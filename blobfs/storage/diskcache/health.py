"""Whether a cache's directory can be used: asked before it is, told when that fails or works."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from threading import Lock

from blobfs.logs import about

log = logging.getLogger(__name__)


class Health:
    """Well, or not to be tried for *retry_s* seconds after a failure. Thread-safe.

    Each change is logged once.
    """

    def __init__(self, directory: Path, retry_s: float) -> None:
        self.failures = 0
        self.needs_repair = False  # after a failure; whoever sees to it resets it
        self._directory = directory
        self._retry_s = retry_s
        self._lock = Lock()
        self._failed_until_s: float | None = None

    def is_usable(self) -> bool:
        """Whether it is well, or ill for long enough."""
        until_s = self._failed_until_s
        return until_s is None or time.monotonic() >= until_s

    def failed(self, exc: OSError) -> None:
        """Note that it cannot be used."""
        with self._lock:
            was_well = self._failed_until_s is None
            self.failures += 1
            self.needs_repair = True
            self._failed_until_s = time.monotonic() + self._retry_s
        if was_well:
            fields = about(path=self._directory, errno=exc.errno)
            log.warning(
                "the cache in %s takes nothing more for now: %s", self._directory, exc, extra=fields
            )

    def worked(self) -> None:
        """Note that it took something."""
        with self._lock:
            had_failed = self._failed_until_s is not None
            self._failed_until_s = None
        if had_failed:
            log.info(
                "the cache in %s works again", self._directory, extra=about(path=self._directory)
            )

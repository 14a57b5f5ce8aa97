"""A thread that posts what waits for one endpoint, in order, for as long as it takes.

Source of truth of the retries: distribution's ``notifications/sinks.go``, of 2.8.
"""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Mapping
from contextlib import closing
from threading import Event, Thread
from typing import IO, Final

from blobfs.errors import StorageUnavailable
from blobfs.logs import about
from blobfs.metrics import NOTIFICATIONS, NOTIFICATIONS_PENDING
from blobfs.notifications.options import Endpoint
from blobfs.notifications.queue import EnvelopeQueue
from blobfs.notifications.sink import HttpSink

log = logging.getLogger(__name__)

_LOOK_S: Final = 1.0
"""How often to look for what another mount has put, or whether it has stopped sending."""

_AT_ONCE: Final = 64
"""Envelopes that are fetched together."""


class Sender:
    """Sends for one endpoint, as long as no other mount of the storage has locked *lock*."""

    def __init__(self, endpoint: Endpoint, queue: EnvelopeQueue, lock: IO[bytes]) -> None:
        self.endpoint = endpoint
        self._queue = queue
        self._lock = lock
        self._sink = HttpSink(endpoint)
        self._failed = 0  # in a row
        self._pending = 0
        self._is_stuck = False  # as the log has it
        self._wake = Event()
        self._end = Event()
        self._deadline_s = float("inf")
        self._thread = Thread(target=self._run, name=f"notify {endpoint.name}", daemon=True)
        NOTIFICATIONS_PENDING.watch(self, endpoint.name)

    def start(self) -> None:
        """Begin; where another mount sends, look out for its end."""
        self._thread.start()

    def stats(self) -> Mapping[str, int]:
        """What is exported, as it was at the last look: whoever asks must not wait for a disk."""
        return {"pending": self._pending}

    def count(self, kind: str) -> None:
        """Count something that became of an event."""
        NOTIFICATIONS.labels(kind, self.endpoint.name).inc()

    def wake(self) -> None:
        """Something has been put."""
        self._wake.set()

    def end(self, deadline_s: float) -> None:
        """Send what waits, but only until something fails, or until a moment of ``monotonic``."""
        self._deadline_s = deadline_s
        self._end.set()
        self._wake.set()

    def join(self) -> None:
        """Wait for the end, unless what is under way will fail, as the last post did."""
        if self._failed == 0:
            self._thread.join(max(0.0, self._deadline_s - time.monotonic()))

    def _run(self) -> None:
        with self._lock, closing(self._sink):
            while self._goes_on():
                pass

    def _goes_on(self) -> bool:
        """Send some; whether to go on, which only the mount's end can end, and no trouble."""
        try:
            goes_on = self._send_some()
        except StorageUnavailable as exc:
            if not (self._is_stuck or self._end.is_set()):
                self._log(logging.WARNING, "notifications to %s cannot be sent: %s", exc)
        except Exception:
            if not self._is_stuck:
                name = self.endpoint.name
                log.exception(
                    "notifications to %s cannot be sent", name, extra=about(endpoint=name)
                )
        else:
            self._is_stuck = False
            return goes_on
        self._is_stuck = True
        return not self._end.wait(_LOOK_S)

    def _send_some(self) -> bool:
        """Send the oldest of what waits, or wait for more; whether to go on."""
        self._wake.clear()
        self._look()
        waiting = self._queue.oldest(self.endpoint.name, _AT_ONCE) if self._is_ours() else []
        for number, body in waiting:
            if time.monotonic() > self._deadline_s or not self._posted(body):
                return False
            self._queue.remove(number)
        if not waiting and not self._end.is_set():
            self._wake.wait(_LOOK_S)
            return True
        return bool(waiting)

    def _look(self) -> None:
        """See to what came by ``put_soon``, and how much waits."""
        self._queue.flush()
        self._pending = self._queue.pending(self.endpoint.name)

    def _is_ours(self) -> bool:
        """Whether we are the one who sends, now or already; others notice our end, of any kind."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _posted(self, body: bytes) -> bool:
        """Post it until it is accepted; False if the end comes first."""
        while (trouble := self._sink.write(body)) is not None:
            self.count("Failures" if trouble.is_answer else "Errors")
            self._failing(trouble.reason)
            self._look()
            patient = self._failed >= self.endpoint.threshold
            if self._end.wait(self.endpoint.backoff_s if patient else 0):
                return False
        self.count("Successes")
        if self._failed:
            self._failed = 0
            self._log(logging.INFO, "notifications to %s are accepted again")
        return True

    def _failing(self, reason: str) -> None:
        self._failed += 1
        if self._failed == 1:
            self._log(logging.WARNING, "notifications to %s have to wait: %s", reason)

    def _log(self, level: int, line: str, *more: object) -> None:
        name = self.endpoint.name
        log.log(level, line, name, *more, extra=about(endpoint=name))

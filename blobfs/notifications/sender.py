"""The thread that posts the queued envelopes of one endpoint, in order.

Source of truth of the retries: distribution 2.8, ``notifications/sinks.go``.
"""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Mapping
from contextlib import closing
from threading import Event, Thread
from typing import IO, Final

from blobfs.concurrency import start_thread
from blobfs.errors import StorageUnavailable
from blobfs.logs import about
from blobfs.metrics import NOTIFICATIONS, NOTIFICATIONS_PENDING
from blobfs.notifications.options import Endpoint
from blobfs.notifications.queue import EnvelopeQueue
from blobfs.notifications.sink import HttpSink

log = logging.getLogger(__name__)

_POLL_S: Final = 1.0
"""Time between two looks for envelopes of another mount, and for the end of its sender."""

_AT_ONCE: Final = 64
"""Envelopes that are fetched together."""


class Sender:
    """Sends for one endpoint while it holds *lock*, so that one mount of the storage sends.

    It owns *lock*, a thread and the connection to the endpoint. Methods without ``_`` are
    thread-safe; only the thread uses the other ones.
    """

    def __init__(self, endpoint: Endpoint, queue: EnvelopeQueue, lock: IO[bytes]) -> None:
        self.endpoint = endpoint
        self._queue = queue
        self._lock = lock
        self._sink = HttpSink(endpoint)
        self._failed = 0  # in a row
        self._pending = 0
        self._is_stuck = False  # True if that is logged already
        self._wake = Event()
        self._end = Event()
        self._deadline_s = float("inf")
        self._thread: Thread | None = None
        NOTIFICATIONS_PENDING.watch(self, endpoint.name)

    def start(self) -> None:
        """Start the thread; it waits as long as another mount sends."""
        self._thread = start_thread(f"notify {self.endpoint.name}", self._run)

    def stats(self) -> Mapping[str, int]:
        """Return the exported numbers of the last look, without a wait for a disk."""
        return {"pending": self._pending}

    def count(self, kind: str) -> None:
        """Count an event, or a result of a POST, by its *kind*."""
        NOTIFICATIONS.labels(kind, self.endpoint.name).inc()

    def wake(self) -> None:
        """Make the thread look at the queue."""
        self._wake.set()

    def end(self, deadline_s: float) -> None:
        """End the thread after the rest of the queue, a failure, or the deadline (monotonic)."""
        self._deadline_s = deadline_s
        self._end.set()
        self._wake.set()

    def join(self) -> None:
        """Wait for the thread until the deadline, unless the last POST failed."""
        if self._failed == 0 and self._thread is not None:
            self._thread.join(max(0.0, self._deadline_s - time.monotonic()))

    def _run(self) -> None:
        with self._lock, closing(self._sink):
            while self._send():
                pass

    def _send(self) -> bool:
        """Send some envelopes, and log an error; False at the end of the mount."""
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
        return not self._end.wait(_POLL_S)

    def _send_some(self) -> bool:
        """Send the oldest envelopes, or wait for more; False at the end of the mount."""
        self._wake.clear()
        self._look()
        waiting = self._queue.oldest(self.endpoint.name, _AT_ONCE) if self._is_ours() else []
        for number, body in waiting:
            if time.monotonic() > self._deadline_s or not self._posted(body):
                return False
            self._queue.remove(number)
        if not waiting and not self._end.is_set():
            self._wake.wait(_POLL_S)
            return True
        return bool(waiting)

    def _look(self) -> None:
        """Write envelopes of ``put_soon``, and read the length of the queue."""
        self._queue.flush()
        self._pending = self._queue.pending(self.endpoint.name)

    def _is_ours(self) -> bool:
        """Take the lock; True if this mount sends. Any end of the mount releases the lock."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _posted(self, body: bytes) -> bool:
        """Post an envelope until it is accepted; False if the mount ends first."""
        while (failure := self._sink.write(body)) is not None:
            self.count("Failures" if failure.is_response else "Errors")
            self._count_failure(failure.reason)
            self._look()
            is_delayed = self._failed >= self.endpoint.threshold
            if self._end.wait(self.endpoint.backoff_s if is_delayed else 0):
                return False
        self.count("Successes")
        if self._failed:
            self._failed = 0
            self._log(logging.INFO, "notifications to %s are accepted again")
        return True

    def _count_failure(self, reason: str) -> None:
        self._failed += 1
        if self._failed == 1:
            self._log(logging.WARNING, "notifications to %s are delayed: %s", reason)

    def _log(self, level: int, line: str, *more: object) -> None:
        name = self.endpoint.name
        log.log(level, line, name, *more, extra=about(endpoint=name))

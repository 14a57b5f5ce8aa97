"""The listener that queues a mount's events for the notification endpoints."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import IO, Final, Self

from blobfs.digest import Digest
from blobfs.drivers.base import Closing
from blobfs.drivers.location import Location
from blobfs.errors import MountRefused, StorageUnavailable
from blobfs.notifications.envelope import EnvelopeWriter
from blobfs.notifications.options import NotificationOptions
from blobfs.notifications.queue import Addressed, EnvelopeQueue, lock_file
from blobfs.notifications.sender import Sender
from blobfs.storage.events import Action, Event

log = logging.getLogger(__name__)

_GRACE_S: Final = 2.0
"""Time to send the rest of the queue at the end of a mount."""


def queue_path(state_dir: Path, storage: str | Location) -> Path:
    """Return the path of the queue that all mounts of *storage* on this machine share."""
    return state_dir / f"notifications-{Location.of(storage).key}.db"


class Broadcaster(Closing):
    """A listener that puts events into a queue for each endpoint. Thread-safe.

    It owns the queue and the senders. Events of pushes, mounts and deletes are durable in the queue
    when ``handle`` returns, events of pulls soon after. If the queue fails, the operation succeeds,
    and the event is lost and counted.
    """

    def __init__(
        self, options: NotificationOptions, queue: EnvelopeQueue, senders: Collection[Sender]
    ) -> None:
        self._queue = queue
        self._senders = senders
        self._envelopes = EnvelopeWriter(
            options.base_url, include_references=options.include_references
        )
        self._actions = frozenset(Action) - (set() if options.pulls else {Action.PULL})
        self._losing: set[Action] = set()  # actions whose loss is logged already

    @classmethod
    def opened(cls, options: NotificationOptions, path: Path) -> Self:
        """Open the queue at *path* and start the senders; called after a fork, as it has threads.

        Raises MountRefused.
        """
        queue = EnvelopeQueue.opened(path)
        senders = []
        for endpoint in options.endpoints:
            digits = Digest.of(endpoint.name.encode()).encoded[:16]
            lock = _opened(path.with_name(f"{path.stem}-{digits}.lock"))
            senders.append(Sender(endpoint, queue, lock))
        broadcaster = cls(options, queue, senders)
        for sender in senders:
            sender.start()
        return broadcaster

    @property
    def actions(self) -> Collection[Action]:
        return self._actions

    def handle(self, event: Event) -> None:
        senders = [sender for sender in self._senders if sender.endpoint.wants(event)]
        if not senders:
            return
        body = self._envelopes.write(event)
        is_queued = self._put(event.action, [Addressed(s.endpoint.name, body) for s in senders])
        for sender in senders:
            sender.count("Events" if is_queued else "Lost")
            sender.wake()

    def _put(self, action: Action, envelopes: Sequence[Addressed]) -> bool:
        """Queue envelopes; True if that succeeded."""
        # Pulls are frequent, and may come from the event loop, which must not wait for a disk.
        put = self._queue.put_soon if action is Action.PULL else self._queue.put
        try:
            put(envelopes)
        except StorageUnavailable as exc:
            if action not in self._losing:
                log.warning("notifications are lost: %s", exc)
            self._losing.add(action)
            return False
        self._losing.discard(action)
        return True

    def close(self) -> None:
        """Stop the senders after at most _GRACE_S; the next mount sends the rest of the queue."""
        deadline_s = time.monotonic() + _GRACE_S
        for sender in self._senders:
            sender.end(deadline_s)
        for sender in self._senders:
            sender.join()
        self._queue.close()


def _opened(lock: Path) -> IO[bytes]:
    try:
        return lock_file(lock)
    except OSError as exc:
        raise MountRefused(f"cannot keep notifications in {lock}: {exc.strerror}") from None

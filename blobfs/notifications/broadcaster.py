"""What a mount does, told to every endpoint that wants to know."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import IO, Final, Self

from blobfs.digest import Digest
from blobfs.drivers.base import Closing
from blobfs.drivers.factory import is_s3, local_root
from blobfs.drivers.s3.options import S3Options
from blobfs.errors import MountRefused, StorageUnavailable
from blobfs.notifications.envelope import EnvelopeWriter
from blobfs.notifications.options import NotificationOptions
from blobfs.notifications.queue import Addressed, EnvelopeQueue, lock_file
from blobfs.notifications.sender import Sender
from blobfs.storage.events import Action, Event

log = logging.getLogger(__name__)

_GRACE_S: Final = 2.0
"""How long the end waits for endpoints that accept what they are sent."""


def queue_path(state_dir: Path, storage: str) -> Path:
    """Where all mounts of *storage* on this machine keep what is to be posted."""
    if is_s3(storage):
        bucket = S3Options.parse(storage)  # the keys may change
        storage = f"{bucket.endpoint or ''} {bucket.bucket} {bucket.root}"
    elif root := local_root(storage):
        storage = str(root.resolve())
    return state_dir / f"notifications-{Digest.of(os.fsencode(storage)).encoded[:16]}.db"


class Broadcaster(Closing):
    """A listener that puts events into a queue for each endpoint, and has them sent from there.

    What is pushed, mounted or deleted is durable in the queue when ``handle`` returns; a pull soon
    after. Where that fails, the act has succeeded all the same: the event is lost, and counted.
    """

    def __init__(
        self, options: NotificationOptions, queue: EnvelopeQueue, senders: Collection[Sender]
    ) -> None:
        self._queue = queue
        self._senders = senders
        self._envelopes = EnvelopeWriter(
            options.base_url, include_references=options.include_references
        )
        self._hears = frozenset(Action) - (set() if options.pulls else {Action.PULL})
        self._losing: set[Action] = set()  # as the log has it

    @classmethod
    def opened(cls, options: NotificationOptions, path: Path) -> Self:
        """Begin to send what waits at *path*; after a fork, as it has threads.

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
        return self._hears

    def handle(self, event: Event) -> None:
        senders = [sender for sender in self._senders if sender.endpoint.wants(event)]
        if not senders:
            return
        body = self._envelopes.write(event)
        kept = self._put(event.action, [Addressed(s.endpoint.name, body) for s in senders])
        for sender in senders:
            sender.count("Events" if kept else "Lost")
            sender.wake()

    def _put(self, action: Action, envelopes: Sequence[Addressed]) -> bool:
        """Whether that went well."""
        # Of pulls there are many, and the event loop may tell of them, which must not wait.
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
        """End; what is not accepted within a moment stays in the queue, for the next mount."""
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

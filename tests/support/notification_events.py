"""Events as a storage tells them, and a queue that cannot keep them."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from blobfs.digest import Descriptor, Digest
from blobfs.notifications.queue import EnvelopeQueue
from blobfs.reference import RepositoryName
from blobfs.storage.events import Action, Event

APP = RepositoryName("team/app")


def push(name: str, repository: RepositoryName = APP) -> Event:
    """A blob with *name* as its content was pushed."""
    content = name.encode()
    return Event(Action.PUSH, repository, Descriptor(Digest.of(content), len(content)))


def digest(name: str) -> str:
    """The digest of that blob."""
    return str(Digest.of(name.encode()))


@contextmanager
def unwritable(queue: EnvelopeQueue, *, once: bool = False) -> Iterator[None]:
    """Have nothing added to the queue, or fail *once* to add something, inside the ``with``."""
    denied = 0

    def judge(action: int, *_: object) -> int:
        nonlocal denied
        if action != sqlite3.SQLITE_INSERT or (once and denied):
            return sqlite3.SQLITE_OK
        denied += 1
        return sqlite3.SQLITE_DENY

    with queue._connection_lock:  # sqlite3 would not survive it otherwise
        queue._connection.set_authorizer(judge)
    yield
    with queue._connection_lock:
        queue._connection.set_authorizer(None)

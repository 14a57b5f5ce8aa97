"""Events as a storage tells them, and a queue that cannot keep them."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from blobfs.digest import Descriptor, Digest
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
def unwritable(path: Path, *bodies: bytes) -> Iterator[None]:
    """Have the queue at *path* refuse envelopes with these bodies, or all, inside the ``with``."""
    literals = ", ".join(f"x'{body.hex()}'" for body in bodies)
    only = f"WHEN new.body IN ({literals})" if bodies else ""
    with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
        connection.execute(
            f"CREATE TRIGGER refusal BEFORE INSERT ON envelopes {only}"
            " BEGIN SELECT raise(ABORT, 'refused'); END"
        )
        try:
            yield
        finally:
            connection.execute("DROP TRIGGER refusal")

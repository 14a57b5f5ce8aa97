"""Envelopes that wait for their endpoints, in a file that outlives the mount and the machine.

Several mounts of one storage share it, each by a connection of its own; SQLite keeps them apart.
The file lies on a disk of this machine, as its write-ahead log needs shared memory.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Lock
from typing import IO, Final, NamedTuple, Self

from blobfs.drivers.base import Closing
from blobfs.errors import MountRefused, StorageUnavailable
from blobfs.logs import about
from blobfs.metrics import NOTIFICATIONS

log = logging.getLogger(__name__)

MAX_BYTES: Final = 256 * 2**20
"""What may wait before the oldest gives way: some 200,000 events of a kilobyte."""

_AT_ONCE: Final = 500
"""Envelopes that give way together."""

_IN_MEMORY: Final = 10_000
"""Envelopes that may wait to be written."""

_BUSY_S: Final = 5.0
"""How long another mount may be at it."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS envelopes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- in the order of what they tell
    endpoint TEXT NOT NULL,  -- its name in the configuration
    body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS of_endpoint ON envelopes (endpoint, number);
"""


class Addressed(NamedTuple):
    """An envelope, and the name of the endpoint it is for."""

    endpoint: str
    body: bytes


class _Batch:
    """What is written together: all that comes while the disk is busy with what came before.

    If it cannot be written, who waits for it is told, and the next batch has what nobody waits for.
    """

    def __init__(self) -> None:
        self.envelopes: list[Addressed] = []
        self.soon: list[Addressed] = []  # those of them that came by put_soon
        self.written: Future[None] = Future()


class EnvelopeQueue(Closing):
    """The queues of all endpoints, *max_bytes* together; thread-safe.

    Raises StorageUnavailable.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, max_bytes: int) -> None:
        self._path = path
        self._connection = connection
        self._max_bytes = max_bytes
        self._lock = Lock()  # of the batch, and held for a moment only
        self._using = Lock()  # of the connection
        self._batch = _Batch()
        self._soon = 0  # envelopes by put_soon, in this batch and in the one being written
        self._is_behind = False  # as the log has it
        self._dropping: set[str] = set()  # endpoints; the same

    @classmethod
    def opened(cls, path: Path, max_bytes: int = MAX_BYTES) -> Self:
        """The queues in the file at *path*, which is made if it is missing; raises MountRefused."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)  # events name private things
            with lock_file(path.with_suffix(".lock")) as lock:
                # For a file's first journal mode, two that begin at once do not wait by themselves.
                fcntl.flock(lock, fcntl.LOCK_EX)
                connection = _connected(path)
        except OSError as exc:
            raise MountRefused(f"cannot keep notifications in {path}: {exc.strerror}") from None
        except sqlite3.Error as exc:
            raise MountRefused(f"cannot keep notifications in {path}: {exc}") from None
        return cls(path, connection, max_bytes)

    def put(self, envelopes: Sequence[Addressed]) -> None:
        """Keep what is to be posted; when this returns, it is durable.

        Threads that come while one is writing wait for the disk once, together; and fail together.
        """
        with self._lock:
            batch = self._batch
            batch.envelopes += envelopes
        with self._using:
            if not batch.written.done():
                self._write_out(batch)
        batch.written.result()

    def _write_out(self, batch: _Batch) -> None:
        """Write the batch, which is the one that threads add to until now."""
        with self._lock:
            self._batch = _Batch()
        try:
            self._write(batch.envelopes)
        except BaseException as exc:
            with self._lock:
                self._batch.envelopes[:0] = batch.soon
                self._batch.soon[:0] = batch.soon
            batch.written.set_exception(exc)
            raise
        with self._lock:
            self._soon -= len(batch.soon)
        batch.written.set_result(None)

    def put_soon(self, envelopes: Sequence[Addressed]) -> None:
        """Keep them in memory until a ``put`` or ``flush`` succeeds; never waits for a disk."""
        with self._lock:
            if self._soon >= _IN_MEMORY:
                raise StorageUnavailable("the queue of notifications: too many are to be written")
            self._soon += len(envelopes)
            self._batch.envelopes += envelopes
            self._batch.soon += envelopes

    def flush(self) -> None:
        """Write what came by ``put_soon``, or leave it for the next time."""
        if not self._batch.envelopes:
            return
        try:
            self.put(())
        except StorageUnavailable as exc:
            if not self._is_behind:
                log.warning("notifications of pulls have to wait: %s", exc)
            self._is_behind = True
        else:
            self._is_behind = False

    def _write(self, envelopes: Sequence[Addressed]) -> None:
        with self._transaction() as connection:
            dropped = self._make_room()  # first: this may be the last page of the disk
            connection.executemany(
                "INSERT INTO envelopes (endpoint, body) VALUES (?, ?)", envelopes
            )
        for endpoint, number in dropped.items():
            NOTIFICATIONS.labels("Dropped", endpoint).inc(number)
            if endpoint not in self._dropping:
                log.warning(
                    "too many notifications wait: the oldest to %s are dropped",
                    endpoint,
                    extra=about(endpoint=endpoint),
                )
        self._dropping |= dropped.keys()

    def _make_room(self) -> Counter[str]:
        dropped: Counter[str] = Counter()
        while self._used() > self._max_bytes:
            oldest = self._connection.execute(
                "DELETE FROM envelopes WHERE number IN"
                " (SELECT number FROM envelopes ORDER BY number LIMIT ?) RETURNING endpoint",
                (_AT_ONCE,),
            ).fetchall()
            if not oldest:
                break
            dropped.update(endpoint for (endpoint,) in oldest)
        return dropped

    def _used(self) -> int:
        """Bytes of the file that hold something."""
        pages, free, size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def oldest(self, endpoint: str, limit: int) -> list[tuple[int, bytes]]:
        """Up to *limit* of what waits for an endpoint, each with its number, in order."""
        with self._using, self._errors():
            return self._connection.execute(
                "SELECT number, body FROM envelopes WHERE endpoint = ? ORDER BY number LIMIT ?",
                (endpoint, limit),
            ).fetchall()

    def remove(self, number: int) -> None:
        """Remove what was accepted. A crash of the machine may bring it back."""
        with self._using, self._errors():
            # Not worth a wait for the disk: at the worst it is posted twice.
            self._connection.execute("PRAGMA synchronous = NORMAL")
            try:
                self._connection.execute("DELETE FROM envelopes WHERE number = ?", (number,))
            finally:
                self._connection.execute("PRAGMA synchronous = FULL")

    def pending(self, endpoint: str) -> int:
        """How many wait for an endpoint, told over a connection that keeps nobody waiting."""
        with self._errors(), closing(sqlite3.connect(self._path, timeout=_BUSY_S)) as connection:
            [[number]] = connection.execute(
                "SELECT count(*) FROM envelopes WHERE endpoint = ?", (endpoint,)
            )
            return int(number)

    def close(self) -> None:
        """Let go of the file; what waits stays in it."""
        self.flush()
        if self._batch.soon:
            log.warning("notifications of pulls are lost: they could not be written")
        for endpoint, _ in self._batch.soon:
            NOTIFICATIONS.labels("Lost", endpoint).inc()
        with self._using:
            self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise StorageUnavailable(f"the queue of notifications: {exc}") from None


def lock_file(path: Path) -> IO[bytes]:
    """A file to be locked, and closed; raises OSError."""
    return os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR, 0o600), "rb")


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.executescript(_SCHEMA)
    return connection

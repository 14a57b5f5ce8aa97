"""The durable queue of envelopes, in an SQLite file.

Several mounts of one storage share the file, each with its own connection; SQLite locks it. The
file must be on a local disk, because the write-ahead log needs shared memory.
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
from typing import IO, Final, NamedTuple, Self

from blobfs.concurrency import CallLock, guard
from blobfs.drivers.base import Closing
from blobfs.errors import MountRefused, StorageUnavailable
from blobfs.logs import about
from blobfs.metrics import NOTIFICATIONS

log = logging.getLogger(__name__)

MAX_BYTES: Final = 256 * 2**20
"""The default bound of the queue; it drops the oldest events above it. About 200,000 events."""

_AT_ONCE: Final = 500
"""Envelopes that are dropped together."""

_IN_MEMORY: Final = 10_000
"""The bound of envelopes in memory that are not written yet."""

_BUSY_S: Final = 5.0
"""Time to wait for the lock of another mount."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS envelopes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- in the order of events
    endpoint TEXT NOT NULL,  -- its name in the configuration
    body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS of_endpoint ON envelopes (endpoint, number);
"""


class Addressed(NamedTuple):
    """An envelope and the name of its endpoint."""

    endpoint: str
    body: bytes


class _Batch:
    """Envelopes that are written together: all that arrive while the previous batch is written.

    If the write fails, all callers of ``put`` that wait for it fail. Envelopes of ``put_soon`` go
    into the next batch.
    """

    def __init__(self) -> None:
        self.envelopes: list[Addressed] = []
        self.soon: list[Addressed] = []  # the envelopes of put_soon among them
        self.written: Future[None] = Future()


class EnvelopeQueue(Closing):
    """The queues of all endpoints, at most *max_bytes* together; raises StorageUnavailable.

    Thread-safe: ``_lock`` guards the current batch; ``_connection_lock`` serializes the calls to
    the connection, which the queue owns, and is held while SQLite waits for the disk.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, max_bytes: int) -> None:
        self._path = path
        self._connection = connection
        self._max_bytes = max_bytes
        self._lock = guard()
        self._connection_lock = CallLock()
        self._batch = _Batch()
        self._soon = 0  # envelopes of put_soon that are not written
        self._is_behind = False  # True if that is logged already
        self._dropping: set[str] = set()  # endpoints whose drops are logged already

    @classmethod
    def opened(cls, path: Path, max_bytes: int = MAX_BYTES) -> Self:
        """Open the file at *path*, and make it if it is missing; raises MountRefused."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)  # events name private repositories
            with lock_file(path.with_suffix(".lock")) as lock:
                # SQLite does not wait if two mounts set the first journal mode of a file at once.
                fcntl.flock(lock, fcntl.LOCK_EX)
                connection = _connected(path)
        except OSError as exc:
            raise MountRefused(f"cannot keep notifications in {path}: {exc.strerror}") from None
        except sqlite3.Error as exc:
            raise MountRefused(f"cannot keep notifications in {path}: {exc}") from None
        return cls(path, connection, max_bytes)

    def put(self, envelopes: Sequence[Addressed]) -> None:
        """Add envelopes; they are durable when this returns.

        Threads that arrive during a write share the next one: one wait for the disk, one failure.
        """
        with self._lock:
            batch = self._batch
            batch.envelopes += envelopes
        with self._connection_lock:
            if not batch.written.done():
                self._write_out(batch)
        batch.written.result()

    def _write_out(self, batch: _Batch) -> None:
        """Write the current batch; threads add to a new one from now on."""
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
        """Add envelopes in memory until a ``put`` or ``flush`` succeeds; never waits for a disk."""
        with self._lock:
            if self._soon >= _IN_MEMORY:
                raise StorageUnavailable(
                    "the queue of notifications: too many events wait for the disk"
                )
            self._soon += len(envelopes)
            self._batch.envelopes += envelopes
            self._batch.soon += envelopes

    def flush(self) -> None:
        """Write the envelopes of ``put_soon``; after a failure they wait for the next call."""
        if not self._batch.envelopes:
            return
        try:
            self.put(())
        except StorageUnavailable as exc:
            if not self._is_behind:
                log.warning("notifications of pulls wait in memory: %s", exc)
            self._is_behind = True
        else:
            self._is_behind = False

    def _write(self, envelopes: Sequence[Addressed]) -> None:
        with self._transaction() as connection:
            dropped = self._make_room()  # first, because the disk may be full
            connection.executemany(
                "INSERT INTO envelopes (endpoint, body) VALUES (?, ?)", envelopes
            )
        for endpoint, number in dropped.items():
            NOTIFICATIONS.labels("Dropped", endpoint).inc(number)
            if endpoint not in self._dropping:
                log.warning(
                    "the queue of notifications is full: the oldest for %s are dropped",
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
        """Return the used bytes of the file."""
        pages, free, size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def oldest(self, endpoint: str, limit: int) -> list[tuple[int, bytes]]:
        """Return up to *limit* of the oldest envelopes of an endpoint, each with its number."""
        with self._connection_lock, self._errors():
            return self._connection.execute(
                "SELECT number, body FROM envelopes WHERE endpoint = ? ORDER BY number LIMIT ?",
                (endpoint, limit),
            ).fetchall()

    def remove(self, number: int) -> None:
        """Remove an accepted envelope. A crash of the machine may restore it."""
        with self._connection_lock, self._errors():
            # No wait for the disk: at worst the envelope is posted twice.
            self._connection.execute("PRAGMA synchronous = NORMAL")
            try:
                self._connection.execute("DELETE FROM envelopes WHERE number = ?", (number,))
            finally:
                self._connection.execute("PRAGMA synchronous = FULL")

    def pending(self, endpoint: str) -> int:
        """Return the length of an endpoint's queue, by its own connection, without the lock."""
        with self._errors(), closing(sqlite3.connect(self._path, timeout=_BUSY_S)) as connection:
            [[number]] = connection.execute(
                "SELECT count(*) FROM envelopes WHERE endpoint = ?", (endpoint,)
            )
            return int(number)

    def close(self) -> None:
        """Write what is in memory, and close the file."""
        self.flush()
        if self._batch.soon:
            log.warning("notifications of pulls are lost, because they cannot be written")
        for endpoint, _ in self._batch.soon:
            NOTIFICATIONS.labels("Lost", endpoint).inc()
        with self._connection_lock:
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
    """Open a file for flock(2); the caller closes it. Raises OSError."""
    return os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR, 0o600), "rb")


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.executescript(_SCHEMA)
    return connection

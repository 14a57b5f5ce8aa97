"""SQLite files of an IndexStore: created once, then only read."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from blobfs.errors import StorageUnavailable

_ERRNOS: Final = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_PERM: errno.EACCES,
}


@contextmanager
def creating(path: Path, schema: str) -> Iterator[sqlite3.Connection]:
    """Create the database *path* with *schema*; a failure of its disk raises OSError.

    It has no journal, and nothing is durable: a file that is not complete is thrown away.
    """
    with _os_errors(path), closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.executescript(schema)
        connection.execute("BEGIN")
        yield connection
        connection.execute("COMMIT")


@contextmanager
def _os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as exc:
        number = _ERRNOS.get(getattr(exc, "sqlite_errorcode", 0) & 0xFF, errno.EIO)
        raise OSError(number, f"{os.strerror(number)} ({exc})", str(path)) from None


def opened(path: Path) -> sqlite3.Connection:
    """Open a database for reading. Only one thread at a time may use it."""
    with reading(path):
        uri = f"file:{quote(str(path))}?immutable=1"
        return sqlite3.connect(uri, uri=True, check_same_thread=False)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Translate the errors of SQLite while *path* is read: it was removed or damaged."""
    try:
        yield
    except sqlite3.Error as exc:
        raise StorageUnavailable(f"{path}: {exc}; remove it, and it is made again") from None

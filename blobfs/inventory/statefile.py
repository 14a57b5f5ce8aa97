"""SQLite files of commands: one process uses a file at a time, and a later one goes on with it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from blobfs.drivers.ownership import is_of_another
from blobfs.errors import MountRefused


def connect(
    path: Path | None, tables: str, version: int, *, cache_kib: int, name: str
) -> sqlite3.Connection:
    """Open the file at *path*, or create it with *tables*; None is a temporary file.

    It is locked until the connection is closed. *cache_kib* is the size of SQLite's page cache, and
    *name* that of the file in messages. Raises MountRefused if it cannot be used.
    """
    if path is not None and _is_of_another(path):
        raise MountRefused(f"{name} is of another user; give another file or directory")
    try:
        connection = sqlite3.connect(
            path or "", timeout=0, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as exc:
        raise MountRefused(
            f"{name}: {exc}; give a file in a directory that exists and that you may write"
        ) from None
    try:
        found = _prepare(connection, tables, version, cache_kib)
    except sqlite3.Error as exc:
        connection.close()
        is_used = exc.sqlite_errorcode == sqlite3.SQLITE_BUSY
        advice = " by another blobfs; wait until it has ended" if is_used else "; give another file"
        raise MountRefused(f"{name}: {exc}{advice}") from None
    if found != version:
        connection.close()
        raise MountRefused(f"{name} is of another version of blobfs; remove the file")
    return connection


def _is_of_another(path: Path) -> bool:
    """True if another user has made *path*, which may be a symlink, or a file with triggers."""
    try:
        return is_of_another(path.lstat(), path.parent)
    except OSError:
        return False  # SQLite makes it, or has the reason


def _prepare(connection: sqlite3.Connection, tables: str, version: int, cache_kib: int) -> int:
    """Lock the file, create the tables if it is new, and return its version."""
    for setting in (
        f"cache_size = -{cache_kib}",
        "locking_mode = EXCLUSIVE",
        "synchronous = NORMAL",
        "journal_mode = WAL",
    ):
        connection.execute(f"PRAGMA {setting}")
    [[found]] = connection.execute("PRAGMA user_version")
    if found == 0:
        connection.executescript(
            f"BEGIN IMMEDIATE; {tables} PRAGMA user_version = {version}; COMMIT"
        )
    return int(found or version)

"""The standard input and output as places of a copy."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Final

from blobfs.drivers.oserrors import os_errors

STDIN: Final = "standard input"
STDOUT: Final = "standard output"

_LARGE: Final = Path("/var/tmp")  # noqa: S108  (files there have no names)
"""The directory of large temporary files (file-hierarchy(7)); /tmp is often in memory."""

_CHUNK: Final = 2**20


def spool_directory() -> Path:
    """Return the directory in which the standard input is kept."""
    given = os.environ.get("TMPDIR")
    return Path(given or (_LARGE if _LARGE.is_dir() else tempfile.gettempdir()))


def open_stdin() -> int:
    """Return a new descriptor of a temporary file with all bytes of the standard input.

    They are read once in a process. Raises StorageFull, AccessDenied, PathNotFound,
    StorageUnavailable.
    """
    with os_errors(f"{STDIN}, kept in {spool_directory()} ($TMPDIR)"):
        return os.dup(_spooled(sys.stdin.buffer))


def write_to(output: BinaryIO, data: bytes) -> None:
    """Write all of *data*, also with PYTHONUNBUFFERED, when ``write`` is write(2)."""
    rest = memoryview(data)
    while rest:
        rest = rest[output.write(rest) :]


@lru_cache(1)
def _spooled(stream: BinaryIO) -> int:
    """Return a descriptor that stays open until the end of the process."""
    with tempfile.TemporaryFile(dir=spool_directory()) as spool:
        shutil.copyfileobj(stream, spool, _CHUNK)
        spool.flush()
        return os.dup(spool.fileno())

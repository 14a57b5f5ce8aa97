"""Tags that wait for their revisions: the rows that describe them, and the file that keeps them."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from blobfs.drivers.oserrors import os_errors
from blobfs.drivers.temporaries import owned_fd, replacing, write_all

log = logging.getLogger(__name__)


class WaitingRow(NamedTuple):
    """A tag that waits for the revision *digest*, or an entry of the history of a tag that waits.

    *before* is the revision that the tag had when it began to wait.
    """

    repository: str
    tag: str
    digest: str
    mtime_ns: int
    before: str | None = None
    is_history: bool = False


class KeptTags:
    """File with the tags that wait at the end of a mount, for the next one at the same place.

    It has a row in JSON in each line. The storage does not have it, as its user may be another one,
    and as registries and other mounts go on meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Iterator[WaitingRow]:
        """Yield the rows; those that are damaged are logged."""
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        except OSError as exc:
            log.warning("tags that waited are lost: %s: %s", self._path, exc.strerror)
            return
        for line in lines:
            row = _parsed(line)
            if row is None:
                log.warning("%s: a line is damaged: %.200r", self._path, line)
            else:
                yield row

    def write(self, rows: Sequence[WaitingRow]) -> None:
        """Replace the file, or remove it if there are no rows.

        Raises StorageFull, AccessDenied, StorageUnavailable.
        """
        with os_errors(str(self._path)):
            if not rows:
                with suppress(FileNotFoundError):
                    self._path.unlink()
                return
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            with owned_fd(os.open(self._path.parent, flags)) as directory:
                with replacing(self._path.name, directory, 0o600) as fd:
                    write_all(fd, b"".join(json.dumps(row).encode() + b"\n" for row in rows))
                os.fsync(directory)


def _parsed(line: bytes) -> WaitingRow | None:
    try:
        row = WaitingRow(*json.loads(line))
    except (ValueError, TypeError):
        return None
    return row if all(isinstance(each, str) for each in row[:3]) else None

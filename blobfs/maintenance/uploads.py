"""Checks of open uploads, and of what crashed programs have left."""

from __future__ import annotations

from collections.abc import Iterator
from sqlite3 import Connection
from typing import Final

from blobfs import paths
from blobfs.maintenance.faults import Fault, FaultKind

_UPLOADS: Final = """
SELECT repository.name, upload, max(upload_file.name = 'startedat'), max(mtime), sum(size)
FROM upload_file JOIN repository ON repository.id = repository
GROUP BY repository, upload
"""


def open_uploads(db: Connection, stale_before_ns: int, lost_before_ns: int) -> Iterator[Fault]:
    """Find uploads that nobody has written to since a time, and those that cannot be continued.

    An upload without ``startedat`` is unknown to registries, and they never remove it. One that was
    written to after *lost_before_ns* is being created or removed at the moment.
    """
    for name, upload, has_start, mtime, size in db.execute(_UPLOADS):
        place = f"{paths.repository(name)}/_uploads/{upload}"
        detail = f"{size} bytes"
        if not has_start and mtime < lost_before_ns:
            start = (f"{place}/startedat",)
            detail = f"no startedat, {detail}"
            yield Fault(FaultKind.UPLOAD_DAMAGED, place, detail, name, absent=start)
        elif mtime < stale_before_ns:
            yield Fault(FaultKind.UPLOAD_STALE, place, detail, name)

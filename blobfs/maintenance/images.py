"""The images that need a blob or a manifest."""

from __future__ import annotations

from sqlite3 import Connection
from typing import Final

_NEEDING: Final = """
WITH RECURSIVE needing (manifest, platform) AS (
    VALUES (:digest, '')
    UNION
    SELECT reference.manifest, iif(kind = 0 AND platform = '', detail, platform)
    FROM needing JOIN reference ON reference.digest = needing.manifest
    WHERE kind IN (0, 1, 2, 5)
)
SELECT DISTINCT name, tag, platform
FROM needing JOIN link ON link.target = needing.manifest
JOIN repository ON repository.id = link.repository
WHERE link.kind = 2 AND (:repository = '' OR name = :repository)
ORDER BY name, tag, platform LIMIT :limit
"""

_MAX: Final = 1000
"""Images that are named for one blob; a base image can be in very many."""


def needing(db: Connection, digest: bytes, repository: str = "") -> tuple[str, ...]:
    """Return the images that need the blob, as ``repository:tag (platform)``.

    *digest* is packed. A *repository* restricts the images to its own. An image for one platform
    has none in its text. At most 1,000 are returned.
    """
    values = {"digest": digest, "repository": repository, "limit": _MAX}
    return tuple(
        f"{name}:{tag}" + (f" ({platform})" if platform else "")
        for name, tag, platform in db.execute(_NEEDING, values)
    )

"""JSON of other programs that may be large."""

from __future__ import annotations

import json
from typing import Any, Final

_VALUES: Final = 8_000_000
"""Values of a document at the most. An empty list has 2 bytes, and takes 64 of memory."""


def bounded_json(payload: bytes) -> Any:  # noqa: ANN401  (JSON)
    """Parse JSON; raises ValueError, also if it has too many values or is nested too deeply."""
    if sum(map(payload.count, (b",", b"[", b"{"))) > _VALUES:
        raise ValueError(f"it has more than {_VALUES:,} values")
    try:
        return json.loads(payload)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None

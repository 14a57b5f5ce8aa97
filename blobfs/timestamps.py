"""Times as text in RFC 3339, in UTC, and durations as a number with a unit."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

_DURATION: Final = re.compile(r"([0-9]{1,12})([a-z])")
_UNITS_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}

_LONGEST_S: Final = 100 * 365 * 86400.0
"""The time that long ago is still a number of 64 bits in nanoseconds since the epoch."""


def format_time(moment: datetime) -> str:
    """Format a time with a time zone, to the microsecond if it is no whole second."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def format_seconds(seconds: float | None) -> str | None:
    """Format a second since the epoch; None for None, and if datetime cannot represent it."""
    if seconds is None:
        return None
    try:
        return format_time(datetime.fromtimestamp(int(seconds), UTC))
    except (ValueError, OverflowError):  # after the year 9999, which some file systems store
        return None


def parse_time(text: bytes) -> datetime | None:
    """Parse a time; None if it is invalid or datetime cannot represent it, as a leap second.

    A time without a time zone is in UTC.
    """
    try:
        moment = datetime.fromisoformat(text.decode("ascii"))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def parse_duration(text: str, units: str = "smhdw") -> float | None:
    """Parse a duration such as ``90s`` or ``8w`` to seconds; *units* are those that it may have.

    None if it is invalid, or longer than 100 years.
    """
    found = _DURATION.fullmatch(text)
    if found is None or found[2] not in units:
        return None
    seconds = float(found[1]) * _UNITS_S[found[2]]
    return seconds if seconds <= _LONGEST_S else None

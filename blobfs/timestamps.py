"""Times as text in RFC 3339, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime


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

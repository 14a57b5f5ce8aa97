"""Durations as text."""

import pytest

from blobfs.timestamps import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0.0),
        ("90s", 90.0),
        ("30m", 1800.0),
        ("12h", 43_200.0),
        ("7d", 604_800.0),
        ("8w", 4_838_400.0),
        ("36500d", 3_153_600_000.0),
    ],
)
def test_duration_is_a_number_with_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


def test_unit_that_is_not_wanted_makes_no_duration() -> None:
    assert parse_duration("8w", "smhd") is None
    assert parse_duration("8d", "smhd") == 691_200.0


@pytest.mark.parametrize(
    "text", ["", "7", "d", "-1d", "1.5h", "1y", "7 d", "7d\n", "٣d", "36501d", "9" * 400 + "s"]
)
def test_other_text_and_more_than_100_years_are_no_duration(text: str) -> None:
    assert parse_duration(text) is None

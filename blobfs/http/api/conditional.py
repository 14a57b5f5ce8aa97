"""Conditional requests and range requests.

Source of truth: RFC 9110, 13.1 and 14.2. The entity tag is the digest; there is no date. A library
for these headers would take 70 ms to import.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from starlette.datastructures import Headers

_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


def precondition(headers: Headers, etag: str) -> HTTPStatus | None:
    """Return the status that the conditions of a request require instead of content, or None."""
    wanted = headers.getlist("if-match")
    if wanted and not any(tag == "*" or tag.strip('"') == etag for tag in _tags(wanted)):
        return HTTPStatus.PRECONDITION_FAILED
    known = _tags(headers.getlist("if-none-match"))
    if any(tag == "*" or tag.removeprefix("W/").strip('"') == etag for tag in known):
        return HTTPStatus.NOT_MODIFIED
    return None


def _tags(values: list[str]) -> list[str]:
    """Return entity tags; a tag with a comma is split, and its parts match no digest."""
    return [tag.strip() for value in values for tag in value.split(",")]


def wanted_range(headers: Headers, etag: str, size: int) -> range | None:
    """Return the requested offsets; empty if the blob has none of them, None for all.

    Several ranges and invalid ones mean all: a server may ignore the header.
    """
    match = _RANGE.fullmatch(headers.get("range", ""))
    if match is None or not size or headers.get("if-range", f'"{etag}"') != f'"{etag}"':
        return None
    match match.groups():
        case "", "":
            return None
        case "", suffix:
            return range(size)[max(0, size - int(suffix)) :]
        case first, "":
            return range(size)[int(first) :]
        case first, last:
            return range(size)[int(first) : int(last) + 1]
    return None

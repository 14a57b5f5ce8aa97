"""What a request's headers say of a version it has, and of the bytes it wants.

Source of truth: RFC 9110, 13.1 and 14.2. What is served has no other version than its digest,
and no date. (No library: what reads these headers best takes 70 ms to import.)
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from starlette.datastructures import Headers

_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


def precondition(headers: Headers, etag: str) -> HTTPStatus | None:
    """The status that is all the answer to a request with conditions, if it is."""
    wanted = headers.getlist("if-match")
    if wanted and not any(tag == "*" or tag.strip('"') == etag for tag in _tags(wanted)):
        return HTTPStatus.PRECONDITION_FAILED
    known = _tags(headers.getlist("if-none-match"))
    if any(tag == "*" or tag.removeprefix("W/").strip('"') == etag for tag in known):
        return HTTPStatus.NOT_MODIFIED
    return None


def _tags(values: list[str]) -> list[str]:
    """A header's entity tags; one with a comma comes in pieces, which are nobody's."""
    return [tag.strip() for value in values for tag in value.split(",")]


def wanted_range(headers: Headers, etag: str, size: int) -> range | None:
    """The offsets a request wants; empty if there are none such, None for all of them.

    What asks for several ranges, or is none, gets all: a server may ignore it.
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

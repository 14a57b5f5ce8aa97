"""Responses of a registry: bodies, messages of errors, and failed connections."""

from __future__ import annotations

import errno
import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from urllib3 import BaseHTTPResponse, exceptions

from blobfs.errors import BlobfsError, Corrupt, MountRefused, StorageUnavailable
from blobfs.transfer.registry.deadlines import within

_READ_S: Final = 300.0
"""Time in which a body in memory, or a piece of another one, must come."""

_AT_ONCE: Final = 64 * 1024
_ERROR_SIZE: Final = 64 * 1024
_SHOWN: Final = 300  # characters of a server's message

NO_SPACE: Final = "no space left"
"""A part of the message of a registry whose storage is full."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response with its whole body; *url* is that of the request."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes


def body_of(response: BaseHTTPResponse, limit: int, host: str) -> bytes:
    """Read a body; raises Corrupt if it is too large, and StorageUnavailable."""
    body = read_from(response, limit + 1, host)
    if len(body) > limit:
        response.close()
        raise Corrupt(f"{host}: a response is larger than {limit} bytes")
    response.release_conn()
    return body


def read_from(response: BaseHTTPResponse, size: int, host: str) -> bytes:
    """Read the next *size* bytes of a body; fewer only at its end.

    Raises StorageUnavailable, with the response closed.
    """
    pieces: list[bytes] = []
    try:
        with within(_READ_S):
            while size and (piece := response.read1(min(size, _AT_ONCE))):
                pieces.append(piece)
                size -= len(piece)
    except (exceptions.HTTPError, OSError) as exc:
        response.close()
        raise failure_of(host, exc) from None
    return b"".join(pieces)


def discard(response: BaseHTTPResponse) -> None:
    """Read a short body, so that the connection can be used again."""
    try:
        body_of(response, _ERROR_SIZE, "")
    except BlobfsError:
        response.close()


def message_of(response: BaseHTTPResponse) -> str:
    """Return the code and the message of an error's body, shortened and printable."""
    try:
        body = body_of(response, _ERROR_SIZE, "")
        match json.loads(body):
            case {"errors": [{"code": str(code), **rest}, *_]}:
                message = f"{code}: {rest.get('message')}"
            case _:
                return ""
        match rest.get("detail"):
            case {"Enclosed": {"Err": errno.ENOSPC | errno.EDQUOT}}:  # distribution's, on Linux
                message += f" ({NO_SPACE})"
    except (BlobfsError, ValueError, RecursionError):
        return ""
    return "".join(c if c.isprintable() else "?" for c in message[:_SHOWN])


def number_in(text: str) -> int | None:
    """Return the size that a header has; None if it is no number, or larger than any size."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def failure_of(host: str, exc: Exception) -> BlobfsError:
    """Return the error for a failed connection; urllib3's text may contain the URL."""
    causes = [exc, exc.__cause__, exc.__context__, *exc.args]
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return MountRefused(
                f"{host}: its certificate is refused: {cause.verify_message}; give the "
                "certificate of its CA in a directory with --src-cert-dir or --dest-cert-dir"
            )
        if isinstance(cause, ssl.SSLError):
            return StorageUnavailable(f"{host}: TLS with it fails: {cause.reason}")
    match exc:
        case exceptions.NameResolutionError():
            reason = "its name cannot be resolved"
        case exceptions.NewConnectionError(__cause__=OSError(strerror=str(strerror))):
            reason = strerror
        case exceptions.TimeoutError():
            reason = "it does not respond, or too slowly"
        case _:
            reason = f"the connection failed ({type(exc).__name__})"
    return StorageUnavailable(f"{host}: {reason}")

"""An endpoint, as what takes one envelope after the other."""

from __future__ import annotations

from base64 import b64encode
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit, urlunsplit

import urllib3
from urllib3 import exceptions

from blobfs.notifications.envelope import CONTENT_TYPE, USER_AGENT
from blobfs.notifications.options import Endpoint

_AT_ONCE: Final = 64 * 1024
"""Bytes of an answer that are read together."""

_READS: Final = 4
"""How often an answer is read, each time for as long as a POST may take."""


class Trouble(NamedTuple):
    """Why an envelope was not accepted, with nothing secret; *is_answer* if that was answered."""

    reason: str
    is_answer: bool


class HttpSink:
    """Posts to an endpoint, over a connection that is kept; used by one thread."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._url, credentials = _without_credentials(endpoint.url)
        self._headers = urllib3.HTTPHeaderDict({"User-Agent": USER_AGENT} | credentials)
        for name in {name for name, _ in endpoint.headers}:
            self._headers.discard(name)
        for name, value in endpoint.headers:
            self._headers.add(name, value)
        self._headers["Content-Type"] = CONTENT_TYPE
        self._timeout = urllib3.Timeout(total=endpoint.timeout_s)
        self._pool = urllib3.PoolManager(num_pools=1, maxsize=1)

    def write(self, envelope: bytes) -> Trouble | None:
        """Post it; None once it is accepted, which is for the status to say, whatever follows.

        As distribution has it, a redirection is acceptance, and is not followed.
        """
        try:
            answer = self._pool.request(
                "POST",
                self._url,
                body=envelope,
                headers=self._headers,
                timeout=self._timeout,
                redirect=False,
                retries=False,
                preload_content=False,
            )
        except (exceptions.HTTPError, OSError) as exc:
            return Trouble(_reason(exc), is_answer=False)
        _finish(answer)
        if 200 <= answer.status < 400:
            return None
        return Trouble(f"it answered {answer.status}", is_answer=True)

    def close(self) -> None:
        """Let go of the connection."""
        self._pool.clear()


def _finish(answer: urllib3.BaseHTTPResponse) -> None:
    """Read what else there is, so that the connection can be used again; or close it."""
    try:
        for _ in range(_READS):
            if not answer.read1(_AT_ONCE, decode_content=False):
                break
    except (exceptions.HTTPError, OSError):
        answer.close()
    else:
        (answer.release_conn if answer.closed else answer.close)()


def _without_credentials(url: str) -> tuple[str, dict[str, str]]:
    """The URL to be posted to, and the header that says who does."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url, {}
    login = b":".join(unquote_to_bytes(part or "") for part in (parts.username, parts.password))
    place = parts.netloc.rpartition("@")[2]
    header = {"Authorization": f"Basic {b64encode(login).decode()}"}
    return urlunsplit(parts._replace(netloc=place)), header


def _reason(exc: Exception) -> str:
    # What urllib3 says of an error may have the URL in it.
    match exc:
        case exceptions.NewConnectionError(__cause__=OSError(strerror=str(strerror))):
            return strerror
        case exceptions.NewConnectionError():
            return "it cannot be connected to"
        case exceptions.TimeoutError():
            return "it does not answer in time"
        case exceptions.SSLError():
            return "its certificate or its TLS is refused"
    return f"the connection failed ({type(exc).__name__})"

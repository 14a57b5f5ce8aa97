"""The HTTP client for one endpoint."""

from __future__ import annotations

from base64 import b64encode
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit, urlunsplit

import urllib3
from urllib3 import exceptions

from blobfs.notifications.envelope import CONTENT_TYPE, USER_AGENT
from blobfs.notifications.options import Endpoint

_AT_ONCE: Final = 64 * 1024
"""Bytes of a response that are read together."""

_READS: Final = 4
"""Reads of a response; each may take as long as a POST."""


class Failure(NamedTuple):
    """The reason of a failed POST, without secrets; *is_response* if the endpoint responded."""

    reason: str
    is_response: bool


class HttpSink:
    """Posts to an endpoint over a persistent connection, which it owns. Used by one thread."""

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

    def write(self, envelope: bytes) -> Failure | None:
        """Post *envelope*; None if it is accepted. Only the status of the response counts.

        As in distribution, a redirection means acceptance, and is not followed.
        """
        try:
            response = self._pool.request(
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
            return Failure(_reason(exc), is_response=False)
        _finish(response)
        if 200 <= response.status < 400:
            return None
        return Failure(f"it responded with {response.status}", is_response=True)

    def close(self) -> None:
        """Close the connection."""
        self._pool.clear()


def _finish(response: urllib3.BaseHTTPResponse) -> None:
    """Read the rest of a response, so that the connection can be used again; or close it."""
    try:
        for _ in range(_READS):
            if not response.read1(_AT_ONCE, decode_content=False):
                break
    except (exceptions.HTTPError, OSError):
        response.close()
    else:
        (response.release_conn if response.closed else response.close)()


def _without_credentials(url: str) -> tuple[str, dict[str, str]]:
    """Return the URL without credentials, and the header that has them."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url, {}
    login = b":".join(unquote_to_bytes(part or "") for part in (parts.username, parts.password))
    place = parts.netloc.rpartition("@")[2]
    header = {"Authorization": f"Basic {b64encode(login).decode()}"}
    return urlunsplit(parts._replace(netloc=place)), header


def _reason(exc: Exception) -> str:
    # The text of urllib3's errors may contain the URL.
    match exc:
        case exceptions.NewConnectionError(__cause__=OSError(strerror=str(strerror))):
            return strerror
        case exceptions.NewConnectionError():
            return "it cannot be reached"
        case exceptions.TimeoutError():
            return "it does not respond in time"
        case exceptions.SSLError():
            return "its certificate or its TLS is refused"
    return f"the connection failed ({type(exc).__name__})"

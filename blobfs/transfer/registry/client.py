"""The HTTP client of one registry: retries, redirects, authorization, errors in our terms."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from threading import Event
from typing import Final, TypeVar
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3 import BaseHTTPResponse, exceptions

from blobfs.concurrency import SingleFlight
from blobfs.drivers.base import Closing
from blobfs.errors import (
    AccessDenied,
    BlobfsError,
    Corrupt,
    NameInvalid,
    NotFound,
    StorageFull,
    StorageOverloaded,
    StorageUnavailable,
    Unsupported,
)
from blobfs.notifications.envelope import USER_AGENT
from blobfs.transfer.registry.authorization import Authorization, Scope
from blobfs.transfer.registry.logins import Logins
from blobfs.transfer.registry.options import RegistryOptions, allowed_schemes, ssl_context
from blobfs.transfer.registry.pools import Pools
from blobfs.transfer.registry.responses import (
    NO_SPACE,
    Answer,
    body_of,
    discard,
    failure_of,
    message_of,
)

T = TypeVar("T")

_HOST: Final = re.compile(r"([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_HUB: Final = "registry-1.docker.io"

_ATTEMPTS: Final = 7
_FIRST_ATTEMPTS: Final = 3
"""Attempts as long as no request has succeeded: the host may be wrong."""

_FIRST_DELAY_S: Final = 0.2
_LONGEST_DELAY_S: Final = 10.0
_LONGEST_RETRY_AFTER_S: Final = 120.0
_REDIRECTS: Final = 5

_CONNECT_S: Final = 15.0
_READ_S: Final = 60.0
_BODY_SIZE: Final = 4 * 2**20
_PIECE: Final = 256 * 1024
"""Bytes of a request that are sent together, within _CONNECT_S."""

_NO_SCOPE: Final = Scope("", ())


@dataclass(frozen=True, slots=True)
class Call:
    """A request to the registry. *url* is a path, or the URL of a Location header.

    A *body* in pieces is sent once; *headers* then have its length. Statuses in *also* are returned
    as those of success are. *read_s* is the time in which the response must begin.
    """

    method: str
    url: str
    scope: Scope
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Iterable[bytes] | None = None
    also: tuple[int, ...] = ()
    attempts: int = _ATTEMPTS
    limit: int = _BODY_SIZE
    read_s: float = _READ_S


class RegistryClient(Closing):
    """The connections to one registry. Thread-safe.

    It prefers https, and uses plain HTTP only where RegistryOptions or a loopback host allow it.
    After a ``Retry-After`` all requests wait.
    """

    def __init__(self, host: str, options: RegistryOptions) -> None:
        try:
            self._schemes = allowed_schemes(_checked(host), options)
        except ValueError:  # brackets without an address of IPv6
            raise _invalid(host) from None
        self.host = host
        self._pools = Pools(ssl_context(host, options))
        self._auth = Authorization(host, Logins(host, options), self._fetch_token, options)
        self._base: str | None = None
        self._connecting: SingleFlight[str, str] = SingleFlight()
        self._not_before_s = 0.0  # monotonic
        self._closed = Event()

    def close(self) -> None:
        self._closed.set()
        self._pools.close()

    def ask(self, call: Call) -> Answer:
        """Make a request, and read the body of the response, of at most ``call.limit`` bytes.

        Raises AccessDenied, NotFound, StorageUnavailable and its kinds, StorageFull, Unsupported,
        Corrupt.
        """

        def read(response: BaseHTTPResponse, url: str) -> Answer:
            headers = {name.lower(): value for name, value in response.headers.items()}
            body = body_of(response, call.limit, self.host)
            return Answer(url, response.status, headers, body)

        return self.retrying(lambda: self._attempt(call, read), call.attempts)

    def open(self, call: Call) -> BaseHTTPResponse:
        """Make a request, and return the response, whose body the caller reads; raises as ask."""
        return self.retrying(
            lambda: self._attempt(call, lambda response, _: response), call.attempts
        )

    def resolve(self, url: str, location: str) -> str:
        """Return the URL that a header of the response from *url* names.

        A registry behind a proxy may name itself with http: it keeps the scheme that was used.
        Raises Corrupt for another scheme than https, unless plain HTTP is used already.
        """
        base = urlsplit(url)
        try:
            found = urlsplit(urljoin(url, location))
        except ValueError:
            raise Corrupt(f"{self.host}: a response leads to an invalid URL") from None
        if found.netloc == base.netloc:
            found = found._replace(scheme=base.scheme)
        if found.scheme not in {"https", base.scheme}:
            raise Corrupt(f"{self.host}: a response leads from https to {found.scheme:.20}")
        if "@" in found.netloc or not found.hostname:
            raise Corrupt(f"{self.host}: a response leads to an invalid URL")
        return found.geturl()

    def retrying(self, call: Callable[[], T], attempts: int = _ATTEMPTS) -> T:
        """Return the result of *call*; it is repeated, with delays, while it is unavailable."""
        attempt = 0
        while True:
            self._wait(self._not_before_s - time.monotonic())
            try:
                return call()
            except StorageUnavailable:
                attempt += 1
                if attempt >= (_FIRST_ATTEMPTS if self._base is None else attempts):
                    raise
            longest_s = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2 ** (attempt - 1))
            self._wait(longest_s * random.uniform(0.5, 1))

    def is_own(self, url: str) -> bool:
        """True if *url* is at the registry itself, so that it may get the authorization."""
        return url.startswith(f"{self._base}/")

    def _wait(self, delay_s: float) -> None:
        if delay_s > 0 and self._closed.wait(delay_s):
            raise StorageUnavailable(f"{self.host}: the connection is closed")

    def _attempt(self, call: Call, read: Callable[[BaseHTTPResponse, str], T]) -> T:
        url = urljoin(self._connected(), call.url)
        response = self._authorized(call, url)
        for _ in range(_REDIRECTS):
            location = response.headers.get("Location")
            if call.method not in {"GET", "HEAD"} or response.status not in {301, 302, 307, 308}:
                break
            if location is None:
                break
            discard(response)
            url = self.resolve(url, location)
            response = self._authorized(call, url)
        if 200 <= response.status < 300 or response.status in call.also:
            return read(response, url)
        raise self._error(call, response)

    def _authorized(self, call: Call, url: str) -> BaseHTTPResponse:
        """Send a request, and once more with a new authorization if the first is refused."""
        if not self.is_own(url):
            return self._send(call, url)
        header = self._auth.header(call.scope)
        response = self._send(call, url, header)
        challenges = response.headers.getlist("WWW-Authenticate")
        if response.status != 401:
            return response
        try:
            is_repeated = self._auth.learn(challenges, call.scope, header)
        except BlobfsError:
            response.close()
            raise
        if is_repeated and not isinstance(call.body, bytes | None):
            response.close()
            raise StorageUnavailable(f"{self.host}: it wants a new token")
        if is_repeated:
            discard(response)
            response = self._send(call, url, self._auth.header(call.scope))
        return response

    def _connected(self) -> str:
        """Return the base of URLs, after a first look at the registry."""
        return self._base or self._connecting.run("", self._connect)

    def _connect(self) -> str:
        host = _HUB if self.host == "docker.io" else self.host
        call = Call("GET", "/v2/", _NO_SCOPE, read_s=_READ_S)
        failure: BlobfsError | None = None
        for scheme in self._schemes:
            base = f"{scheme}://{host}"
            try:
                response = self._send(call, f"{base}/v2/")
            except StorageUnavailable as exc:
                failure = failure or exc
                continue
            if response.status in {200, 401, 403}:
                self._base = base
                challenges = response.headers.getlist("WWW-Authenticate")
                discard(response)
                if response.status == 401:
                    self._auth.note(challenges)
                return base
            error = self._error(call, response)
            if failure is None or response.status != 400:  # as a server of TLS answers plain HTTP
                failure = error
        assert failure is not None  # noqa: S101
        raise failure

    def _fetch_token(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, bytes]:
        call = Call(method, "token", _NO_SCOPE, headers, body)  # no error has the real URL
        response = self._send(call, url)
        if response.status == 429 or response.status >= 500:
            raise self._error(call, response)
        return response.status, body_of(response, _BODY_SIZE, self.host)

    def _send(self, call: Call, url: str, authorization: str | None = None) -> BaseHTTPResponse:
        """Send a request to *url*, which may be another one than that of *call*."""
        if self._closed.is_set():
            raise StorageUnavailable(f"{self.host}: the connection is closed")
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **call.headers}
        if authorization:
            headers["Authorization"] = authorization
        body = call.body
        if isinstance(body, bytes) and len(body) > _PIECE:
            headers["Content-Length"] = str(len(body))
            body = (body,)
        if body is not None and not isinstance(body, bytes):
            body = _pieces(body)
        try:
            return self._pools.of(url).request(
                call.method,
                url,
                body=body,
                headers=headers,
                timeout=urllib3.Timeout(connect=_CONNECT_S, read=call.read_s),
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
            )
        except (exceptions.HTTPError, OSError, ValueError) as exc:
            raise failure_of(self.host, exc) from None

    def _error(self, call: Call, response: BaseHTTPResponse) -> BlobfsError:
        """Return the error for a response, after its body is read."""
        status = response.status
        text = message_of(response)
        path = urlsplit(call.url).path.removeprefix("/v2/")
        line = f"{self.host}: {call.method} of {path[:200]}: {status} {text}".rstrip()
        if status in {401, 403}:
            return AccessDenied(f"{line}; {self._auth.hint(call.scope.repository)}")
        if status == 404:
            return NotFound(line)
        if status == 507 or NO_SPACE in text:
            return StorageFull(line)
        if status in {429, 503}:
            after = response.headers.get("Retry-After", "")
            if re.fullmatch("[0-9]{1,6}", after):
                delay_s = min(int(after), _LONGEST_RETRY_AFTER_S)
                self._not_before_s = time.monotonic() + delay_s
            return StorageOverloaded(line)
        if status >= 500 or status == 408:
            return StorageUnavailable(line)
        return Unsupported(line)


def _checked(host: str) -> str:
    if _HOST.fullmatch(host) is None:
        raise _invalid(host)
    return host


def _invalid(host: str) -> NameInvalid:
    return NameInvalid(f"not the host[:port] of a registry: {host[:160]!r}")


def _pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    for part in parts:
        for begin in range(0, len(part), _PIECE):
            yield part[begin : begin + _PIECE]

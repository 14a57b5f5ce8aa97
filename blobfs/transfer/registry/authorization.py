"""The Authorization header for a registry: Basic, or Bearer with the tokens of a token service.

Source of truth: distribution, ``docs/spec/auth/token.md`` and ``oauth.md``.
"""

from __future__ import annotations

import json
import re
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple
from urllib.parse import urlencode, urlsplit
from urllib.request import parse_http_list, parse_keqv_list

from blobfs.concurrency import SingleFlight, guard
from blobfs.errors import AccessDenied
from blobfs.transfer.registry.logins import Login, Logins
from blobfs.transfer.registry.options import RegistryOptions, allowed_schemes

_DEFAULT_LIFE_S: Final = 60
_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+")
_KEPT: Final = 1000
"""Tokens that are kept: one for each repository in use."""


class Scope(NamedTuple):
    """The *repository* of a request, whose login is used, and the *scopes* that it needs."""

    repository: str
    scopes: tuple[str, ...]


class _Token(NamedTuple):
    header: str
    end_s: float  # monotonic


@dataclass(frozen=True, slots=True)
class _Challenge:
    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""


Fetch = Callable[[str, str, Mapping[str, str], bytes | None], tuple[int, bytes]]
"""Makes a request of method, URL, headers and body; returns its status and body."""


class Authorization:
    """Makes the headers for one registry. Thread-safe: ``_lock`` guards the table of tokens."""

    def __init__(self, host: str, logins: Logins, fetch: Fetch, options: RegistryOptions) -> None:
        self._host = host
        self._logins = logins
        self._fetch = fetch
        self._options = options
        self._challenge: _Challenge | None = None
        self._tokens: dict[Scope, _Token] = {}
        self._lock = guard()
        self._fetching: SingleFlight[Scope, str] = SingleFlight()

    def header(self, scope: Scope) -> str | None:
        """Return the header for a request; None if none is needed, or no login is found."""
        challenge = self._challenge
        if challenge is None:
            return None
        if challenge.scheme == "basic":
            return _basic(self._logins.find(scope.repository))
        with self._lock:
            token = self._tokens.get(scope)
        if token is not None and token.end_s > time.monotonic():
            return token.header
        return self._fetching.run(scope, lambda: self._new_token(scope, challenge))

    def learn(self, challenges: Sequence[str], scope: Scope, sent: str | None) -> bool:
        """Take the challenges of a 401; True if the request may now succeed.

        *sent* is the header that was refused.
        """
        challenge = self.note(challenges)
        if challenge is None:
            return False
        if challenge.scheme == "basic":
            header = self.header(scope)
            return header is not None and header != sent
        with self._lock:
            known = self._tokens.get(scope)
        if known is None or known.header == sent:  # else another thread has got a new one
            self._fetching.run(scope, lambda: self._new_token(scope, challenge))
        return True

    def note(self, challenges: Sequence[str]) -> _Challenge | None:
        """Remember the best of *challenges*; None if there is none."""
        parsed = [found for text in challenges if (found := _parse(text))]
        if not parsed:
            return None
        found = max(parsed, key=lambda each: each.scheme == "bearer")
        self._challenge = replace(found, scope="")  # that of the one request
        return found

    def hint(self, repository: str) -> str:
        """Return a clause that says which login was used, or how to make one."""
        login = self._logins.find(repository)
        if login is not None:
            return f"the login is from {login.origin}"
        return f"no login was found; `skopeo login {self._host}` or `docker login` makes one"

    def _new_token(self, scope: Scope, challenge: _Challenge) -> str:
        began_s = time.monotonic()
        token, life_s = self._request_token(scope, challenge)
        with self._lock:
            if len(self._tokens) >= _KEPT:
                self._tokens.clear()
            self._tokens[scope] = _Token(f"Bearer {token}", began_s + 0.9 * life_s)
        return f"Bearer {token}"

    def _request_token(self, scope: Scope, challenge: _Challenge) -> tuple[str, int]:
        login = self._logins.find(scope.repository)
        self._check_realm(challenge.realm, login)
        scopes = dict.fromkeys((*scope.scopes, *challenge.scope.split()))
        parameters = [("service", challenge.service)] if challenge.service else []
        if login is not None and login.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": login.identity_token,
                "client_id": "blobfs",
                "scope": " ".join(scopes),
            }
            body = urlencode([*parameters, *form.items()]).encode()
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            status, answer = self._fetch("POST", challenge.realm, headers, body)
        else:
            query = urlencode([*parameters, *(("scope", each) for each in scopes)])
            url = f"{challenge.realm}{'&' if '?' in challenge.realm else '?'}{query}"
            basic = _basic(login)
            status, answer = self._fetch(
                "GET", url, {"Authorization": basic} if basic else {}, None
            )
        if status == 200 and (found := _token_of(answer)):
            return found
        place = urlsplit(challenge.realm).netloc.rpartition("@")[2]
        raise AccessDenied(
            f"{self._host}: the token service {place} gives no token (status {status}); "
            f"{self.hint(scope.repository)}"
        )

    def _check_realm(self, realm: str, login: Login | None) -> None:
        """Raise AccessDenied for a realm that is not asked.

        A login is sent over https only. Nor may a registry behind https lead to plain HTTP, as a
        service of this network may answer with a token of its own, which the registry would get.
        """
        parts = urlsplit(realm)
        places = [self._host] if login is None else [self._host, parts.netloc]
        if all(parts.scheme in allowed_schemes(place, self._options) for place in places):
            return
        raise AccessDenied(
            f"{self._host}: its token service is not behind https, so no login is sent to it; "
            "use --src-no-creds, or allow plain HTTP with --src-tls-verify=false (or --dest-…)"
        )


def _basic(login: Login | None) -> str | None:
    if login is None or not login.user:
        return None
    return f"Basic {b64encode(f'{login.user}:{login.password}'.encode()).decode()}"


def _parse(text: str) -> _Challenge | None:
    """Parse a ``WWW-Authenticate`` header; None for an unknown scheme."""
    scheme, _, rest = text.strip().partition(" ")
    if scheme.lower() == "basic":
        return _Challenge("basic")
    try:
        values = parse_keqv_list(parse_http_list(rest))
        if scheme.lower() != "bearer" or not urlsplit(values.get("realm", "")).hostname:
            return None
    except (ValueError, IndexError):
        return None
    return _Challenge("bearer", values["realm"], values.get("service", ""), values.get("scope", ""))


def _token_of(answer: bytes) -> tuple[str, int] | None:
    try:
        document = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    token = document.get("token") or document.get("access_token")
    if not isinstance(token, str) or _PRINTABLE.fullmatch(token) is None:
        return None
    life_s = document.get("expires_in")
    return token, life_s if isinstance(life_s, int) and 0 < life_s < 2**31 else _DEFAULT_LIFE_S

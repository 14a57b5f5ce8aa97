"""A token service whose tokens docker-registry accepts, signed with a key made for it.

Source of truth: distribution, ``docs/spec/auth/jwt.md``.
"""

from __future__ import annotations

import json
import secrets
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from tests.support.scripted_server import Request, Response, ScriptedServer
from tests.support.services import run

SERVICE = "registry of the tests"


class TokenService:
    """Issues tokens for what is asked for, to *user*, or anonymously for pulls.

    *life_s* is the time for which they are valid. A refresh token is accepted, too. Nobody may use
    the *hidden* repositories, or push to the *read_only* ones.
    """

    def __init__(self, directory: Path, user: str, password: str) -> None:
        self.life_s = 300
        self.hidden: set[str] = set()
        self.read_only: set[str] = set()
        self.refresh_token = secrets.token_hex()
        self._basic = f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"
        self._directory = directory
        self.server: ScriptedServer
        run(
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", directory / "key", "-out", directory / "certificate"),
            *("-subj", "/CN=tokens"),
        )

    @classmethod
    @contextmanager
    def serving(cls, directory: Path, user: str, password: str) -> Iterator[TokenService]:
        """Serve inside the ``with`` block; the key is in *directory*."""
        service = cls(directory, user, password)
        with ScriptedServer.serving(service.respond) as service.server:
            yield service

    @property
    def settings(self) -> dict[str, Any]:
        """The section auth of a registry's configuration."""
        return {
            "token": {
                "realm": f"{self.server.url}/token?kind=test",
                "service": SERVICE,
                "issuer": "tests",
                "rootcertbundle": str(self._directory / "certificate"),
            }
        }

    def respond(self, request: Request) -> Response:
        """Answer a request for a token."""
        asked = request.query + parse_qsl(request.body.decode())
        fields = dict(asked)
        is_known = (
            request.authorization == self._basic
            or fields.get("refresh_token") == self.refresh_token
        )
        if fields["service"] != SERVICE or (request.authorization and not is_known):
            return Response(401)
        scopes = [scope for name, value in asked if name == "scope" for scope in value.split()]
        access = [self._access(scope, with_all=is_known) for scope in scopes]
        name = "access_token" if request.method == "POST" else "token"
        document = {name: self._token(access), "expires_in": self.life_s}
        return Response(200, json.dumps(document).encode())

    def _access(self, scope: str, *, with_all: bool) -> dict[str, Any]:
        kind, name, actions = scope.split(":")
        may_push = with_all and name not in self.read_only
        granted = [action for action in actions.split(",") if may_push or action == "pull"]
        return {"type": kind, "name": name, "actions": [] if name in self.hidden else granted}

    def _token(self, access: list[dict[str, Any]]) -> str:
        certificate = b"".join((self._directory / "certificate").read_bytes().splitlines()[1:-1])
        now = int(time.time())
        header = {"typ": "JWT", "alg": "RS256", "x5c": [certificate.decode()]}
        claims = {
            "iss": "tests",
            "sub": "user",
            "aud": SERVICE,
            "exp": now + self.life_s,
            "nbf": now - 10,
            "iat": now,
            "jti": secrets.token_hex(8),
            "access": access,
        }
        signed = b".".join(_encoded(json.dumps(part).encode()) for part in (header, claims))
        file = self._directory / f"{claims['jti']}.signed"
        file.write_bytes(signed)
        signature = run("openssl", "dgst", "-sha256", "-sign", self._directory / "key", file)
        return (signed + b"." + _encoded(signature)).decode()


def _encoded(content: bytes) -> bytes:
    return urlsafe_b64encode(content).rstrip(b"=")

"""The logins that skopeo, podman and docker keep.

Source of truth: ``containers-auth.json(5)``; docker's ``config.json``, and the protocol of
docker-credential-helpers.
"""

from __future__ import annotations

import binascii
import json
import os
import re
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from blobfs.concurrency import SingleFlight
from blobfs.errors import AccessDenied, MountRefused
from blobfs.transfer.registry.options import RegistryOptions

_HELPER: Final = re.compile(r"[\w.-]+")
_HELPER_S: Final = 60.0
_IS_MISSING: Final = ("credentials not found", "no credentials server", "no credentials username")
_TOKEN_USER: Final = "<token>"  # noqa: S105  (the name of docker's user for an identity token)
_DOCKER_HUB: Final = ("docker.io", "index.docker.io", "registry-1.docker.io")
_HUB_SERVER: Final = "https://index.docker.io/v1/"


@dataclass(frozen=True, slots=True)
class Login:
    """A user with a password, or an identity token; *origin* is the file or helper it is from."""

    origin: str
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


class Logins:
    """The logins for one registry. Thread-safe: the files are read once, a helper runs once."""

    def __init__(self, host: str, options: RegistryOptions) -> None:
        self._host = host
        self._given: Login | None = None
        self._files: list[tuple[Path, dict[str, Any]]] = []
        if options.credentials is not None:
            self._given = Login("the given user and password", *options.credentials)
        elif not options.anonymous:
            self._files = [(path, found) for path in _paths(options) if (found := _read(path))]
        self._helpers: dict[tuple[str, str], Login | None] = {}
        self._asking: SingleFlight[tuple[str, str], Login | None] = SingleFlight()

    def find(self, repository: str) -> Login | None:
        """Return the login with the most specific name; raises MountRefused, AccessDenied."""
        if self._given is not None:
            return self._given
        for path, document in self._files:
            for key in _keys(self._host, repository):
                if login := self._find_in(path, document, key):
                    return login
            helper = document.get("credsStore")
            if helper and (login := self._ask(path, helper, self._host)):
                return login
        return None

    def _find_in(self, path: Path, document: dict[str, Any], key: str) -> Login | None:
        for name, helper in _mapping(document, "credHelpers").items():
            if _normalized(name) == key and (login := self._ask(path, helper, key)):
                return login
        for name, entry in _mapping(document, "auths").items():
            if _normalized(name) == key and (login := _login(path, entry)):
                return login
        return None

    def _ask(self, path: Path, helper: object, server: str) -> Login | None:
        """Return the login that a helper has for *server*; None if it has none."""
        if not isinstance(helper, str) or _HELPER.fullmatch(helper) is None:
            raise MountRefused(f"{path}: not the name of a credential helper: {helper!r:.80}")
        key = (helper, _HUB_SERVER if server in _DOCKER_HUB else server)

        def ask() -> Login | None:
            if key not in self._helpers:
                self._helpers[key] = _run_helper(path, *key)
            return self._helpers[key]

        return self._asking.run(key, ask)


def _paths(options: RegistryOptions) -> Iterator[Path]:
    """The files in which logins may be; an explicit one is the only one."""
    explicit = options.authfile or os.environ.get("REGISTRY_AUTH_FILE")
    if explicit:
        if not Path(explicit).exists():
            raise MountRefused(f"{explicit}: no such file of logins; `skopeo login` makes one")
        yield Path(explicit)
        return
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    directory = Path(runtime, "containers") if runtime else Path(f"/run/containers/{os.getuid()}")
    yield directory / "auth.json"
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    yield Path(config, "containers/auth.json")
    yield Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker", "config.json")


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise MountRefused(f"{path}: {exc.strerror}") from None
    except (ValueError, RecursionError):
        raise MountRefused(f"{path}: not JSON; `skopeo login` makes a file of logins") from None
    return document if isinstance(document, dict) else {}


def _mapping(document: dict[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _keys(host: str, repository: str) -> Iterator[str]:
    """The names of a login, the most specific one first: host/namespace/repository … host."""
    hosts = _DOCKER_HUB if host in _DOCKER_HUB else (host,)
    parts = repository.split("/") if repository else []
    for length in range(len(parts), -1, -1):
        yield from ("/".join((each, *parts[:length])) for each in hosts)


def _normalized(key: str) -> str:
    """Return the key of an entry without its scheme; docker's have one, and a path."""
    if match := re.fullmatch(r"https?://([^/]*)(/.*)?", key):
        return match[1]
    return key.rstrip("/")


def _login(path: Path, entry: object) -> Login | None:
    """Return the login of an entry; None for an empty one."""
    if not isinstance(entry, dict):
        return None
    token, auth = entry.get("identitytoken"), entry.get("auth")
    user = password = ""
    if isinstance(auth, str) and auth:
        try:
            user, colon, password = b64decode(auth, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            colon = ""
        if not colon:
            raise MountRefused(f"{path}: an entry of auths is damaged; log in again")
    identity_token = token if isinstance(token, str) else ""
    if not user and not identity_token:
        return None
    return Login(str(path), user, password.rstrip("\0"), identity_token)


def _run_helper(path: Path, helper: str, server: str) -> Login | None:
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(  # noqa: S603  (a checked name of a file that the user owns)
            [program, "get"],
            check=False,
            input=server.encode(),
            capture_output=True,
            timeout=_HELPER_S,
        )
    except OSError:
        raise MountRefused(
            f"{path}: {program} cannot be run; install it, or log in again"
        ) from None
    except subprocess.TimeoutExpired:
        raise AccessDenied(f"{program} did not answer within {_HELPER_S:g} s") from None
    text = done.stdout.decode(errors="replace")
    if done.returncode and text.strip().lower().startswith(_IS_MISSING):
        return None
    try:
        match done.returncode, json.loads(text or "null"):
            case 0, {"Username": str(user), "Secret": str(secret)}:
                if user == _TOKEN_USER:
                    return Login(program, identity_token=secret)
                return Login(program, user, secret)
    except ValueError:
        pass
    raise AccessDenied(f"{program} gave no login for {server} (exit status {done.returncode})")

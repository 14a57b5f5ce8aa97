"""The URL of a Redis, parsed; no error and no ``repr`` shows a password in it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Self
from urllib.parse import SplitResult, parse_qsl, unquote

from blobfs.errors import MountRefused

_FORMS: Final = (
    "redis://[[user]:password@]host[:port][/database], rediss:// for TLS,"
    " unix:///path[?db=database], redis+sentinel://host[:port][,host…]/master[/database],"
    " or redis+cluster://host[:port][,host…]"
)
_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_TLS: Final = ("ssl_certfile", "ssl_keyfile")
_SENTINEL: Final = ("sentinel_username", "sentinel_password")
_URL: Final = re.compile(r"([^:/?#]+):(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)
"""Scheme, network location, path, query, fragment: RFC 3986, appendix B."""

_HOST: Final = re.compile(r"(?:\[(?P<v6>[^]\s]+)\]|(?P<name>[^]:[\s]+))(?::(?P<port>[0-9]{1,5}))?")


class Address(NamedTuple):
    """Host and port of a server."""

    host: str = "localhost"
    port: int = _PORT

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """The servers, credentials and TLS files of a Redis.

    *addresses* holds one server, the sentinels of *master*, or nodes of a cluster; *path* is
    a socket and replaces them. Without *ca_certs* the machine's certificates are used.
    """

    addresses: tuple[Address, ...] = (Address(),)
    path: str | None = None
    master: str | None = None
    is_cluster: bool = False
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    tls: bool = False
    verify_tls: bool = True
    ca_certs: tuple[str, ...] = ()
    certfile: str | None = None
    keyfile: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix://{self.path}?db={self.database}"
        scheme = "rediss" if self.tls else "redis"
        hosts = ",".join(map(str, self.addresses))
        if self.is_cluster:
            return f"{scheme}+cluster://{hosts}"
        if self.master is not None:
            return f"{scheme}+sentinel://{hosts}/{self.master}/{self.database}"
        return f"{scheme}://{hosts}/{self.database}"

    @property
    def secrets(self) -> list[str]:
        """The passwords, to be removed from messages."""
        return [secret for secret in (self.password, self.sentinel_password) if secret]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a URL in the form that redis-py and redis-cli take; raises MountRefused."""
        url = _split(text)
        credentials, _, hosts = url.netloc.rpartition("@")
        username, _, password = credentials.partition(":")
        servers = _servers(url, hosts)
        pairs = parse_qsl(url.query, keep_blank_values=True)
        given = dict(pairs)
        if "@" in url.query:  # it may be part of a password that contains "?"
            raise _refusal()
        database = given.pop("db", servers.database)
        options: dict[str, object] = dict(servers.options)
        if url.scheme.startswith("rediss"):
            options |= _tls(given, [value for name, value in pairs if name == "ssl_ca_certs"])
        if "master" in options:
            options |= {name: given.pop(name, None) for name in _SENTINEL}
        if given:
            raise MountRefused(f"unknown option {min(given)!r} of a {url.scheme}:// URL")
        return cls(
            database=_database(database, is_cluster="is_cluster" in options),
            username=unquote(username) or None,
            password=unquote(password) or None,
            **options,  # type: ignore[arg-type]  # the values of a mapping have one type
        )


class _Servers(NamedTuple):
    options: Mapping[str, object]
    database: str


def _refusal() -> MountRefused:
    # The URL is not shown: any part of a wrong URL may be the password.
    return MountRefused(f"the URL of the Redis cache is not {_FORMS}")


def _split(text: str) -> SplitResult:
    """Split a URL; some releases of ``urlsplit`` refuse a bracketed address after another host."""
    found = _URL.fullmatch(text)
    if found is None:
        raise _refusal()
    scheme, *rest = found.groups(default="")
    return SplitResult(scheme.lower(), *rest)


def _servers(url: SplitResult, hosts: str) -> _Servers:
    """Parse the servers; the database stays as it is written."""
    scheme, _, kind = url.scheme.partition("+")
    parts = [unquote(part) for part in url.path.strip("/").split("/")]
    if url.fragment:
        raise _refusal()
    if scheme == "unix" and not kind and url.path and not hosts:
        return _Servers({"path": unquote(url.path)}, "")
    if scheme not in {"redis", "rediss"}:
        raise _refusal()
    match kind, parts:
        case "", [database] if "," not in hosts:
            return _Servers({"addresses": _addresses(hosts, _PORT)}, database)
        case "cluster", [database]:
            return _Servers({"addresses": _addresses(hosts, _PORT), "is_cluster": True}, database)
        case "sentinel", [master, *rest] if master and len(rest) < 2:
            addresses = _addresses(hosts, _SENTINEL_PORT)
            return _Servers({"addresses": addresses, "master": master}, "".join(rest))
    raise _refusal()


def _addresses(hosts: str, port: int) -> tuple[Address, ...]:
    addresses = []
    for text in hosts.split(","):
        found = _HOST.fullmatch(text)
        number = int((found and found["port"]) or port)
        if found is None or not 0 < number < 2**16:
            raise _refusal()
        addresses.append(Address(unquote(found["v6"] or found["name"]), number))
    return tuple(addresses)


def _database(text: str, *, is_cluster: bool) -> int:
    if text and not (text.isascii() and text.isdecimal()):
        raise MountRefused("the database of a Redis cache is a number: redis://host/0")
    if is_cluster and int(text or "0"):
        raise MountRefused("a Redis cluster has only the database 0")
    return int(text or "0")


def _tls(given: dict[str, str], ca_certs: Sequence[str]) -> Mapping[str, object]:
    required = given.pop("ssl_cert_reqs", "required")
    if required not in {"required", "none"}:
        raise MountRefused(f"ssl_cert_reqs is required or none, not {required!r}")
    given.pop("ssl_ca_certs", None)
    files = {name.removeprefix("ssl_"): given.pop(name, None) for name in _TLS}
    verify = required == "required"
    return {"tls": True, "verify_tls": verify, "ca_certs": tuple(ca_certs), **files}

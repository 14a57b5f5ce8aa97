"""Where a Redis is, read from a URL; a password in it is shown to nobody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from blobfs.errors import MountRefused

_FORMS: Final = (
    "redis://[[user]:password@]host[:port][/database], rediss:// for TLS,"
    " or unix:///path[?db=database]"
)
_PORT: Final = 6379
_TLS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """A Redis server, by *host* and *port* or by the *path* of its socket, and what it asks for.

    *ca_certs*, *certfile* and *keyfile* are files, for TLS; None is what the machine trusts.
    """

    host: str = "localhost"
    port: int = _PORT
    path: str | None = None
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    verify_tls: bool = True
    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix://{self.path}?db={self.database}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis{'s' if self.tls else ''}://{host}:{self.port}/{self.database}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a URL, in the form that redis-py and redis-cli take; raises MountRefused."""
        try:
            url = urlsplit(text)
            place = _place(url)
            credentials = {
                "username": unquote(url.username or "") or None,
                "password": unquote(url.password or "") or None,
            }
        except ValueError:
            raise _refusal() from None
        given = dict(parse_qsl(url.query, keep_blank_values=True))
        if "@" in url.query:  # of a password that has a "?", perhaps
            raise _refusal()
        database = _database(url, given)
        tls = _tls(given) if url.scheme == "rediss" else {}
        if given:
            raise MountRefused(f"unknown option {min(given)!r} of a {url.scheme}:// URL")
        return cls(database=database, **place, **credentials, **tls)  # type: ignore[arg-type]  # a mapping has one type for all


def _refusal() -> MountRefused:
    # What was given is not shown: where a URL is wrong, anything may be the password.
    return MountRefused(f"the URL of the Redis cache is not {_FORMS}")


def _place(url: SplitResult) -> Mapping[str, object]:
    match url:
        case SplitResult(fragment="", scheme="redis" | "rediss") if url.hostname:
            port = _PORT if url.port is None else url.port
            return {"host": unquote(url.hostname), "port": port, "tls": url.scheme == "rediss"}
        case SplitResult(fragment="", scheme="unix", path=path) if path and not url.hostname:
            return {"path": unquote(path)}
    raise _refusal()


def _database(url: SplitResult, given: dict[str, str]) -> int:
    text = given.pop("db", "" if url.scheme == "unix" else url.path.strip("/"))
    if text and not (text.isascii() and text.isdecimal()):
        raise MountRefused("the database of a Redis cache is a number: redis://host/0")
    return int(text or "0")


def _tls(given: dict[str, str]) -> Mapping[str, object]:
    required = given.pop("ssl_cert_reqs", "required")
    if required not in {"required", "none"}:
        raise MountRefused(f"ssl_cert_reqs is required or none, not {required!r}")
    files = {name.removeprefix("ssl_"): given.pop(name, None) for name in _TLS}
    return {"verify_tls": required == "required", **files}

"""What a mount takes from a registry's own configuration file: notifications, and its cache.

Source of truth: distribution 2.8, ``configuration/configuration.go``. Whatever else the file has is
the registry's, and so are the variables that override it. ``notifications.events.pulls`` is ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

from blobfs import configfile
from blobfs.configfile import Section
from blobfs.notifications.options import Endpoint, NotificationOptions
from blobfs.storage.events import Action

_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """What was read. *cache* is what ``cache_for`` takes, perhaps with a password; or None."""

    notifications: NotificationOptions
    cache: str | None = field(repr=False)


def read_config(path: Path) -> RegistryConfig:
    """Read the file at *path*; raises MountRefused, which says what is wrong."""
    root = configfile.read(path)
    return RegistryConfig(_notifications(root), _cache(root))


def _notifications(root: Section) -> NotificationOptions:
    section = root.section("notifications")
    events = section.section("events")
    endpoints: dict[str, Endpoint] = {}
    for given in section.sections("endpoints"):
        if given.flag("disabled"):
            continue
        endpoint = _endpoint(given)
        if endpoint.name in endpoints:
            raise given.refusal("name", "is another endpoint's already")
        endpoints[endpoint.name] = endpoint
    return NotificationOptions(
        tuple(endpoints.values()),
        include_references=events.flag("includereferences"),
        pulls=events.flag("pulls"),
        base_url=_base_url(root.section("http").text("host")),
    )


def _endpoint(given: Section) -> Endpoint:
    """An endpoint, with distribution's defaults."""
    ignore = given.section("ignore")
    actions = frozenset(ignore.texts("actions"))
    if not actions <= set(Action):
        raise ignore.refusal("actions", f"can be {', '.join(Action)}")
    name = given.text("name")
    if not name:
        raise given.refusal("name", "is missing: what waits for the endpoint is kept under it")
    return Endpoint(
        name,
        _url(given),
        tuple(_headers(given.section("headers"))),
        given.seconds("timeout") or 1.0,
        given.number("threshold") or 10,
        given.seconds("backoff") or 1.0,
        frozenset(given.texts("ignoredmediatypes") + ignore.texts("mediatypes")),
        actions,
    )


def _url(given: Section) -> str:
    url = given.text("url")
    if not _is_http(url):
        raise given.refusal("url", "must be http://host[:port]/path or https://…")
    return url


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _headers(given: Section) -> Iterator[tuple[str, str]]:
    for name in given.names():
        if not _HEADER.fullmatch(name):
            raise given.refusal("", "must have headers' names")
        for value in given.texts(name):
            if not (value.isascii() and value.isprintable()):
                raise given.refusal(name, "must be a list of printable texts")
            yield name, value


def _base_url(host: str) -> str | None:
    return host if _is_http(host) else None  # a registry, too, passes over what is none


def _cache(root: Section) -> str | None:
    cache = root.section("storage").section("cache")
    match cache.text("blobdescriptor") or cache.text("layerinfo"):
        case "":
            return None
        case "inmemory":
            return "memory"
        case "redis":
            return _redis_url(root.section("redis"))
        case _:
            raise cache.refusal("blobdescriptor", "must be redis or inmemory")


def _redis_url(redis: Section) -> str:
    host, colon, port = redis.text("addr").rpartition(":")
    if not (colon and port.isascii() and port.isdecimal()):
        raise redis.refusal("addr", "must be host:port")
    password = redis.text("password")
    login = f":{quote(password, safe='')}@" if password else ""
    scheme = "rediss" if redis.section("tls").flag("enabled") else "redis"
    return f"{scheme}://{login}{host or 'localhost'}:{port}/{redis.number('db')}"

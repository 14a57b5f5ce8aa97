"""Notifications, descriptor cache and storage from a registry's configuration file.

Source of truth: distribution 2.8.3 and 3.1.1, ``configuration/configuration.go``. Other sections
are ignored, and so are the environment variables that override the file for a registry.
``notifications.events.pulls`` is our own key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

from blobfs.config import yaml_file
from blobfs.config.registry_keys import misspelt
from blobfs.config.yaml_file import Section
from blobfs.drivers.factory import is_s3, local_root
from blobfs.drivers.s3.options import S3Options
from blobfs.errors import MountRefused
from blobfs.notifications.options import Endpoint, NotificationOptions
from blobfs.storage.events import Action

_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_ADDRESS: Final = re.compile(r"(?P<host>[^][:/?#@,\s]*|\[[0-9A-Fa-f:.%]+\]):(?P<port>[0-9]{1,5})")
_LOGIN: Final = ("username", "password")


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """The settings that blobfs uses.

    *cache* is an argument of ``cache_for``, and can contain a password. *storage* is a key of the
    file and the registry's storage, a directory or ``s3://bucket/prefix``; None if the file names
    none. *misspelt* has a message for each key that is probably misspelt.
    """

    notifications: NotificationOptions
    cache: str | None = field(repr=False)
    storage: tuple[str, str] | None = None
    misspelt: tuple[str, ...] = ()


def read_config(path: Path) -> RegistryConfig:
    """Read the file at *path*; raises MountRefused."""
    root = yaml_file.read(path)
    return RegistryConfig(
        _notifications(root), _cache(root), _storage(root.section("storage")), tuple(misspelt(root))
    )


def check_storage(file: Path, config: RegistryConfig, storage: str) -> None:
    """Raise MountRefused if *config*, read from *file*, names a storage other than *storage*."""
    if config.storage is None:
        return
    key, theirs = config.storage
    root = local_root(storage)
    if is_s3(storage):
        ours = str(S3Options.parse(storage))
        is_same = ours == theirs
    else:
        ours = str(root or storage)
        is_same = root is not None and _is_same_directory(ours, theirs)
    if not is_same:
        raise MountRefused(
            f"{file}: {key} is {theirs}, and STORAGE is {ours}: give {theirs} as STORAGE, or give"
            f" --config a copy of the file without {key}, or with the path that it has on this"
            " host (a container has paths of its own)"
        )


def _is_same_directory(one: str, other: str) -> bool:
    """True if both paths lead to one directory, also through symlinks and bind mounts."""
    try:
        return os.path.realpath(one) == os.path.realpath(other) or os.path.samefile(one, other)
    except OSError:
        return False


def _storage(storage: Section) -> tuple[str, str] | None:
    directory = storage.section("filesystem").text("rootdirectory")
    if directory.startswith("/"):  # a relative path depends on the registry's working directory
        return "storage.filesystem.rootdirectory", directory
    for name in ("s3", "s3aws"):
        section = storage.section(name)
        if bucket := section.text("bucket"):
            root = section.text("rootdirectory").strip("/")
            return f"storage.{name}.bucket", f"s3://{bucket}/{root}".rstrip("/")
    return None


def _notifications(root: Section) -> NotificationOptions:
    section = root.section("notifications")
    events = section.section("events")
    endpoints: dict[str, Endpoint] = {}
    for given in section.sections("endpoints"):
        if given.flag("disabled"):
            continue
        endpoint = _endpoint(given)
        if endpoint.name in endpoints:
            raise given.refusal("name", "is used by another endpoint; choose another name")
        endpoints[endpoint.name] = endpoint
    return NotificationOptions(
        tuple(endpoints.values()),
        include_references=events.flag("includereferences"),
        pulls=events.flag("pulls"),
        base_url=_base_url(root.section("http").text("host")),
    )


def _endpoint(given: Section) -> Endpoint:
    """Read an endpoint, with distribution's defaults."""
    ignore = given.section("ignore")
    actions = frozenset(ignore.texts("actions"))
    if not actions <= set(Action):
        raise ignore.refusal("actions", f"can be {', '.join(Action)}")
    name = given.text("name")
    if not name:
        raise given.refusal("name", "is missing: the queue of the endpoint needs it")
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
            raise given.refusal("", "must have valid names of HTTP headers")
        for value in given.texts(name):
            if not (value.isascii() and value.isprintable()):
                raise given.refusal(name, "must be a list of printable texts")
            yield name, value


def _base_url(host: str) -> str | None:
    return host if _is_http(host) else None  # a registry ignores an invalid one, too


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
    """Return the URL of the Redis that distribution connects to, from the keys of 2.8 or of 3.

    As in go-redis's ``NewUniversalClient``, one address is a server, and several are nodes of
    a cluster, or sentinels if ``mastername`` is given. An address with a leading slash is a socket.
    """
    addresses = _redis_addresses(redis)
    master = redis.text("mastername")
    options = _redis_tls(redis.section("tls"))
    login = _redis_login(redis.text("username"), redis.text("password"))
    database = redis.number("db")
    if addresses[0].startswith("/"):
        if len(addresses) > 1 or master or options is not None:
            raise redis.refusal("addrs", "can be one socket only, without mastername and tls")
        return f"unix://{login}{quote(addresses[0])}?db={database}"
    scheme = "redis" if options is None else "rediss"
    given = options or []
    place = str(database)
    if master:
        scheme += "+sentinel"
        place = f"{quote(master, safe='')}/{database}"
        watchers = [(f"sentinel_{key}", redis.text(f"sentinel{key}")) for key in _LOGIN]
        given += [(name, value) for name, value in watchers if value]
    elif len(addresses) > 1:
        scheme, place = f"{scheme}+cluster", ""
    query = f"?{urlencode(given)}" if given else ""
    return f"{scheme}://{login}{','.join(addresses)}/{place}{query}"


def _redis_addresses(redis: Section) -> list[str]:
    """Read ``addrs`` of distribution 3, or ``addr`` of 2.8."""
    old, new = redis.text("addr"), redis.texts("addrs")
    if old and new and new != [old]:
        raise redis.refusal(
            "addr", "is not the server of addrs: keep addr for distribution 2.8, addrs for 3"
        )
    key, addresses = ("addrs", new) if new else ("addr", [old])
    return [_redis_address(redis, key, address) for address in addresses]


def _redis_address(redis: Section, key: str, address: str) -> str:
    if address.startswith("/"):
        return address
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 2**16:
        raise redis.refusal(key, "must be host:port")
    return f"{found['host'] or 'localhost'}:{found['port']}"


def _redis_login(username: str, password: str) -> str:
    if not (username or password):
        return ""
    return f"{quote(username, safe='')}:{quote(password, safe='')}@"


def _redis_tls(tls: Section) -> list[tuple[str, str]] | None:
    """Return the TLS options of the URL; None for a connection without TLS.

    As in distribution 3, any of the files turns TLS on, and a certificate without a key, or a key
    without a certificate, is ignored.
    """
    certificate, key, authorities = tls.text("certificate"), tls.text("key"), tls.texts("rootcas")
    if not (tls.flag("enabled") or certificate or key or authorities):
        return None
    options = [("ssl_ca_certs", path) for path in authorities]
    if certificate and key:
        options += [("ssl_certfile", certificate), ("ssl_keyfile", key)]
    return options

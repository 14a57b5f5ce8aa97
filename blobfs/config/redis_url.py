"""The URL of the Redis that a registry uses."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, urlencode

from blobfs.config.model import Redis, RedisTls
from blobfs.config.schema import Origins

_ADDRESS: Final = re.compile(r"(?P<host>[^][:/?#@,\s]*|\[[0-9A-Fa-f:.%]+\]):(?P<port>[0-9]{1,5})")


def redis_url(redis: Redis, origins: Origins) -> str:
    """Return the URL of the Redis that distribution connects to, from the keys of 2.8 or of 3.

    As in go-redis's ``NewUniversalClient``, one address is a server, and several are nodes of
    a cluster, or sentinels if ``mastername`` is given. An address with a leading slash is a socket.
    """
    addresses = _addresses(redis, origins)
    options = _tls(redis.tls)
    login = _login(redis.username, redis.password)
    if addresses[0].startswith("/"):
        if len(addresses) > 1 or redis.mastername or options is not None:
            raise origins.refusal(
                "redis.addrs", "can be one socket only, without mastername and tls"
            )
        return f"unix://{login}{quote(addresses[0])}?db={redis.db}"
    scheme = "redis" if options is None else "rediss"
    given = options or []
    place = str(redis.db)
    if redis.mastername:
        scheme += "+sentinel"
        place = f"{quote(redis.mastername, safe='')}/{redis.db}"
        watchers = {
            "sentinel_username": redis.sentinelusername,
            "sentinel_password": redis.sentinelpassword,
        }
        given += [(name, value) for name, value in watchers.items() if value]
    elif len(addresses) > 1:
        scheme, place = f"{scheme}+cluster", ""
    query = f"?{urlencode(given)}" if given else ""
    return f"{scheme}://{login}{','.join(addresses)}/{place}{query}"


def _addresses(redis: Redis, origins: Origins) -> list[str]:
    """Read ``addrs`` of distribution 3, or ``addr`` of 2.8."""
    if redis.addr and redis.addrs and redis.addrs != (redis.addr,):
        raise origins.refusal(
            "redis.addr",
            "is not the server of addrs: keep addr for distribution 2.8, addrs for 3",
        )
    key, addresses = ("addrs", redis.addrs) if redis.addrs else ("addr", (redis.addr,))
    return [_address(address, f"redis.{key}", origins) for address in addresses]


def _address(address: str, key: str, origins: Origins) -> str:
    if address.startswith("/"):
        return address
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 2**16:
        raise origins.refusal(key, "must be host:port")
    return f"{found['host'] or 'localhost'}:{found['port']}"


def _login(username: str, password: str) -> str:
    if not (username or password):
        return ""
    return f"{quote(username, safe='')}:{quote(password, safe='')}@"


def _tls(tls: RedisTls) -> list[tuple[str, str]] | None:
    """Return the TLS options of the URL; None for a connection without TLS.

    As in distribution 3, any of the files turns TLS on, and a certificate without a key, or a key
    without a certificate, is ignored.
    """
    if not (tls.enabled or tls.certificate or tls.key or tls.rootcas):
        return None
    options = [("ssl_ca_certs", path) for path in tls.rootcas]
    if tls.certificate and tls.key:
        options += [("ssl_certfile", tls.certificate), ("ssl_keyfile", tls.key)]
    return options

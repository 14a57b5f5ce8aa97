"""redis-py's clients: of one server, of the one that sentinels name, of a cluster."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

from redis import Redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry
from redis.sentinel import Sentinel

from blobfs.cache.redis.options import RedisOptions

CONNECTIONS: Final = 8  # not measured

_CERTIFICATE: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----"
)

Client = Redis | RedisCluster

_Arguments = dict[str, Any]


def client_of(options: RedisOptions, limit_s: float) -> Client:
    """A client whose packets take *limit_s* seconds at most.

    That of a cluster asks at once which node has what; raises redis-py's errors then. The others
    connect when they are used.
    """
    how = _how(options, limit_s)
    login: _Arguments = {"username": options.username, "password": options.password}
    if options.is_cluster:
        nodes = [ClusterNode(*address) for address in options.addresses]  # type: ignore[no-untyped-call]  # redis-py gives it none
        return RedisCluster(startup_nodes=nodes, **login, **how)
    database: _Arguments = {"db": options.database, "max_connections": CONNECTIONS}
    if options.master is not None:
        watchers = how | {
            "username": options.sentinel_username,
            "password": options.sentinel_password,
        }
        sentinel = Sentinel(options.addresses, sentinel_kwargs=watchers)  # type: ignore[no-untyped-call]  # nor this
        server: Redis = sentinel.master_for(options.master, **login, **database, **how)  # type: ignore[no-untyped-call]  # nor this
        return server
    if options.path is not None:
        return Redis(unix_socket_path=options.path, **login, **database, **how)
    [address] = options.addresses
    return Redis(host=address.host, port=address.port, **login, **database, **how)


def _how(options: RedisOptions, limit_s: float) -> _Arguments:
    how: _Arguments = {
        "socket_timeout": limit_s,
        "socket_connect_timeout": limit_s,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # one that every server has, and nothing is pushed to us
    }
    if options.tls:
        how |= {
            "ssl": True,
            "ssl_cert_reqs": "required" if options.verify_tls else "none",
            "ssl_check_hostname": options.verify_tls,
            "ssl_certfile": options.certfile,
            "ssl_keyfile": options.keyfile,
            **_authorities(options.ca_certs),
        }
    return how


def _authorities(paths: Sequence[str]) -> _Arguments:
    """Who signs the server's certificate: redis-py takes one file, or the text of all."""
    if len(paths) <= 1:
        return {"ssl_ca_certs": paths[0] if paths else None}
    found = [_CERTIFICATE.findall(Path(path).read_bytes()) for path in paths]
    for path, certificates in zip(paths, found, strict=True):
        if not certificates:
            raise ValueError(f"{path} has no certificate")
    return {"ssl_ca_data": b"\n".join(chain.from_iterable(found)).decode("ascii")}

"""redis-py's clients for one server, for the master that sentinels name, and for a cluster."""

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
    """Create a client whose packets take *limit_s* seconds at most.

    A cluster's client connects at once, to read the slots of the nodes, and raises redis-py's
    errors. The others connect at the first command.
    """
    common = _common_arguments(options, limit_s)
    login: _Arguments = {"username": options.username, "password": options.password}
    if options.is_cluster:
        nodes = [ClusterNode(*address) for address in options.addresses]  # type: ignore[no-untyped-call]  # redis-py has no annotations here
        return RedisCluster(startup_nodes=nodes, **login, **common)
    database: _Arguments = {"db": options.database, "max_connections": CONNECTIONS}
    if options.master is not None:
        sentinel_login = common | {
            "username": options.sentinel_username,
            "password": options.sentinel_password,
        }
        sentinel = Sentinel(options.addresses, sentinel_kwargs=sentinel_login)  # type: ignore[no-untyped-call]  # as above
        server: Redis = sentinel.master_for(options.master, **login, **database, **common)  # type: ignore[no-untyped-call]  # as above
        return server
    if options.path is not None:
        return Redis(unix_socket_path=options.path, **login, **database, **common)
    [address] = options.addresses
    return Redis(host=address.host, port=address.port, **login, **database, **common)


def _common_arguments(options: RedisOptions, limit_s: float) -> _Arguments:
    common: _Arguments = {
        "socket_timeout": limit_s,
        "socket_connect_timeout": limit_s,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # RESP2: every server has it, and it has no push messages
    }
    if options.tls:
        common |= {
            "ssl": True,
            "ssl_cert_reqs": "required" if options.verify_tls else "none",
            "ssl_check_hostname": options.verify_tls,
            "ssl_certfile": options.certfile,
            "ssl_keyfile": options.keyfile,
            **_authorities(options.ca_certs),
        }
    return common


def _authorities(paths: Sequence[str]) -> _Arguments:
    """Return the CA certificates as redis-py takes them: one file, or the text of all files."""
    if len(paths) <= 1:
        return {"ssl_ca_certs": paths[0] if paths else None}
    found = [_CERTIFICATE.findall(Path(path).read_bytes()) for path in paths]
    for path, certificates in zip(paths, found, strict=True):
        if not certificates:
            raise ValueError(f"{path} has no certificate; give a file in PEM format")
    return {"ssl_ca_data": b"\n".join(chain.from_iterable(found)).decode("ascii")}

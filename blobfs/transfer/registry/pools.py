"""Pools of connections, direct ones and those through the proxies of the environment."""

from __future__ import annotations

import logging
import ssl
from typing import Final
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3 import exceptions
from urllib3.util import make_headers

from blobfs.transfer.registry.deadlines import with_deadlines

_CONNECTIONS: Final = 300
"""Connections to one host that are kept: one for each thread of a copy, and of ``PARALLEL``."""


class Pools:
    """The pools of one registry, and of the hosts that it leads to. Thread-safe.

    ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY`` hold, as for skopeo and docker.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        if context.verify_mode == ssl.CERT_NONE:  # the user has chosen it
            urllib3.disable_warnings(exceptions.InsecureRequestWarning)
        # Its warnings have URLs, with signatures and states of uploads.
        logging.getLogger(urllib3.__name__).setLevel(logging.ERROR)
        self._direct = with_deadlines(
            urllib3.PoolManager(maxsize=_CONNECTIONS, ssl_context=context)
        )
        self._proxied = {
            scheme: _proxied(proxy, context)
            for scheme, proxy in getproxies().items()
            if scheme in {"http", "https"}
        }

    def of(self, url: str) -> urllib3.PoolManager:
        """Return the pool for a URL."""
        parts = urlsplit(url)
        pool = self._proxied.get(parts.scheme)
        if pool is None or proxy_bypass(parts.netloc):
            return self._direct
        return pool

    def close(self) -> None:
        """Close the idle connections."""
        for pool in (self._direct, *self._proxied.values()):
            pool.clear()


def _proxied(proxy: str, context: ssl.SSLContext) -> urllib3.PoolManager:
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    login, _, place = parts.netloc.rpartition("@")
    headers = make_headers(proxy_basic_auth=unquote(login)) if login else None
    return with_deadlines(
        urllib3.ProxyManager(
            f"{parts.scheme}://{place}",
            proxy_headers=headers,
            maxsize=_CONNECTIONS,
            ssl_context=context,
        )
    )

"""Deadlines of responses. urllib3 has a timeout for each read from a socket, and for nothing more.

A server that sends a byte now and then, responses with status 100, or lines after the last chunk,
would hold a thread for ever.
"""

from __future__ import annotations

import io
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from socket import socket
from typing import Any, Final, cast

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection

_DEFAULT_S: Final = 60.0


class _Deadline(threading.local):
    """The deadline of this thread's reads, on the monotonic clock."""

    end_s = math.inf


_deadline = _Deadline()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Let reads of this thread raise TimeoutError once the block has taken so long."""
    before = _deadline.end_s
    _deadline.end_s = min(before, time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.end_s = before


def with_deadlines(manager: PoolManager) -> PoolManager:
    """Let the new connections of *manager* know deadlines."""
    manager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
    return manager


class _Reader(io.RawIOBase):
    """The bytes of a socket."""

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__()
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:  # noqa: ANN401  (a buffer)
        if time.monotonic() > _deadline.end_s:
            raise TimeoutError("the response takes too long")
        return cast(int | None, cast(Any, self._raw).readinto(buffer))

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    """A response whose header must come within twice the time that the socket waits for a read."""

    def __init__(self, sock: socket, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        super().__init__(sock, *arguments, **options)
        self._read_s = sock.gettimeout() or _DEFAULT_S
        self.fp = io.BufferedReader(_Reader(self.fp.detach()))

    def begin(self) -> None:
        with within(2 * self._read_s):
            super().begin()


class _Http(HTTPConnection):
    response_class = _Response


class _Https(HTTPSConnection):
    response_class = _Response


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https

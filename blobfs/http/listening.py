"""Where a mount listens for HTTP: bound before there is a mount, so that it can be refused."""

from __future__ import annotations

import os
import re
import socket
from typing import Final

from blobfs.errors import MountRefused

_ADDRESS: Final = re.compile(r"(?:(\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[^:\[\]]*):)?([0-9]{1,5})")

_BACKLOG: Final = 64


def listening(address: str) -> socket.socket:
    """A socket that listens at ``HOST:PORT``; without a host at loopback, for this machine only.

    Raises MountRefused.
    """
    host, port = _parsed(address)
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(place, family=family, backlog=_BACKLOG)
    except UnicodeError:
        raise _no_address(address) from None
    except OSError as exc:
        said = exc.strerror if isinstance(exc, socket.gaierror) else os.strerror(exc.errno or 0)
        raise MountRefused(f"--http {address}: {said}; choose another address or port") from None


def _parsed(address: str) -> tuple[str, int]:
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match[2]) > 0xFFFF:
        raise _no_address(address)
    return (match[1] or "127.0.0.1").strip("[]"), int(match[2])


def _no_address(text: str) -> MountRefused:
    return MountRefused(f"--http {text!r} is no address; give HOST:PORT, or PORT for loopback")

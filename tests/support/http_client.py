"""What asks a server of ours over HTTP, also badly."""

import http.client
import json
import socket
from contextlib import closing
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; *media_type* is the Content-Type."""

    status: int
    media_type: str
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode()

    def json(self) -> Any:  # noqa: ANN401
        return json.loads(self.content)


def get(port: int, path: str, *, accept: str = "*/*", host: str = "127.0.0.1") -> Answer:
    """The answer to one GET, on a connection of its own."""
    with closing(http.client.HTTPConnection(host, port, timeout=20)) as connection:
        connection.request("GET", path, headers={"Accept": accept})
        response = connection.getresponse()
        return Answer(response.status, response.headers["Content-Type"], response.read())


def said_to(port: int, request: bytes) -> bytes:
    """All that comes back for *request*, which may be anything, until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request)
        received = b""
        while chunk := connection.recv(2**16):
            received += chunk
        return received

"""A real HTTP server whose answers a test writes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from typing import Self
from urllib.parse import parse_qsl, urlsplit

from tests.support.services import free_port


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for; header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> list[tuple[str, str]]:
        return parse_qsl(urlsplit(self.target).query)

    @property
    def authorization(self) -> str | None:
        return self.headers.get("authorization")


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. A Content-Length that is not that of the body is a lie that is sent.

    With *pause_s* each byte of the body comes after a pause.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    pause_s: float = 0.0


class ScriptedServer:
    """Answers what *respond* returns, or closes the connection for None; it keeps the requests."""

    def __init__(self, port: int, respond: Callable[[Request], Response | None]) -> None:
        self.address = f"127.0.0.1:{port}"
        self.url = f"http://{self.address}"
        self.respond = respond
        self.requests: list[Request] = []

    @classmethod
    @contextmanager
    def serving(cls, respond: Callable[[Request], Response | None]) -> Iterator[Self]:
        """Serve inside the ``with`` block, at a free port of loopback."""
        scripted = cls(free_port(), respond)
        server = _Server(("127.0.0.1", int(scripted.address[10:])), _handler(scripted))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield scripted
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class _Server(ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """A client that leaves is no error."""


def _handler(scripted: ScriptedServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers, body)
            scripted.requests.append(request)
            response = scripted.respond(request)
            if response is None:
                self.close_connection = True
                return
            sent = {"Content-Length": str(len(response.body))} | dict(response.headers)
            self.send_response(response.status)
            for name, value in sent.items():
                self.send_header(name, value)
            self.end_headers()
            self.close_connection = sent["Content-Length"] != str(len(response.body))
            if self.command != "HEAD":
                _send(self.wfile, response)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Be silent."""

    return Handler


def _send(stream: BufferedIOBase, response: Response) -> None:
    if not response.pause_s:
        stream.write(response.body)
        return
    for byte in response.body:
        time.sleep(response.pause_s)
        stream.write(bytes([byte]))

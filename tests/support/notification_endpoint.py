"""An endpoint for notifications: a real HTTP server that keeps what is posted to it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from tests.support.services import free_port


@dataclass(frozen=True, slots=True)
class Post:
    """What was posted; header names are in lower case."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        """The only event in the envelope."""
        [event] = json.loads(self.body)["events"]
        return dict(event)


class Receiver:
    """Answers every POST with *status*, once *answers* is set; an accepted one it keeps.

    If it never *finishes*, it is for the body of its answer that one waits.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.status = 200
        self.location: str | None = None
        self.finishes = True
        self.answers = threading.Event()
        self.answers.set()
        self.posts: list[Post] = []
        self.tries = 0

    @classmethod
    @contextmanager
    def serving(cls, port: int | None = None) -> Iterator[Self]:
        """Serve inside the ``with`` block, on a port that may have been told before."""
        receiver = cls(port or free_port())
        server = _Server(("127.0.0.1", receiver.port), _handler(receiver))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield receiver
        finally:
            receiver.answers.set()
            server.shutdown()
            thread.join()
            server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/events"

    def events(self) -> list[dict[str, Any]]:
        """What was accepted, in order."""
        return [post.event for post in self.posts]

    def told(self) -> list[tuple[str, str]]:
        """Of each event the action, and the tag or the digest that it was done to."""
        targets = ((event["action"], event["target"]) for event in self.events())
        return [(action, target.get("tag") or target["digest"]) for action, target in targets]


class _Server(ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.tries += 1
            receiver.answers.wait(60)
            headers = {name.lower(): value for name, value in self.headers.items()}
            if receiver.status < 400:
                receiver.posts.append(Post(self.path, headers, body))
            try:
                self.send_response(receiver.status)
                if receiver.location:
                    self.send_header("Location", receiver.location)
                self.send_header("Content-Length", "0" if receiver.finishes else "1")
                self.end_headers()
            except OSError:  # who posted has not waited
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler

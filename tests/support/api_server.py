"""The registry API of blobfs on a socket, and registries to compare it with."""

import http.client
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import trio
from prometheus_client import CollectorRegistry

from blobfs.fuse.requests import Requests
from blobfs.http.api.routes import ServeOptions, routes
from blobfs.http.app import application
from blobfs.http.health import Health
from blobfs.http.server import HttpServer, open_listener
from blobfs.storage.registry import Registry
from tests.support import services


@contextmanager
def serving(registry: Registry, options: ServeOptions | None = None) -> Iterator[str]:
    """Serve *registry* inside the ``with`` block, at the address that is given, as a mount does."""
    listener = open_listener("127.0.0.1:0")
    host, port = listener.getsockname()
    api = routes(registry, options or ServeOptions())
    pages = application(CollectorRegistry(), Health({}), Requests(), routes=api)
    server = HttpServer(pages, listener)
    started: Future[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = Future()

    async def serve() -> None:
        with trio.CancelScope() as scope:
            started.set_result((trio.lowlevel.current_trio_token(), scope))
            await server.run()

    thread = Thread(target=trio.run, args=(serve,))
    thread.start()
    token, scope = started.result(10)
    try:
        yield f"{host}:{port}"
    finally:
        token.run_sync_soon(scope.cancel)
        thread.join()


@contextmanager
def serving_docker_registry(
    directory: Path, storage: Mapping[str, object], **settings: object
) -> Iterator[str]:
    """A docker-registry that is not written to; its configuration and log lie in *directory*."""
    address = f"127.0.0.1:{services.free_port()}"
    maintenance = {
        "uploadpurging": {"enabled": False},
        "readonly": {"enabled": "proxy" not in settings},
    }
    config = directory / "config.yml"
    document = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {**storage, "maintenance": maintenance},
        "http": {"addr": address, "secret": "of the tests"},
        **settings,
    }
    config.write_text(json.dumps(document))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("REGISTRY_", "AWS_"))}
    command = ("docker-registry", "serve", config)
    with services.serving(command, address, "/v2/", directory / "log", environment):
        yield address


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answers to one request; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:  # noqa: ANN401
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The first error's code."""
        return str(self.json()["errors"][0]["code"])


def ask(address: str, path: str, method: str = "GET", **headers: str) -> Answer:
    """The answer to one request, on a connection of its own; ``_`` is ``-`` in a header's name.

    A body that ends before its length is told with what there is of it.
    """
    with closing(http.client.HTTPConnection(address, timeout=20)) as connection:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=named)
        response = connection.getresponse()
        try:
            body = response.read()
        except http.client.IncompleteRead as exc:
            body = exc.partial
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, body)

"""The registry API of blobfs on a socket, and registries to compare it with."""

import http.client
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry

from blobfs.fuse.activity import Activity
from blobfs.http.api.routes import ServeOptions, routes
from blobfs.http.app import application
from blobfs.http.health import Health
from blobfs.http.server import HttpServer, open_listener
from blobfs.http.workers import Workers
from blobfs.storage.registry import Registry
from tests.support import services

T = TypeVar("T")


@contextmanager
def serving(registry: Registry, options: ServeOptions | None = None) -> Iterator[str]:
    """Serve *registry* inside the ``with`` block, at the address that is given, as a mount does."""
    listener = open_listener("127.0.0.1:0")
    host, port = listener.getsockname()
    workers = Workers()
    api = routes(registry, workers, options or ServeOptions())
    pages = application(CollectorRegistry(), Health({}), RunningMount(), routes=api)
    with HttpServer(pages, listener).running(), closing(workers):
        yield f"{host}:{port}"


class RunningMount:
    """A mount whose event loop answers at once, and that does nothing."""

    def ping(self) -> Future[None]:
        return _completed(None)

    def activity(self, *, with_idle: bool) -> Future[Any]:
        return _completed(Activity(0, [], [], []))


def _completed(result: T) -> Future[T]:
    future: Future[T] = Future()
    future.set_result(result)
    return future


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

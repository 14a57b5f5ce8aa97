"""The HTTP pages about a mount: metrics, health, and requests in flight."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol, TypeVar

from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from blobfs.http.health import POLL_S, Health

T = TypeVar("T")

_MOUNT_S: Final = 5.0
"""Time for the event loop of the mount to answer."""

_PAUSES: Final = 9
"""The pause after an expensive page, in multiples of its duration: these pages use a tenth of the
time."""

_MAX_PAUSE_S: Final = 1.0


class Activity(Protocol):
    """The activity of a mount: its requests, tasks and threads."""

    def as_json(self) -> object: ...

    def as_text(self) -> str: ...


class Mount(Protocol):
    """The event loop of a mount, asked from another thread. A future may never have a result."""

    def ping(self) -> Future[None]: ...

    def activity(self, *, with_idle: bool) -> Future[Any]: ...


def application(
    metrics: Collector, health: Health, mount: Mount, *, routes: Sequence[BaseRoute] = ()
) -> Starlette:
    """Return the application: the pages of this module, and *routes*."""
    pages = Pages(metrics, health, mount)
    site = Starlette(
        routes=[
            Route("/metrics", pages.metrics),
            Route("/healthz", pages.healthz),
            Route("/readyz", pages.readyz),
            Route("/debug/tasks", pages.tasks),
            *routes,
        ],
        exception_handlers={404: _missing},
    )
    site.router.redirect_slashes = False  # a redirect would go to the client's Host header
    return site


class Pages:
    """The pages, each a method. Metrics and tasks take turns; probes do not wait for them."""

    def __init__(self, metrics: Collector, health: Health, mount: Mount) -> None:
        self._metrics = metrics
        self._health = health
        self._mount = mount
        self._turns = asyncio.Lock()  # first come, first served

    async def metrics(self, request: Request) -> Response:
        """Serve the metrics in the format that the client asks for."""
        encode, media_type = _encoder(request.headers.get("accept", ""))
        async with self._turn():
            content = encode(self._metrics)
        return Response(content, headers={"content-type": media_type})

    async def healthz(self, request: Request) -> Response:
        """Serve an empty document, which shows that the event loop of the mount runs."""
        try:
            await _asked(self._mount.ping())
        except TimeoutError:
            return JSONResponse({"mount": f"no answer for {_MOUNT_S:g} s"}, status_code=503)
        return JSONResponse({})

    async def readyz(self, request: Request) -> Response:
        """Serve the failing checks with their reasons; 503 if there are some."""
        self._health.begin()
        while self._health.is_awaited:  # noqa: ASYNC110  (a thread ends it)
            await asyncio.sleep(POLL_S)
        failures = self._health.failures()
        return JSONResponse(failures, status_code=503 if failures else 200)

    async def tasks(self, request: Request) -> Response:
        """Serve requests, tasks and threads as text or JSON; with ``?all=1`` the idle ones too."""
        with_idle = request.query_params.get("all") == "1"
        try:
            async with self._turn():
                activity: Activity = await _asked(self._mount.activity(with_idle=with_idle))
        except TimeoutError:
            text = f"the event loop of the mount does not answer for {_MOUNT_S:g} s\n"
            return PlainTextResponse(text, status_code=503)
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse(activity.as_json())
        return PlainTextResponse(activity.as_text())

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait for a turn; the next one begins after a pause."""
        await self._turns.acquire()
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            yield
        finally:
            pause_s = min(_PAUSES * (loop.time() - began), _MAX_PAUSE_S)
            loop.call_later(pause_s, self._turns.release)


async def _asked(answer: Future[T]) -> T:
    async with asyncio.timeout(_MOUNT_S):
        return await asyncio.wrap_future(answer)


async def _missing(request: Request, exc: Exception) -> Response:
    return PlainTextResponse("Not Found\n", status_code=404)


def _encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # an invalid version
        return choose_encoder("")

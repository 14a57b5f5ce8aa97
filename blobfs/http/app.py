"""The HTTP pages about a mount: metrics, health, and requests in flight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from blobfs.http.health import Health
from blobfs.http.loopshare import RateLimiter
from blobfs.http.tasks import Activity, activity, as_text


class InFlight(Protocol):
    """The requests of a mount: ``len`` counts them, ``in_flight`` describes the oldest."""

    def __len__(self) -> int: ...

    def in_flight(self) -> Iterable[Mapping[str, object]]: ...


def application(
    metrics: Collector, health: Health, requests: InFlight, *, routes: Sequence[BaseRoute] = ()
) -> Starlette:
    """Return the application: the pages of this module, and *routes*."""
    pages = Pages(metrics, health, requests)
    site = Starlette(
        routes=[
            Route("/metrics", pages.metrics),
            Route("/healthz", pages.healthz),
            Route("/readyz", pages.readyz),
            Route("/debug/tasks", pages.tasks),
            *routes,
        ],
        exception_handlers={404: pages.missing},
    )
    site.router.redirect_slashes = False  # a redirect would go to the client's Host header
    return site


class Pages:
    """The pages, each a method. They run on the event loop; probes do not wait for longer pages."""

    def __init__(self, metrics: Collector, health: Health, requests: InFlight) -> None:
        self._metrics = metrics
        self._health = health
        self._requests = requests
        self._probes = RateLimiter(0.05)
        self._others = RateLimiter(0.1)

    async def metrics(self, request: Request) -> Response:
        """Serve the metrics in the format that the client asks for."""
        encode, media_type = _encoder(request.headers.get("accept", ""))
        content = await self._others.run(encode, self._metrics)
        return Response(content, headers={"content-type": media_type})

    async def healthz(self, request: Request) -> Response:
        """Serve an empty document, which shows that the event loop runs."""
        await self._probes.turn()
        return JSONResponse({})

    async def readyz(self, request: Request) -> Response:
        """Serve the failing checks with their reasons; 503 if there are some."""
        await self._probes.turn()
        failures = await self._health.failures()
        return JSONResponse(failures, status_code=503 if failures else 200)

    async def tasks(self, request: Request) -> Response:
        """Serve requests, tasks and threads as text or JSON; with ``?all=1`` the idle ones too."""
        with_idle = request.query_params.get("all") == "1"
        what = await self._others.run(self._activity, with_idle)
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse(what)
        return PlainTextResponse(as_text(what))

    def _activity(self, with_idle: bool) -> Activity:
        requests = self._requests
        return activity(requests.in_flight(), len(requests), with_idle=with_idle)

    async def missing(self, request: Request, exc: Exception) -> Response:
        """Serve a 404."""
        await self._others.turn()
        return PlainTextResponse("Not Found\n", status_code=404)


def _encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # an invalid version
        return choose_encoder("")

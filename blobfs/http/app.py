"""What a mount tells of itself over HTTP: metrics, health, and what it is doing."""

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
from blobfs.http.tasks import Doing, as_text, doing


class InFlight(Protocol):
    """The requests of a mount: ``len`` counts them, ``in_flight`` describes the oldest."""

    def __len__(self) -> int: ...

    def in_flight(self) -> Iterable[Mapping[str, object]]: ...


def application(
    metrics: Collector, health: Health, requests: InFlight, *, routes: Sequence[BaseRoute] = ()
) -> Starlette:
    """The pages below, and *routes* beside them."""
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
    site.router.redirect_slashes = False  # to wherever the client's Host header says we are
    return site


class Pages:
    """One method a page. They run on the event loop, probes ahead of what takes longer."""

    def __init__(self, metrics: Collector, health: Health, requests: InFlight) -> None:
        self._metrics = metrics
        self._health = health
        self._requests = requests
        self._probes = RateLimiter(0.05)
        self._others = RateLimiter(0.1)

    async def metrics(self, request: Request) -> Response:
        """For Prometheus, in the form it asks for."""
        encode, media_type = _encoder(request.headers.get("accept", ""))
        content = await self._others.run(encode, self._metrics)
        return Response(content, headers={"content-type": media_type})

    async def healthz(self, request: Request) -> Response:
        """Whether the event loop answers, which this does."""
        await self._probes.turn()
        return JSONResponse({})

    async def readyz(self, request: Request) -> Response:
        """Whether the storage answers; what does not, and why."""
        await self._probes.turn()
        failures = await self._health.failures()
        return JSONResponse(failures, status_code=503 if failures else 200)

    async def tasks(self, request: Request) -> Response:
        """What is under way, and with ``?all=1`` what is idle: JSON on request, else text."""
        with_idle = request.query_params.get("all") == "1"
        what = await self._others.run(self._doing, with_idle)
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse(what)
        return PlainTextResponse(as_text(what))

    def _doing(self, with_idle: bool) -> Doing:
        requests = self._requests
        return doing(requests.in_flight(), len(requests), with_idle=with_idle)

    async def missing(self, request: Request, exc: Exception) -> Response:
        """Nothing is there."""
        await self._others.turn()
        return PlainTextResponse("Not Found\n", status_code=404)


def _encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is none
        return choose_encoder("")

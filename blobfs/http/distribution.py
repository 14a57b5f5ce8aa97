"""The registry's own HTTP API, for reading: what ``docker pull`` and its like ask for.

Source of truth: the OCI distribution specification; where it leaves room, the handlers of
distribution 2.8 (``registry/handlers``), to which ``tests/http`` compares every answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blobfs.errors import BlobfsError
from blobfs.http.answers import ErrorCode, misdirected, refusal, refused
from blobfs.http.blobs import Blobs
from blobfs.http.listing import Listing
from blobfs.http.loopshare import LoopShare
from blobfs.http.manifests import Manifests
from blobfs.http.workers import Workers
from blobfs.storage.registry import Registry

_SHARE: Final = 0.25
"""How much of the event loop requests may have to begin with: some 500 a second."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """With *redirect*, blobs are fetched from the storage itself, if it can be asked for them."""

    redirect: bool = False


def routes(registry: Registry, options: ServeOptions) -> list[BaseRoute]:
    """What is below ``/v2/``, for an application of Starlette's; it writes nothing."""
    workers = Workers()
    listing = Listing(registry, workers)
    manifests = Manifests(registry, workers)
    blobs = Blobs(registry, workers, redirect=options.redirect)
    pages = [
        Route("/", _base),
        Route("/_catalog", listing.catalog),
        Route("/{name:path}/tags/list", listing.tags),
        Route("/{name:path}/manifests/{reference}", manifests.get),
        Route("/{name:path}/blobs/uploads/{upload:path}", _no_upload),
        Route("/{name:path}/blobs/{digest}", blobs.get),
    ]
    handlers = {BlobfsError: refused, HTTPException: misdirected}
    around = [
        Middleware(_InTurn, share=LoopShare(_SHARE)),
        Middleware(_Versioned),
        Middleware(ExceptionMiddleware, handlers=handlers),
    ]
    return [Mount("/v2", routes=pages, middleware=around)]


async def _base(request: Request) -> Response:
    """``GET /v2/``, by which clients find out that this is a registry."""
    return JSONResponse({}, media_type="application/json; charset=utf-8")


async def _no_upload(request: Request) -> Response:
    return refusal(ErrorCode.BLOB_UPLOAD_UNKNOWN)


class _InTurn:
    """Lets requests begin as fast as the mount beside them allows."""

    def __init__(self, app: ASGIApp, share: LoopShare) -> None:
        self._app = app
        self._share = share

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._share.turn()
        await self._app(scope, receive, send)


class _Versioned:
    """Says in every answer which API this is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_versioned(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Docker-Distribution-Api-Version"] = "registry/2.0"
            await send(message)

        await self._app(scope, receive, send_versioned)

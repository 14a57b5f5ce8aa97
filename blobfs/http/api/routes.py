"""The routes of the registry's HTTP API for pulls.

Source of truth: the OCI distribution specification. Where it is open, the handlers of distribution
2.8 (``registry/handlers``) decide; ``tests/http`` compares every response with theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blobfs.errors import BlobfsError
from blobfs.http.api.blobs import Blobs
from blobfs.http.api.errors import (
    ErrorCode,
    error_response,
    routing_error,
    storage_error,
    unexpected_error,
)
from blobfs.http.api.listing import Listing
from blobfs.http.api.manifests import Manifests
from blobfs.http.workers import Workers
from blobfs.storage.registry import Registry

_MAX_REQUESTS: Final = 48
"""Requests at a time. Health and metrics use the rest of the server's 64 connections."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """With *redirect*, clients get blobs from the storage itself, if its driver has URLs."""

    redirect: bool = False


def routes(registry: Registry, workers: Workers, options: ServeOptions) -> list[BaseRoute]:
    """Return the routes below ``/v2/``, which only read; *workers* make the storage calls."""
    listing = Listing(registry, workers)
    manifests = Manifests(registry, workers)
    blobs = Blobs(registry, workers, redirect=options.redirect)
    pages = [
        Route("/", _base),
        Route("/_catalog", listing.catalog),
        Route("/{name:path}/tags/list", listing.tags),
        Route("/{name:path}/manifests/{reference}", manifests.get),
        Route("/{name:path}/blobs/{digest}", blobs.get),
        # After the blobs: a repository may be called "x/blobs/uploads".
        Route("/{name:path}/blobs/uploads/{upload:path}", _no_upload),
    ]
    handlers = {
        BlobfsError: storage_error,
        HTTPException: routing_error,
        Exception: unexpected_error,
    }
    around = [
        Middleware(_VersionHeader),
        Middleware(_Limited),
        Middleware(ExceptionMiddleware, handlers=handlers),
    ]
    below = Router(pages, redirect_slashes=False)
    base = RedirectResponse("/v2/", HTTPStatus.MOVED_PERMANENTLY)
    return [Route("/v2", base, middleware=around), Mount("/v2", below, middleware=around)]


async def _base(request: Request) -> Response:
    """Serve ``GET /v2/``, by which clients recognize a registry."""
    return JSONResponse({}, media_type="application/json; charset=utf-8")


async def _no_upload(request: Request) -> Response:
    return error_response(ErrorCode.BLOB_UPLOAD_UNKNOWN)


class _Limited:
    """Middleware that limits the number of requests at a time."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._running == _MAX_REQUESTS:
            headers = {"Retry-After": "1", "Connection": "close"}
            await error_response(ErrorCode.TOOMANYREQUESTS, headers=headers)(scope, receive, send)
            return
        self._running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running -= 1


class _VersionHeader:
    """Middleware that adds the version of the API to each response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_versioned(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Docker-Distribution-Api-Version"] = "registry/2.0"
            await send(message)

        await self._app(scope, receive, send_versioned)

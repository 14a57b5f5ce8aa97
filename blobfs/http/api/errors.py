"""The JSON responses of the registry API, mainly its errors.

Source of truth: the OCI distribution specification, "Error Codes"; distribution 2.8,
``registry/api/v2/errors.go`` and ``registry/api/errcode``, whose messages these are.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from blobfs import errors
from blobfs.logs import about

log = logging.getLogger(__name__)


class ErrorCode(Enum):
    """The API's error codes, each with its message and status."""

    BLOB_UNKNOWN = "blob unknown to registry", 404
    BLOB_UPLOAD_UNKNOWN = "blob upload unknown to registry", 404
    DIGEST_INVALID = "provided digest did not match uploaded content", 400
    MANIFEST_UNKNOWN = "manifest unknown", 404
    NAME_INVALID = "invalid repository name", 400
    NAME_UNKNOWN = "repository name not known to registry", 404
    PAGINATION_NUMBER_INVALID = "invalid number of results requested", 400
    RANGE_INVALID = "invalid content range", 416
    TOOMANYREQUESTS = "too many requests", 429
    UNAVAILABLE = "service unavailable", 503
    UNKNOWN = "unknown error", 500
    UNSUPPORTED = "The operation is unsupported.", 405

    def __init__(self, message: str, status: int) -> None:
        self.message = message
        self.status = status


_CODES: Final[dict[type[errors.BlobfsError], ErrorCode]] = {
    errors.BlobUnknown: ErrorCode.BLOB_UNKNOWN,
    errors.LinkDangling: ErrorCode.BLOB_UNKNOWN,
    errors.Stale: ErrorCode.BLOB_UNKNOWN,
    errors.ManifestUnknown: ErrorCode.MANIFEST_UNKNOWN,
    errors.TagUnknown: ErrorCode.MANIFEST_UNKNOWN,
    errors.RepositoryUnknown: ErrorCode.NAME_UNKNOWN,
    errors.NameInvalid: ErrorCode.NAME_INVALID,
    errors.DigestInvalid: ErrorCode.DIGEST_INVALID,
    errors.StorageUnavailable: ErrorCode.UNAVAILABLE,
}


class Json(JSONResponse):
    """A JSON document with a newline at its end, as distribution sends it."""

    media_type = "application/json; charset=utf-8"

    def render(self, content: Any) -> bytes:  # noqa: ANN401  (JSONResponse's own)
        return super().render(content) + b"\n"


def error_response(
    code: ErrorCode,
    *,
    message: str = "",
    detail: object = None,
    headers: Mapping[str, str] | None = None,
) -> Json:
    """Return an error response; *message* replaces the message of the code."""
    error: dict[str, object] = {"code": code.name, "message": message or code.message}
    if detail is not None:
        error["detail"] = detail
    return Json({"errors": [error]}, code.status, headers)


async def storage_error(request: Request, exc: Exception) -> Response:
    """Return the response for an error of the storage; only the log has the reason."""
    asked = request.path_params
    code = next((_CODES[cls] for cls in type(exc).__mro__ if cls in _CODES), ErrorCode.UNKNOWN)
    failed = code.status >= 500 or isinstance(exc, errors.Corrupt)
    log.log(
        logging.WARNING if failed else logging.DEBUG,
        "%s %s: %s: %s",
        request.method,
        request.url.path,
        code.name,
        exc,
        extra=about(
            operation=request.method, repository=asked.get("name"), digest=asked.get("digest")
        ),
    )
    return error_response(code, detail=_detail(code, asked))


async def unexpected_error(request: Request, exc: Exception) -> Response:
    """Return the response for an unexpected exception, which is logged."""
    log.error("%s %s: unexpected error", request.method, request.url.path, exc_info=exc)
    return error_response(ErrorCode.UNKNOWN)


async def routing_error(request: Request, exc: Exception) -> Response:
    """Return the response for an unknown path, or for a method other than GET and HEAD."""
    if isinstance(exc, HTTPException) and exc.status_code == ErrorCode.UNSUPPORTED.status:
        return error_response(ErrorCode.UNSUPPORTED, headers={"Allow": "GET, HEAD"})
    return PlainTextResponse("404 page not found\n", 404)


def _detail(code: ErrorCode, asked: Mapping[str, str]) -> object:
    """Return the detail of an error, in distribution's format."""
    name, reference = asked.get("name"), asked.get("reference", "")
    match code:
        case ErrorCode.BLOB_UNKNOWN:
            return asked.get("digest")
        case ErrorCode.MANIFEST_UNKNOWN if ":" in reference:
            return {"Name": name, "Revision": reference}
        case ErrorCode.MANIFEST_UNKNOWN:
            return {"Tag": reference}
        case ErrorCode.NAME_UNKNOWN | ErrorCode.NAME_INVALID:
            return {"name": name}
    return None

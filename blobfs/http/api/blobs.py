"""``/v2/<name>/blobs/<digest>``: the content of a blob, as distribution's ``ServeBlob``."""

from __future__ import annotations

import logging
from dataclasses import replace
from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from blobfs.digest import Descriptor, Digest
from blobfs.drivers.base import Closing, FileReader
from blobfs.errors import BlobDamaged, BlobfsError, FileChanged, PathNotFound, Stale
from blobfs.http.api.conditional import precondition, wanted_range
from blobfs.http.api.errors import ErrorCode, error_response
from blobfs.http.workers import Workers
from blobfs.logs import about
from blobfs.storage.registry import Registry
from blobfs.storage.repository import Repository

log = logging.getLogger(__name__)

_CHUNK: Final = 2**18
"""Bytes buffered for a client: enough for 0.8 GB/s, and a slow client takes them in time."""


class Blobs:
    """Serves blobs that a repository links; with *redirect* it sends clients to the storage."""

    def __init__(self, registry: Registry, workers: Workers, *, redirect: bool) -> None:
        self._registry = registry
        self._workers = workers
        self._redirect = redirect

    async def get(self, request: Request) -> Response:
        """Serve ``GET`` and ``HEAD``; raises the errors of the storage."""
        try:
            return await self._answer(request)
        except Stale:  # the cached descriptor is invalid, and discarded now
            return await self._answer(request)

    async def _answer(self, request: Request) -> Response:
        repository = self._registry.repository(request.path_params["name"])
        digest = Digest.parse(request.path_params["digest"])
        blob = await self._workers.run(_pulled, repository, digest)
        if self._redirect and request.method == "GET":
            url = await self._workers.run(self._registry.blobs.redirect_url, blob.digest)
            if url is not None:
                return RedirectResponse(url)
        etag = str(digest)
        headers = {
            "Cache-Control": "max-age=31536000",
            "Docker-Content-Digest": etag,
            "ETag": f'"{etag}"',
        }
        status = precondition(request.headers, etag)
        if status is not None:
            return Response(status_code=status, headers=headers)
        headers |= {"Accept-Ranges": "bytes", "Content-Type": blob.media_type}
        if request.method == "HEAD":
            return Response(headers=headers | {"Content-Length": str(blob.size)})
        return await self._content(blob, wanted_range(request.headers, etag, blob.size), headers)

    async def _content(
        self, blob: Descriptor, wanted: range | None, headers: dict[str, str]
    ) -> Response:
        status, offsets = HTTPStatus.OK, range(blob.size)
        if wanted is not None:
            status, offsets = HTTPStatus.PARTIAL_CONTENT, wanted
            if not wanted:
                headers = {"Content-Range": f"bytes */{blob.size}"}
                return error_response(ErrorCode.RANGE_INVALID, headers=headers)
            headers |= {"Content-Range": f"bytes {wanted[0]}-{wanted[-1]}/{blob.size}"}
        headers |= {"Content-Length": str(len(offsets))}
        reading = await self._workers.run(_BlobRange.open, self._registry, blob, offsets)
        return _StreamedResponse(reading, self._workers, status, headers)


def _pulled(repository: Repository, digest: Digest) -> Descriptor:
    blob = repository.layers.stat(digest)
    repository.pulled(blob)
    described = repository.media_types.describe(blob.digest)
    return blob if described is None else replace(blob, media_type=described.media_type)


class _BlobRange(Closing):
    """A range of a blob, a *chunk* at a time; used by one thread at a time. It owns a reader."""

    def __init__(self, reader: FileReader, blob: Descriptor, offsets: range) -> None:
        self._reader = reader
        self.blob = blob
        self._left = offsets
        self.chunk = b""

    @classmethod
    def open(cls, registry: Registry, blob: Descriptor, offsets: range) -> _BlobRange:
        """Open a blob and read the first chunk; raises Stale if the blob is removed or replaced."""
        reading = cls(registry.blobs.open_known(blob), blob, offsets)
        try:
            reading.advance()
        except (PathNotFound, FileChanged) as exc:
            reading.close()
            raise Stale(str(exc)) from None
        except BaseException:
            reading.close()
            raise
        return reading

    def advance(self) -> bool:
        """Read the next chunk; False at the end. Raises BlobDamaged if the blob is too short."""
        wanted, self._left = self._left[:_CHUNK], self._left[_CHUNK:]
        self.chunk = self._reader.read_at(wanted.start, len(wanted)) if wanted else b""
        if len(self.chunk) != len(wanted):
            raise BlobDamaged(f"blob {self.blob.digest} ends before its {self.blob.size} bytes")
        return bool(wanted)

    def close(self) -> None:
        self._reader.close()


class _StreamedResponse(Response):
    """A response that sends a range of a blob."""

    def __init__(
        self, reading: _BlobRange, workers: Workers, status: HTTPStatus, headers: dict[str, str]
    ) -> None:
        super().__init__(status_code=status, headers=headers)
        self._reading = reading
        self._workers = workers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._stream(send)
        finally:  # also once the server cancels it, because the client has left
            self._workers.submit(self._reading.close)

    async def _stream(self, send: Send) -> None:
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        try:
            while True:
                chunk = self._reading.chunk
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                if not await self._workers.run(self._reading.advance):
                    break
        except BlobfsError as exc:
            blob = self._reading.blob
            log.warning("sending blob %s: %s", blob.digest, exc, extra=about(digest=blob.digest))
            return  # the response has no end, so the server breaks the connection
        await send({"type": "http.response.body"})

"""A blob that is read over HTTP."""

from __future__ import annotations

import re
from typing import Final

from urllib3 import BaseHTTPResponse

from blobfs.digest import Descriptor
from blobfs.drivers.base import FileReader
from blobfs.errors import BlobfsError, BlobUnknown, Corrupt, NotFound, StorageUnavailable
from blobfs.transfer.registry.api import RegistryApi
from blobfs.transfer.registry.responses import number_in, read_from

_AT_ONCE: Final = 2**20
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)")


class BlobReader(FileReader):
    """A reader that goes on after a lost connection, with a range. Used by one thread at a time.

    It owns the response to the current request, whose next byte is that at ``_position``.
    """

    def __init__(self, api: RegistryApi, repository: str, blob: Descriptor) -> None:
        self._api = api
        self._repository = repository
        self._blob = blob
        self._response: BaseHTTPResponse | None = None
        self._position = 0

    @property
    def size(self) -> int:
        return self._blob.size

    def read_at(self, offset: int, size: int) -> bytes:
        size = min(size, self.size - offset)
        if size <= 0:
            return b""
        return self._api.client.retrying(lambda: self._read(offset, size))

    def close(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.close()

    def _read(self, offset: int, size: int) -> bytes:
        if self._response is None or self._position != offset:
            self.close()
            self._response = self._open(offset)
        return self._take(self._response, size)

    def _take(self, response: BaseHTTPResponse, size: int) -> bytes:
        try:
            found = read_from(response, size, self._api.host)
            if len(found) < size:
                raise StorageUnavailable(f"{self._api.host}: blob {self._blob.digest} ends early")
        except BlobfsError:
            response.close()
            self._response = None
            raise
        self._position += size
        return found

    def _open(self, offset: int) -> BaseHTTPResponse:
        """Return a response whose body begins at *offset*."""
        digest = self._blob.digest
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        call = self._api.call(
            "GET", self._repository, f"blobs/{digest}", headers=headers, attempts=1
        )
        try:
            response = self._api.client.open(call)
        except NotFound:
            raise BlobUnknown(digest) from None
        begin, size = _extent(response)
        if begin > offset or size not in {None, self.size}:
            response.close()
            raise Corrupt(
                f"{self._api.host}: blob {digest} has {size} bytes from {begin} on, and not "
                f"{self.size} from {offset} on"
            )
        self._position = begin
        while self._position < offset:  # the server ignores ranges
            self._take(response, min(_AT_ONCE, offset - self._position))
        return response


def _extent(response: BaseHTTPResponse) -> tuple[int, int | None]:
    """Return the offset at which the body begins, and the size of the whole blob."""
    if response.status == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None:
            return 2**63, None
        return int(match[1]), None if match[2] == "*" else int(match[2])
    return 0, number_in(response.headers.get("Content-Length", ""))

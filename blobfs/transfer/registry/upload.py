"""The upload of one blob to a registry: chunks by PATCH, the last one by PUT."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any, Final, Self
from urllib.parse import quote

from blobfs.digest import OCTET_STREAM, Descriptor
from blobfs.errors import (
    BlobfsError,
    Corrupt,
    DigestMismatch,
    StorageUnavailable,
    Unsupported,
    UploadUnknown,
)
from blobfs.transfer.registry.api import RegistryApi
from blobfs.transfer.registry.client import Call
from blobfs.transfer.registry.responses import Answer

_CHUNK: Final = 16 * 2**20
"""Bytes of a chunk, which is in memory until the registry has it."""

_LONGEST_CHUNK: Final = 256 * 2**20
_RANGE: Final = re.compile(r"(?:bytes[= ])?0-([0-9]{1,18})")
_COMMIT_S: Final = 900.0
"""Time for the response to a chunk or a commit; on S3 a registry copies the whole blob."""

_ATTEMPTS: Final = 5
_LOST: Final = (404, 416)
"""Statuses of an upload that the registry has removed, or that has another size."""


class Upload:
    """An upload session, which begins with the first bytes. Used by one thread.

    ``_acknowledged`` bytes are in the registry.
    """

    def __init__(self, api: RegistryApi, repository: str) -> None:
        self._api = api
        self._repository = repository
        self._url: str | None = None
        self._chunk = _CHUNK
        self._acknowledged = 0

    @classmethod
    def begin(
        cls, api: RegistryApi, repository: str, query: str, more: tuple[str, ...]
    ) -> Self | None:
        """Ask for the mount in *query*; None if it is done, else the upload instead of it."""
        upload = cls(api, repository)
        call = api.call("POST", repository, f"blobs/uploads/?{query}", more=more)
        answer = api.client.ask(call)
        if answer.status == 201:
            return None
        upload._opened(answer)
        return upload

    def write(self, blob: Descriptor, chunks: Iterable[bytes]) -> None:
        """Store a blob, or raise with the upload cancelled. *chunks* raise DigestMismatch."""
        try:
            if self._url is None:
                self._open()
            parts = self._parts(chunks)
            for part, is_last in parts:
                if is_last:
                    self._send(part, blob)
                elif not self._takes(part):
                    self._stream(blob, chain((part,), (more for more, _ in parts)))
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Remove the upload as far as the registry answers."""
        if self._url is None:
            return
        try:
            self._api.client.ask(self._call("DELETE", self._url, attempts=1))
        except BlobfsError:  # the registry removes it after some days
            pass
        self._url = None

    def _parts(self, chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
        """Yield parts of the size that the registry takes, and True with the last one."""
        pieces: list[bytes] = []
        size = 0
        for chunk in chunks:
            if size >= self._chunk:
                yield b"".join(pieces), False
                pieces, size = [], 0
            pieces.append(chunk)
            size += len(chunk)
        yield b"".join(pieces), True

    def _takes(self, chunk: bytes) -> bool:
        """Send a chunk; False, with nothing sent, if the registry takes blobs only as a whole.

        Google's Artifact Registry is one. After other chunks this is StorageUnavailable instead.
        """
        if self._api.takes_chunks:
            try:
                self._send(chunk, None)
            except Unsupported as exc:
                self._api.takes_chunks = False
                if self._acknowledged:
                    raise StorageUnavailable(f"{exc}; it gets the blob as a whole") from None
                self._open()
        return self._api.takes_chunks

    def _stream(self, blob: Descriptor, parts: Iterable[bytes]) -> None:
        """Send a blob as a whole, once."""
        try:
            self._commit(parts, blob, {"Content-Length": str(blob.size)})
        except StorageUnavailable:
            if not self._api.has_blob(self._repository, blob):
                raise

    def _send(self, part: bytes, blob: Descriptor | None) -> None:
        """Send *part* until the registry has it, and *blob* if it is the last part of that."""
        begin = self._acknowledged
        is_again = False

        def send() -> None:
            nonlocal is_again
            if is_again and self._is_committed_or_found(blob):
                return
            is_again = True
            if not begin <= self._acknowledged <= begin + len(part):
                raise UploadUnknown(self._repository)
            rest = part[self._acknowledged - begin :]
            if blob is None:
                self._patch(rest)
            else:
                self._commit(rest, blob, self._range_of(rest) if self._acknowledged else {})

        try:
            self._api.client.retrying(send, _ATTEMPTS)
        except UploadUnknown:
            raise StorageUnavailable(
                f"{self._api.host} has lost an upload after {begin} bytes; it must begin anew"
            ) from None

    def _is_committed_or_found(self, blob: Descriptor | None) -> bool:
        """After a failure: True if *blob* is stored; else find the end of what is acknowledged."""
        if blob is not None and self._api.has_blob(self._repository, blob):
            self._url = None
            return True
        if self._url is not None:
            answer = self._api.client.ask(self._call("GET", self._url, also=_LOST))
            if answer.status not in _LOST:
                self._follow(answer)
                match = _RANGE.fullmatch(answer.headers.get("range", ""))
                if match and (match[1] != "0" or self._acknowledged):  # an empty one is 0-0, too
                    self._acknowledged = int(match[1]) + 1
                return False
        self._open()
        return False

    def _open(self) -> None:
        self._opened(
            self._api.client.ask(self._api.call("POST", self._repository, "blobs/uploads/"))
        )

    def _opened(self, answer: Answer) -> None:
        if "location" not in answer.headers:
            raise Corrupt(f"{self._api.host}: it has opened an upload without a Location")
        self._acknowledged = 0
        self._follow(answer)
        shortest = answer.headers.get("oci-chunk-min-length", "")
        if re.fullmatch("[0-9]{1,12}", shortest):
            if int(shortest) > _LONGEST_CHUNK:
                raise Unsupported(f"{self._api.host}: it takes only chunks of {shortest} bytes")
            self._chunk = max(_CHUNK, int(shortest))

    def _patch(self, rest: bytes) -> None:
        if not rest:
            return
        answer = self._transfer("PATCH", self._url or "", rest, self._range_of(rest))
        self._follow(answer)
        self._acknowledged += len(rest)  # whatever the response has: ECR gives another range

    def _commit(
        self, rest: bytes | Iterable[bytes], blob: Descriptor, headers: Mapping[str, str]
    ) -> None:
        url = self._url or ""
        url += f"{'&' if '?' in url else '?'}digest={quote(str(blob.digest))}"
        answer = self._transfer("PUT", url, rest, headers)
        stored = answer.headers.get("docker-content-digest", str(blob.digest))
        if stored.startswith(f"{blob.digest.algorithm}:") and stored != str(blob.digest):
            raise DigestMismatch(f"{self._api.host} stored blob {blob.digest} as {stored[:160]!r}")
        self._url = None

    def _range_of(self, rest: bytes) -> dict[str, str]:
        last = self._acknowledged + len(rest) - 1
        return {"Content-Range": f"{self._acknowledged}-{last}"} if rest else {}

    def _transfer(
        self, method: str, url: str, rest: bytes | Iterable[bytes], headers: Mapping[str, str]
    ) -> Answer:
        """Send bytes once; a lost upload is a StorageUnavailable, as it can begin anew."""
        answer = self._api.client.ask(
            self._call(
                method,
                url,
                headers={"Content-Type": OCTET_STREAM, **headers},
                body=rest,
                also=_LOST,
                attempts=1,
                read_s=_COMMIT_S,
            )
        )
        if answer.status in _LOST:
            is_first = method == "PATCH" and not self._acknowledged
            error = Unsupported if is_first else StorageUnavailable
            raise error(f"{self._api.host}: the upload was refused or lost ({answer.status})")
        return answer

    def _follow(self, answer: Answer) -> None:
        """Take the URL of the next request."""
        if location := answer.headers.get("location"):
            self._url = self._api.client.resolve(answer.url, location)

    def _call(self, method: str, url: str, **details: Any) -> Call:  # noqa: ANN401  (Call's fields)
        call = self._api.call(method, self._repository, "blobs/uploads/", **details)
        return replace(call, url=url)

"""The manifests that were used last, since a copy needs each of them two or three times."""

from __future__ import annotations

from typing import Final

from blobfs.concurrency import guard
from blobfs.digest import Digest

_KEPT: Final = 32 * 2**20
"""Bytes that are kept; a manifest has some thousand."""


class Payloads:
    """The bytes of manifests, by repository and digest. Thread-safe: ``_lock`` guards them."""

    def __init__(self) -> None:
        self._lock = guard()
        self._kept: dict[tuple[str, Digest], bytes] = {}
        self._size = 0

    def get(self, repository: str, digest: Digest) -> bytes | None:
        """Return the bytes of a manifest; None if they are not kept."""
        with self._lock:
            return self._kept.get((repository, digest))

    def add(self, repository: str, digest: Digest, payload: bytes) -> None:
        """Keep the bytes of a manifest, instead of the oldest ones."""
        with self._lock:
            if (repository, digest) not in self._kept:
                self._kept[repository, digest] = payload
                self._size += len(payload)
            while self._size > _KEPT:
                self._size -= len(self._kept.pop(next(iter(self._kept))))

"""Aliases: second digests of stored blobs, by another algorithm.

A registry stores a blob that was pushed as ``sha512:…`` under its ``sha256`` digest. It links the
``sha512`` name to that blob. The link may be damaged or hostile, so the blob is hashed once with
the algorithm of its alias before the link is trusted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, NamedTuple

from blobfs.concurrency import guard
from blobfs.digest import Digest
from blobfs.errors import DigestMismatch

_MAX_KNOWN: Final = 4096
"""Verified aliases kept, the most recently used ones (some 500 bytes each)."""


class Alias(NamedTuple):
    """A second digest, *name*, of a blob that is stored under *target*."""

    name: Digest
    target: Digest


class Aliases:
    """The verified aliases of a blob store.

    Thread-safe: one lock guards both tables. One thread hashes a blob, without the lock, and the
    others wait for its result. A wrong alias is not kept, because its link may be repaired.
    """

    def __init__(self, limit: int = _MAX_KNOWN) -> None:
        self._limit = limit
        self._lock = guard()
        self._known: OrderedDict[Alias, None] = OrderedDict()
        self._under_way: dict[Alias, Future[bool]] = {}

    def verify(self, alias: Alias, hashed: Callable[[], Digest]) -> None:
        """Raise DigestMismatch unless *hashed* returns the alias's name.

        *hashed* computes the digest of the blob. It is called only for an unknown alias, and its
        errors are passed on.
        """
        with self._lock:
            if alias in self._known:
                self._known.move_to_end(alias)
                return
            verdict = self._under_way.get(alias)
            mine = Future[bool]()
            if verdict is None:
                self._under_way[alias] = mine
        if verdict is None:
            verdict = mine
            self._decide(alias, hashed, mine)
        if not verdict.result():
            raise DigestMismatch(f"blob {alias.target} does not hash to its name {alias.name}")

    def _decide(self, alias: Alias, hashed: Callable[[], Digest], verdict: Future[bool]) -> None:
        try:
            is_right = hashed() == alias.name
            if is_right:
                self.remember(alias)
            verdict.set_result(is_right)
        except BaseException as exc:
            verdict.set_exception(exc)
            raise
        finally:
            with self._lock:
                del self._under_way[alias]

    def names_of(self, target: Digest) -> list[Digest]:
        """The verified other digests of a blob."""
        with self._lock:
            return [alias.name for alias in self._known if alias.target == target]

    def remember(self, alias: Alias) -> None:
        """Add an alias whose blob the caller has hashed with both algorithms."""
        with self._lock:
            self._known[alias] = None
            self._known.move_to_end(alias)
            if len(self._known) > self._limit:
                self._known.popitem(last=False)

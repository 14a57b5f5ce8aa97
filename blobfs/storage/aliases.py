"""Digests of other algorithms by which stored blobs are known.

A registry stores a blob that was pushed as ``sha512:…`` under its ``sha256`` digest, and links the
``sha512`` name to it. Nothing but that link says that the two digests are of the same bytes, and a
link may be damaged or hostile. So the bytes are hashed once by the name that was asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock
from typing import Final, NamedTuple

from blobfs.digest import Digest
from blobfs.errors import DigestMismatch

_REMEMBERED: Final = 4096
"""Aliases that are kept, the latest used (some 500 bytes each)."""


class Alias(NamedTuple):
    """The *name* of a blob that is stored under *target*."""

    name: Digest
    target: Digest


class Aliases:
    """The verified aliases of a blob store. Thread-safe.

    A blob that many threads ask for is hashed by one of them, without a lock. An alias that is
    wrong is not remembered: its link may be repaired.
    """

    def __init__(self, limit: int = _REMEMBERED) -> None:
        self._limit = limit
        self._lock = Lock()
        self._known: OrderedDict[Alias, None] = OrderedDict()
        self._under_way: dict[Alias, Future[bool]] = {}

    def verify(self, alias: Alias, hashed: Callable[[], Digest]) -> None:
        """Raise DigestMismatch unless *hashed*, the digest of the bytes, is the alias' name.

        Raises what *hashed* raises. It is called only for an alias that is not known yet.
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
        """Take note of an alias whose bytes have been hashed by both digests."""
        with self._lock:
            self._known[alias] = None
            self._known.move_to_end(alias)
            if len(self._known) > self._limit:
                self._known.popitem(last=False)

"""Aliases: second digests of stored blobs, by another algorithm.

A registry stores a blob that was pushed as ``sha512:…`` under its ``sha256`` digest. It links the
``sha512`` name to that blob. The link may be damaged or hostile, so the blob is hashed once with
the algorithm of its alias before the link is trusted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from blobfs.concurrency import SingleFlight, guard
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

    Thread-safe: the lock guards the table, and one thread hashes a blob for all. A wrong alias is
    not kept, because its link may be repaired.
    """

    def __init__(self, limit: int = _MAX_KNOWN) -> None:
        self._limit = limit
        self._lock = guard()
        self._known: OrderedDict[Alias, None] = OrderedDict()
        self._verifying: SingleFlight[Alias, bool] = SingleFlight()

    def verify(self, alias: Alias, hashed: Callable[[], Digest]) -> None:
        """Raise DigestMismatch unless *hashed* returns the alias's name.

        *hashed* computes the digest of the blob. It is called only for an unknown alias, and its
        errors are passed on.
        """
        if self._is_known(alias):
            return
        if not self._verifying.run(alias, partial(self._is_right, alias, hashed)):
            raise DigestMismatch(f"blob {alias.target} does not hash to its name {alias.name}")

    def _is_known(self, alias: Alias) -> bool:
        with self._lock:
            if alias not in self._known:
                return False
            self._known.move_to_end(alias)
            return True

    def _is_right(self, alias: Alias, hashed: Callable[[], Digest]) -> bool:
        if self._is_known(alias):
            return True
        if hashed() != alias.name:
            return False
        self.remember(alias)
        return True

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

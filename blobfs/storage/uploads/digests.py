"""The running digests of an upload."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from blobfs.digest import CANONICAL, Digest, Digester


class DigesterSet:
    """Running digesters of one upload: the canonical one, and one for each algorithm added.

    They hash bytes that arrive in sequence, and skip bytes that arrive before their turn.
    ``load_state(algorithm, size)`` returns a digester from the latest saved state of at most *size*
    bytes. Not thread-safe.
    """

    def __init__(self, load_state: Callable[[str, int], Digester]) -> None:
        self._load_state = load_state
        self._digesters = {CANONICAL: Digester()}

    def __iter__(self) -> Iterator[Digester]:
        return iter(self._digesters.values())

    @property
    def hashed_size(self) -> int:
        """Number of leading bytes that every digester has hashed."""
        return min(digester.size for digester in self)

    def add(self, algorithm: str, size: int) -> None:
        """Add *algorithm*, from its latest saved state of at most *size* bytes."""
        if algorithm not in self._digesters:
            self._digesters[algorithm] = self._load_state(algorithm, size)

    def restore(self, size: int) -> None:
        """Load every digester anew from its latest saved state of at most *size* bytes."""
        for algorithm in self._digesters:
            self._digesters[algorithm] = self._load_state(algorithm, size)

    def update(self, offset: int, data: bytes) -> None:
        """Hash the part of *data*, which begins at *offset*, that continues the hashed bytes."""
        for digester in self._digesters.values():
            if offset <= digester.size < offset + len(data):
                digester.update(data[digester.size - offset :])

    def discard_after(self, size: int) -> None:
        """Go back to a state of at most *size* bytes, since later bytes are about to change."""
        for algorithm, digester in self._digesters.items():
            if digester.size > size:
                self._digesters[algorithm] = self._load_state(algorithm, size)

    def of(self, algorithm: str, size: int) -> Digest | None:
        """Return the digest of the first *size* bytes; None if they have to be read for it."""
        digester = self._digesters.get(algorithm)
        return digester.digest() if digester is not None and digester.size == size else None

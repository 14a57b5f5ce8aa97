"""Digesters that follow what an upload receives."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from blobfs.digest import CANONICAL, Digest, Digester


class DigesterSet:
    """One digester for each algorithm that is asked for; the canonical one is always there.

    They follow as far as the bytes come in sequence, and lag behind else. *remembered* gives a
    digester of an algorithm that has seen as much of the first so many bytes as is remembered.
    """

    def __init__(self, remembered: Callable[[str, int], Digester]) -> None:
        self._remembered = remembered
        self._digesters = {CANONICAL: Digester()}

    def __iter__(self) -> Iterator[Digester]:
        return iter(self._digesters.values())

    @property
    def seen(self) -> int:
        """Bytes that all of them have seen."""
        return min(digester.size for digester in self)

    def add(self, algorithm: str, size: int) -> None:
        """Follow by *algorithm* too, from what is remembered of the first *size* bytes."""
        if algorithm not in self._digesters:
            self._digesters[algorithm] = self._remembered(algorithm, size)

    def recall(self, size: int) -> None:
        """Go on from what is remembered of the first *size* bytes."""
        for algorithm in self._digesters:
            self._digesters[algorithm] = self._remembered(algorithm, size)

    def follow(self, offset: int, data: bytes) -> None:
        """Hash *data*, which is at *offset*, as far as it is their turn."""
        for digester in self:
            if offset <= digester.size < offset + len(data):
                digester.update(data[digester.size - offset :])

    def forget_after(self, size: int) -> None:
        """What comes after *size* bytes is about to change."""
        for algorithm, digester in self._digesters.items():
            if digester.size > size:
                self._digesters[algorithm] = self._remembered(algorithm, size)

    def of(self, algorithm: str, size: int) -> Digest | None:
        """The digest of the first *size* bytes, if it is known without reading them again."""
        digester = self._digesters.get(algorithm)
        return digester.digest() if digester is not None and digester.size == size else None

"""What a cache was to forget, and was not there to be told."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from threading import Lock
from typing import Final

from blobfs.digest import Digest
from blobfs.reference import RepositoryName

MOST: Final = 10_000
_BATCH: Final = 100  # in one call, for which somebody waits


@dataclass(frozen=True, slots=True)
class Batch:
    """Digests of one *repository* to be cleared, and the number of the call for each."""

    repository: RepositoryName | None
    numbers: Mapping[Digest, int]


class PendingClears:
    """Calls of ``clear`` to be made again, oldest first; the oldest above *most* are lost.

    Thread-safe.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._lock = Lock()
        self._numbers = count()
        self._owed: OrderedDict[tuple[RepositoryName | None, Digest], int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._owed)

    def add(self, digests: Sequence[Digest], repository: RepositoryName | None) -> None:
        """Owe a clear of each."""
        with self._lock:
            for digest in digests:
                self._owed[repository, digest] = next(self._numbers)
                self._owed.move_to_end((repository, digest))
            while len(self._owed) > self._most:
                self._owed.popitem(last=False)

    def covers(self, digest: Digest, repository: RepositoryName | None) -> bool:
        """Whether what a cache has of *digest* may be what it was to forget."""
        return (repository, digest) in self._owed or (None, digest) in self._owed

    def some(self) -> Batch:
        """The oldest, with some of the same repository; no digests if none is owed."""
        with self._lock:
            repository = next(iter(self._owed), (None, None))[0]
            numbers = {
                digest: number
                for (name, digest), number in self._owed.items()
                if name == repository
            }
            return Batch(repository, dict(islice(numbers.items(), _BATCH)))

    def paid(self, debt: Batch) -> None:
        """Owe these no more, but for what has been added again since they were given out."""
        with self._lock:
            for digest, number in debt.numbers.items():
                if self._owed.get((debt.repository, digest)) == number:
                    del self._owed[debt.repository, digest]

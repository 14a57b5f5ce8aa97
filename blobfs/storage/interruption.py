"""The way to stop a long piece of work that another thread does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from blobfs.errors import Interrupted


class Interruption:
    """Stops the work that is under way; thread-safe.

    The work asks ``check`` between its steps. A stop is for that work only: ``begin`` forgets it.
    """

    def __init__(self) -> None:
        self._reason = ""

    def begin(self) -> None:
        """Begin a piece of work, which no earlier ``stop`` is meant for."""
        self._reason = ""

    def stop(self, reason: str) -> None:
        """Have the next ``check`` raise Interrupted; *reason* is for its text."""
        self._reason = reason

    def check(self) -> None:
        """Raise Interrupted after a ``stop``."""
        if self._reason:
            raise Interrupted(self._reason)

    def checked(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The *chunks*, with a ``check`` before each."""
        for chunk in chunks:
            self.check()
            yield chunk

"""The way to stop a long piece of work that another thread does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from blobfs.errors import Interrupted


class Interruption:
    """Stops the work that is under way; thread-safe.

    The work asks ``check`` between its steps.
    """

    def __init__(self) -> None:
        self._reason = ""

    def stop(self, reason: str) -> None:
        """Have the next ``check`` raise Interrupted; *reason* is its text."""
        self._reason = reason

    def forget(self) -> None:
        """Forget a ``stop`` that was not meant for the work that begins now."""
        self._reason = ""

    def check(self) -> None:
        """Raise Interrupted after a ``stop``, once."""
        if self._reason:
            reason, self._reason = self._reason, ""
            raise Interrupted(reason)

    def checked(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The *chunks*, with a ``check`` before each."""
        for chunk in chunks:
            self.check()
            yield chunk

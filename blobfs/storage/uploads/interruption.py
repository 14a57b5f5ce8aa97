"""Cooperative interruption of long work in another thread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from blobfs.errors import Interrupted


class Interruption:
    """Request to stop, which the work looks for between its steps by ``check``. Thread-safe.

    The reason is one attribute, written and read at once, so it needs no lock.
    """

    def __init__(self) -> None:
        self._reason = ""

    def stop(self, reason: str) -> None:
        """Make the next ``check`` raise Interrupted with the text *reason*."""
        self._reason = reason

    def clear(self) -> None:
        """Cancel an earlier ``stop`` before new work begins."""
        self._reason = ""

    def check(self) -> None:
        """Raise Interrupted once after a ``stop``."""
        if self._reason:
            reason, self._reason = self._reason, ""
            raise Interrupted(reason)

    def checked(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the *chunks*, with a ``check`` before each."""
        for chunk in chunks:
            self.check()
            yield chunk

"""States of a blob's upload, and the possible changes between them."""

from __future__ import annotations

from enum import Enum

from blobfs.errors import BlobfsError, ReadOnly, WriterClosed


class UploadState(Enum):
    """Progress of a blob's upload; the value has the states that may follow.

    An upload *is_listed* if the storage has its record, so that it can be resumed. It *is_placed*
    once its bytes have become the blob, and only the link is missing. Before, it *is_writable*.
    """

    IN_MEMORY = "UNLISTED CHANGED DURABLE PLACED ENDED"  # the storage has nothing
    UNLISTED = "CHANGED PLACED_UNLISTED ENDED"  # a crash loses the bytes
    CHANGED = "DURABLE PLACED ENDED"  # the last bytes may not be durable
    DURABLE = "CHANGED PLACED ENDED"
    PLACED_UNLISTED = "PLACED ENDED"
    PLACED = "CHANGED ENDED"
    ENDED = ""  # committed, removed, or left for a resume

    def __init__(self, following: str) -> None:
        self._following = frozenset(following.split())
        self.is_listed = self.name in {"CHANGED", "DURABLE", "PLACED"}
        self.is_placed = self.name in {"PLACED", "PLACED_UNLISTED"}
        self.is_writable = not self.is_placed and self.name != "ENDED"

    def to(self, state: UploadState, label: str) -> UploadState:
        """Return *state* if it may follow; raises ``refusal``."""
        if state.name not in self._following:
            raise self.refusal(label)
        return state

    def refusal(self, label: str) -> BlobfsError:
        """Return the error of a change that is impossible now, for an upload called *label*."""
        if self.is_placed:
            return ReadOnly(f"{label} is complete; commit it again to link its blob")
        return WriterClosed(f"{label} has ended")

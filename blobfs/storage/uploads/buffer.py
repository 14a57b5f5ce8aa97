"""Bytes that an upload has received: the first in memory, all in the storage once they are many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from blobfs.concurrency import reentrant_guard, stop_check
from blobfs.digest import Digest
from blobfs.drivers.base import FileReader
from blobfs.errors import AppendOnly, Busy, Interrupted
from blobfs.storage.uploads.digests import DigesterSet
from blobfs.storage.uploads.staging import Staging
from blobfs.storage.uploads.state import UploadState

IN_MEMORY: Final = 2**20
"""Maximum size in bytes of an upload that is held in memory only."""

_CHUNK: Final = 2**20
_HASHED_ZEROS: Final = 64 * 2**20
"""Longest gap in bytes whose zeros are hashed at once; longer gaps are hashed by the commit."""


class MemoryBudget:
    """Limit of the bytes that all uploads hold in memory. Thread-safe: the lock guards the rest."""

    def __init__(self, size: int) -> None:
        # A finalizer takes the lock too, perhaps in the thread that holds it.
        self._lock = reentrant_guard()
        self._left = size

    def reserve(self, size: int) -> bool:
        """Reserve *size* bytes until ``release``; False if fewer are free."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def release(self, size: int) -> None:
        """Return reserved bytes."""
        with self._lock:
            self._left += size


UPLOADS: Final = MemoryBudget(64 * 2**20)
"""Budget that all uploads of the process share. An upload that exceeds it goes to the storage."""


class MemoryReservation:
    """Bytes of ``UPLOADS`` that one upload has reserved. Not thread-safe.

    They are returned by ``release``, or when the reservation is garbage-collected.
    """

    def __init__(self) -> None:
        self._size = 0

    def grow(self, size: int) -> bool:
        """Raise the reservation to *size* bytes in all; False if the budget is too small."""
        more = max(0, size - self._size)
        if not UPLOADS.reserve(more):
            return False
        self._size += more
        return True

    def release(self) -> None:
        """Return all bytes to the budget."""
        size, self._size = self._size, 0
        UPLOADS.release(size)

    def __del__(self) -> None:
        self.release()  # a caller that timed out drops its upload without closing it


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

    @contextmanager
    def stops_driver(self) -> Iterator[None]:
        """Stop the calls of the driver inside the block too, as far as they can be stopped."""
        outer = stop_check.set(self.check)
        try:
            yield
        finally:
            stop_check.reset(outer)

    def checked(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the *chunks*, with a ``check`` before each."""
        for chunk in chunks:
            self.check()
            yield chunk


class UploadBuffer:
    """The bytes received by one upload, and their running *digests*. Not thread-safe.

    They are in memory at first, and all in *staging* once they are many.
    """

    def __init__(self, staging: Staging, started_at: datetime) -> None:
        self.digests = DigesterSet(staging.load_state)
        self.interruption = Interruption()  # stops hashing, filling of a gap and copying
        self.size = 0
        self._staging = staging
        self._started_at = started_at
        self.content = bytearray()  # all bytes while they are in memory
        self._reservation = MemoryReservation()
        self.release = self._reservation.release  # at the end of the upload

    @property
    def is_in_memory(self) -> bool:
        """True if the storage has nothing of the upload."""
        return self._staging.state is UploadState.IN_MEMORY

    def can_write_nowait(self, offset: int, size: int) -> bool:
        """True if ``write_at`` only appends to memory or to an open file, without a request.

        The memory for that is reserved then, so no other upload can take it before the write.
        """
        if self._staging.state is UploadState.IN_MEMORY:
            return offset + size <= IN_MEMORY and self._reservation.grow(offset + size)
        if not self.size <= offset <= self.size + _CHUNK:
            return False
        return self._staging.can_write_nowait(offset + size - self.size)

    def resume(self, size: int) -> None:
        """Continue after *size* bytes that are in the storage."""
        self.size = size
        self.digests.restore(size)
        self.size = self._staging.cut_unhashed(size, self.digests)

    def write_at(self, offset: int, data: bytes) -> None:
        """Write *data* at *offset*; raises AppendOnly, StorageFull, Busy, Stale."""
        if offset > self.size:
            self._extend(offset)
        if not self._fits(offset + len(data)):
            self._write_staged(offset, data)
            return
        if offset < self.size:
            self._invalidate_after(offset)
        self.content[offset : offset + len(data)] = data
        self.digests.update(offset, data)
        self.size = len(self.content)

    def _fits(self, size: int) -> bool:
        """True if *size* bytes stay in memory; else the bytes leave it."""
        if self._staging.state is not UploadState.IN_MEMORY:
            return False
        if size <= IN_MEMORY and self._reservation.grow(size):
            return True
        self.leave_memory()
        return False

    def leave_memory(self) -> None:
        """Move the bytes to the storage."""
        self._staging.begin(self._started_at, bytes(self.content))
        self.content = bytearray()
        self._reservation.release()

    def _write_staged(self, offset: int, data: bytes) -> None:
        file = self._staging.open_for_change(self.size)
        try:
            if offset < self.size:
                file.rewrite(offset, b"")  # raises AppendOnly before states are removed
                self._invalidate_after(offset)
                file.rewrite(offset, data)
                self.digests.update(offset, data)
            else:
                file.write(data)
        except Busy:
            self.rehash()
            raise
        finally:  # bytes that were written before the storage was full count
            size = file.size
            if offset == self.size:
                self.digests.update(offset, data[: size - offset])
            self.size = size

    def truncate(self, size: int) -> None:
        """Cut or extend with zeros to *size* bytes; raises the errors of ``write_at``."""
        if size > self.size:
            self._extend(size)
        elif size < self.size:
            if self.is_in_memory:
                self._invalidate_after(size)
                del self.content[size:]
            else:
                self._cut(size)
            self.size = size

    def _cut(self, size: int) -> None:
        try:
            with self._rehash_if_busy():
                file = self._staging.open_for_change(self.size)
                file.truncate(self.size)  # raises AppendOnly before states are removed
                self._invalidate_after(size)
                file.truncate(size)
        except AppendOnly:
            if size > 0:
                raise
            self._invalidate_after(0)
            self._staging.restart()

    def _extend(self, size: int) -> None:
        if self._fits(size):
            self.content += bytes(size - len(self.content))
        else:
            self._extend_staged(size)
        if size - self.size <= _HASHED_ZEROS:
            for offset in range(self.size, size, _CHUNK):
                self.digests.update(offset, bytes(min(_CHUNK, size - offset)))
        self.size = size

    def _extend_staged(self, size: int) -> None:
        try:
            with self._rehash_if_busy():
                self._staging.open_for_change(self.size).truncate(size)
        except AppendOnly:
            while self.size < size:
                self.interruption.check()
                self._write_staged(self.size, bytes(min(_CHUNK, size - self.size)))

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to *size* bytes from *offset*; raises Unsupported."""
        if self.is_in_memory:
            return bytes(self.content[offset : offset + size])
        return self._staging.read_at(self.size, offset, size)

    def hash_all(
        self, algorithm: str, read_at: Callable[[int, int], bytes] | None = None
    ) -> Digest | None:
        """Return the digest of all bytes, or None if some are missing; raises Interrupted.

        Bytes that were not hashed yet are read again, with *read_at* if it is given.
        """
        self.digests.add(algorithm, self.size)
        while (found := self.digests.of(algorithm, self.size)) is None:
            self.interruption.check()
            behind = self.digests.hashed_size
            chunk = (read_at or self._read_back)(behind, min(_CHUNK, self.size - behind))
            if not chunk:
                return None
            self.digests.update(behind, chunk)
        return found

    def _read_back(self, offset: int, size: int) -> bytes:
        if self.is_in_memory:
            return self.read_at(offset, size)
        return self._staging.read_back(self.size, offset, size)

    def suspend(self) -> None:
        """Make all bytes durable in the storage; raises Busy if another program wrote the data."""
        if self.is_in_memory:
            self.leave_memory()
        if not self._staging.is_undisturbed(self.size):
            self.rehash()
            raise Busy(f"{self._staging.label} is being written by another program")
        self._staging.suspend(self.size, self.digests)

    def place(self, target: str) -> FileReader | None:
        """Do the same as ``Staging.place``; after Busy all bytes are hashed again."""
        with self._rehash_if_busy(), self.interruption.stops_driver():
            return self._staging.place(self.size, target)

    @contextmanager
    def _rehash_if_busy(self) -> Iterator[None]:
        try:
            yield
        except Busy:
            self.rehash()
            raise

    def rehash(self) -> None:
        """Discard all hash states, since another program has changed the data."""
        self._staging.drop_states_above(-1)
        self.digests.restore(0)

    def _invalidate_after(self, size: int) -> None:
        """Discard the hash states of more than *size* bytes, since later bytes are to change."""
        self._staging.drop_states_above(size)  # first: a registry that resumes trusts the states
        self.digests.discard_after(size)

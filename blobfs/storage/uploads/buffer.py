"""Bytes that an upload has received: the first in memory, all in the storage once they are many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from blobfs.concurrency import reentrant_guard
from blobfs.digest import CANONICAL, Digest, Digester
from blobfs.drivers.base import FileWriter
from blobfs.errors import AppendOnly, Busy
from blobfs.storage.uploads.data import UploadData
from blobfs.storage.uploads.interruption import Interruption

IN_MEMORY: Final = 2**20
"""Maximum size in bytes of an upload that is held in memory only."""

_CHUNK: Final = 2**20
_HASHED_ZEROS: Final = 64 * 2**20
"""Longest gap in bytes whose zeros are hashed at once; longer gaps are hashed by the commit."""


class MemoryBudget:
    """Limit of the bytes that all uploads hold in memory. Thread-safe: the lock guards the rest."""

    def __init__(self, size: int) -> None:
        self._lock = (
            reentrant_guard()
        )  # a finalizer takes it too, perhaps in the thread that holds it
        self._left = size

    def has(self, size: int) -> bool:
        """True if *size* more bytes are free now."""
        return size <= self._left

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
        for digester in self:
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


class UploadBuffer:
    """The bytes received by one upload, and their running *digests*. Not thread-safe.

    *store* moves the bytes from memory to the storage, and returns the file that receives the rest.
    ``forget(size)`` removes the saved hash states of more than *size* bytes. It is called before
    those bytes change; with -1, which removes all states, after another writer changed the data.
    """

    def __init__(
        self,
        digests: DigesterSet,
        store: Callable[[bytes], UploadData],
        forget: Callable[[int], None],
    ) -> None:
        self.digests = digests
        self.interruption = Interruption()  # stops ``hash_all`` and the filling of a gap
        self.size = 0
        self.is_durable = False
        self.data: UploadData | None = None  # None while all bytes are in memory
        self._content = bytearray()
        self._reservation = MemoryReservation()
        self._store = store
        self._forget = forget

    @property
    def content(self) -> bytes | None:
        """All bytes while they are in memory, else None."""
        return bytes(self._content) if self.data is None else None

    def can_write_nowait(self, offset: int, size: int) -> bool:
        """True if ``write_at`` only appends to memory or to an open file, without a request."""
        if self.data is None:
            return offset + size <= IN_MEMORY and UPLOADS.has(size)
        if not self.size <= offset <= self.size + _CHUNK:
            return False
        return self.data.can_write_nowait(offset + size - self.size)

    def resume(self, data: UploadData, size: int) -> None:
        """Continue after *size* bytes that are in the storage."""
        self.data, self.size, self.is_durable = data, size, True
        self.digests.restore(size)

    def go_back(self) -> None:
        """Cut to the last hash state that the data can be cut to.

        The bytes behind it cannot be read again, so they could not be hashed.
        """
        while self.data is not None and (known := self.digests.hashed_size) < self.size:
            try:
                self.data.go_back(known)
                self.size = known
            except AppendOnly:
                self.digests.restore(known - 1)

    def write_at(self, offset: int, data: bytes) -> None:
        """Write *data* at *offset*; raises AppendOnly, StorageFull, Busy, Stale."""
        if offset > self.size:
            self._extend(offset)
        stored = self._data_for(offset + len(data))
        if stored is not None:
            self._write_to(stored, offset, data)
            return
        self._invalidate_after(offset)
        self._content[offset : offset + len(data)] = data
        self.digests.update(offset, data)
        self.size = len(self._content)

    def _write_to(self, stored: UploadData, offset: int, data: bytes) -> None:
        with self._open_for_change(stored) as file:
            self._write_to_file(file, offset, data)

    def _write_to_file(self, file: FileWriter, offset: int, data: bytes) -> None:
        try:
            if offset < self.size:
                file.rewrite(offset, b"")  # raises AppendOnly before states are removed
                self._invalidate_after(offset)
                file.rewrite(offset, data)
                self.digests.update(offset, data)
            else:
                file.write(data)
        finally:  # bytes that were written before the storage was full count
            if offset == self.size:
                self.digests.update(offset, data[: file.size - offset])
            self.size = file.size

    def truncate(self, size: int) -> None:
        """Cut or extend with zeros to *size* bytes; raises the errors of ``write_at``."""
        if size > self.size:
            self._extend(size)
        elif size < self.size:
            if self.data is None:
                self._invalidate_after(size)
                del self._content[size:]
            else:
                self._cut(self.data, size)
            self.size = size

    def _cut(self, stored: UploadData, size: int) -> None:
        try:
            with self._open_for_change(stored) as file:
                file.truncate(self.size)  # raises AppendOnly before states are removed
                self._invalidate_after(size)
                file.truncate(size)
        except AppendOnly:
            if size > 0:
                raise
            self._invalidate_after(0)
            stored.create()

    def _extend(self, size: int) -> None:
        stored = self._data_for(size)
        if stored is None:
            self._content += bytes(size - len(self._content))
        else:
            self._extend_in(stored, size)
        if size - self.size <= _HASHED_ZEROS:
            for offset in range(self.size, size, _CHUNK):
                self.digests.update(offset, bytes(min(_CHUNK, size - offset)))
        self.size = size

    def _extend_in(self, stored: UploadData, size: int) -> None:
        try:
            with self._open_for_change(stored) as file:
                file.truncate(size)
        except AppendOnly:
            while self.size < size:
                self.interruption.check()
                self._write_to(stored, self.size, bytes(min(_CHUNK, size - self.size)))

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to *size* bytes from *offset*; raises Unsupported."""
        if self.data is None:
            return bytes(self._content[offset : offset + size])
        return self.data.read_at(self.size, offset, size)

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
        if self.data is None:
            return self.read_at(offset, size)
        return self.data.read_back(self.size, offset, size)

    def sync(self) -> None:
        """Make all bytes durable in the storage; raises Busy if another program wrote the data."""
        stored = self.data or self._leave_memory()
        self.check_undisturbed(stored)
        with stored.closed_on_failure(self.size) as file:
            file.flush()

    def check_undisturbed(self, stored: UploadData) -> None:
        """Raise Busy if another program wrote the data; then all of it will be hashed again."""
        with stored.closed_on_failure(self.size) as file, self._rehash_if_busy():
            if not file.is_undisturbed():
                raise Busy(f"{stored.label} is being written by another program")

    @contextmanager
    def _open_for_change(self, stored: UploadData) -> Iterator[FileWriter]:
        """Open the file for a change; raises Busy if another program has changed it."""
        file = stored.open(self.size)
        self.is_durable = False
        with self._rehash_if_busy():
            yield file

    @contextmanager
    def _rehash_if_busy(self) -> Iterator[None]:
        try:
            yield
        except Busy:
            self.rehash()
            raise

    def rehash(self) -> None:
        """Discard all hash states, since another program has changed the data."""
        self._forget(-1)
        self.digests.restore(0)

    def _data_for(self, size: int) -> UploadData | None:
        """Return the file for an upload of *size* bytes; None if it stays in memory."""
        if self.data is None and (size > IN_MEMORY or not self._reservation.grow(size)):
            return self._leave_memory()
        return self.data

    def _leave_memory(self) -> UploadData:
        self.data = self._store(bytes(self._content))
        self._content = bytearray()
        self._reservation.release()
        return self.data

    def _invalidate_after(self, size: int) -> None:
        """Discard the hash states of more than *size* bytes, since later bytes are to change."""
        if size < self.size:
            self._forget(size)  # before the change: a registry that resumes trusts the states
            self.digests.discard_after(size)

    def release(self) -> None:
        """Return the memory to the budget."""
        self._reservation.release()

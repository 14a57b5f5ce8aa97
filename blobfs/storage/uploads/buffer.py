"""The bytes that an upload has received: in memory as long as they are few, then in the storage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Final

from blobfs.digest import CANONICAL, Digest, Digester
from blobfs.drivers.base import FileWriter
from blobfs.errors import AppendOnly, Busy
from blobfs.storage.uploads.data import UploadData
from blobfs.storage.uploads.interruption import Interruption

IN_MEMORY: Final = 2**20
"""The most bytes of an upload that is not in the storage yet."""

_CHUNK: Final = 2**20
_HASHED_ZEROS: Final = 64 * 2**20
"""The longest gap whose zeros are hashed at once, in bytes; a longer one waits for the commit."""


class MemoryBudget:
    """Bytes that may be held. Thread-safe."""

    def __init__(self, size: int) -> None:
        self._lock = RLock()  # also taken while garbage is collected
        self._left = size

    def has(self, size: int) -> bool:
        """Whether there is room for *size* more bytes, at this moment."""
        return size <= self._left

    def take(self, size: int) -> bool:
        """Whether *size* more bytes may be held; they are then, until they are given back."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def give_back(self, size: int) -> None:
        """Let go of bytes that were taken."""
        with self._lock:
            self._left += size


UPLOADS: Final = MemoryBudget(64 * 2**20)
"""What many small uploads share; one more goes to the storage at once."""


class MemoryReservation:
    """What one upload holds of ``UPLOADS``, until it lets go or is lost itself."""

    def __init__(self) -> None:
        self._size = 0

    def grow(self, size: int) -> bool:
        """Whether it may hold *size* bytes in all; then it does."""
        more = max(0, size - self._size)
        if not UPLOADS.take(more):
            return False
        self._size += more
        return True

    def let_go(self) -> None:
        """Give all of it back."""
        size, self._size = self._size, 0
        UPLOADS.give_back(size)

    def __del__(self) -> None:
        self.let_go()  # of somebody who had stopped waiting


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


class UploadBuffer:
    """What was received, with its running *digests*.

    *store* is given what was in memory, and returns where it is and the rest will be. *forget* is
    told before bytes change from some offset on: what the storage has of hash states is wrong then;
    all of them after somebody else's change, which -1 stands for.
    """

    def __init__(
        self,
        digests: DigesterSet,
        store: Callable[[bytes], UploadData],
        forget: Callable[[int], None],
    ) -> None:
        self.digests = digests
        self.interruption = Interruption()  # of ``hash_all``, and of a gap that is filled
        self.size = 0
        self.is_durable = False
        self.data: UploadData | None = None  # None while all is in memory
        self._content = bytearray()
        self._held = MemoryReservation()
        self._store = store
        self._forget = forget

    @property
    def content(self) -> bytes | None:
        """All of it, as long as it is in memory."""
        return bytes(self._content) if self.data is None else None

    def can_write_nowait(self, offset: int, size: int) -> bool:
        """Whether ``write_at`` only adds to what is open already."""
        if self.data is None:
            return offset + size <= IN_MEMORY and UPLOADS.has(size)
        if not self.size <= offset <= self.size + _CHUNK:
            return False
        return self.data.can_write_nowait(offset + size - self.size)

    def take_up(self, data: UploadData, size: int) -> None:
        """Go on with *size* bytes that are in the storage."""
        self.data, self.size, self.is_durable = data, size, True
        self.digests.recall(size)

    def go_back(self) -> None:
        """Forget what came after the last bytes whose hash is known: it cannot be read again."""
        while self.data is not None and (known := self.digests.seen) < self.size:
            try:
                self.data.go_back(known)
                self.size = known
            except AppendOnly:
                self.digests.recall(known - 1)

    def write_at(self, offset: int, data: bytes) -> None:
        """Put *data* at *offset*; raises AppendOnly, StorageFull, Busy, Stale."""
        if offset > self.size:
            self._extend(offset)
        stored = self._room_for(offset + len(data))
        if stored is not None:
            self._write_to(stored, offset, data)
            return
        self._forget_after(offset)
        self._content[offset : offset + len(data)] = data
        self.digests.follow(offset, data)
        self.size = len(self._content)

    def _write_to(self, stored: UploadData, offset: int, data: bytes) -> None:
        with self._forgotten_if_busy(stored) as file:
            self._write_to_file(file, offset, data)

    def _write_to_file(self, file: FileWriter, offset: int, data: bytes) -> None:
        try:
            if offset < self.size:
                file.rewrite(offset, b"")  # AppendOnly comes before anything is forgotten
                self._forget_after(offset)
                file.rewrite(offset, data)
                self.digests.follow(offset, data)
            else:
                file.write(data)
        finally:  # what was written before the room ended counts
            if offset == self.size:
                self.digests.follow(offset, data[: file.size - offset])
            self.size = file.size

    def truncate(self, size: int) -> None:
        """Cut to *size* bytes, or fill with zeros up to there; raises what ``write_at`` does."""
        if size > self.size:
            self._extend(size)
        elif size < self.size:
            if self.data is None:
                self._forget_after(size)
                del self._content[size:]
            else:
                self._cut(self.data, size)
            self.size = size

    def _cut(self, stored: UploadData, size: int) -> None:
        try:
            with self._forgotten_if_busy(stored) as file:
                file.truncate(self.size)  # AppendOnly comes before anything is forgotten
                self._forget_after(size)
                file.truncate(size)
        except AppendOnly:
            if size > 0:
                raise
            self._forget_after(0)
            stored.create()

    def _extend(self, size: int) -> None:
        stored = self._room_for(size)
        if stored is None:
            self._content += bytes(size - len(self._content))
        else:
            self._extend_in(stored, size)
        if size - self.size <= _HASHED_ZEROS:
            for offset in range(self.size, size, _CHUNK):
                self.digests.follow(offset, bytes(min(_CHUNK, size - offset)))
        self.size = size

    def _extend_in(self, stored: UploadData, size: int) -> None:
        try:
            with self._forgotten_if_busy(stored) as file:
                file.truncate(size)
        except AppendOnly:
            while self.size < size:
                self.interruption.check()
                self._write_to(stored, self.size, bytes(min(_CHUNK, size - self.size)))

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to *size* bytes from *offset*; raises Unsupported."""
        if self.data is None:
            return bytes(self._content[offset : offset + size])
        return self.data.read_at(self.size, offset, size)

    def hash_all(
        self, algorithm: str, read_at: Callable[[int, int], bytes] | None = None
    ) -> Digest | None:
        """The digest of all; what was not hashed yet is read again, None where it is missing.

        Raises Interrupted.
        """
        self.digests.add(algorithm, self.size)
        while (found := self.digests.of(algorithm, self.size)) is None:
            self.interruption.check()
            behind = self.digests.seen
            chunk = (read_at or self._read_back)(behind, min(_CHUNK, self.size - behind))
            if not chunk:
                return None
            self.digests.follow(behind, chunk)
        return found

    def _read_back(self, offset: int, size: int) -> bytes:
        if self.data is None:
            return self.read_at(offset, size)
        return self.data.read_back(self.size, offset, size)

    def sync(self) -> None:
        """Make all of it durable, in the storage; raises Busy if somebody else has written it."""
        stored = self.data or self._leave_memory()
        self.check_undisturbed(stored)
        with stored.closed_on_failure(self.size) as file:
            file.flush()

    def check_undisturbed(self, stored: UploadData) -> None:
        """Raise Busy if somebody else has written the data: all of it is hashed anew then."""
        with stored.closed_on_failure(self.size) as file, self._hashed_anew_if_busy():
            if not file.is_undisturbed():
                raise Busy(f"{stored.label} is being written by somebody else")

    @contextmanager
    def _forgotten_if_busy(self, stored: UploadData) -> Iterator[FileWriter]:
        """The open file, for a change, which is refused where somebody else has changed it."""
        file = stored.open(self.size)
        self.is_durable = False
        with self._hashed_anew_if_busy():
            yield file

    @contextmanager
    def _hashed_anew_if_busy(self) -> Iterator[None]:
        try:
            yield
        except Busy:
            self.hash_anew()
            raise

    def hash_anew(self) -> None:
        """Believe nothing of what was hashed: somebody else has changed it."""
        self._forget(-1)
        self.digests.recall(0)

    def _room_for(self, size: int) -> UploadData | None:
        """Where *size* bytes go, or None for the memory."""
        if self.data is None and (size > IN_MEMORY or not self._held.grow(size)):
            return self._leave_memory()
        return self.data

    def _leave_memory(self) -> UploadData:
        self.data = self._store(bytes(self._content))
        self._content = bytearray()
        self._held.let_go()
        return self.data

    def _forget_after(self, size: int) -> None:
        """Hash anew what comes after *size* bytes, which are about to change."""
        if size < self.size:
            self._forget(size)  # before they are: a registry that goes on would trust the states
            self.digests.forget_after(size)

    def let_go(self) -> None:
        """Give the memory back."""
        self._held.let_go()

"""Holding what is read to its digest, while it is read."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from enum import Enum
from functools import partial
from typing import Final

from blobfs.digest import Descriptor
from blobfs.drivers.base import FileReader
from blobfs.errors import BlobDamaged, DigestMismatch, PathNotFound

_REMEMBERED: Final = 4096
"""Blobs whose progress or verdict is kept, the latest read (a few hundred bytes each)."""

_READ_AHEAD: Final = 64
"""Reads of one open file kept until it is their turn; the kernel has as many under way."""


_BEHIND: Final = 8
"""Reads of one blob that were replied and are not hashed yet; they are of 1 MiB at most."""


class Verify(Enum):
    """When reads are verified."""

    NONE = "none"
    FIRST = "first"  # a blob that was found good is not hashed again
    ALWAYS = "always"


class _Progress:
    """How far a blob has been hashed, from its start, by whoever reads it."""

    def __init__(self, descriptor: Descriptor) -> None:
        self.descriptor = descriptor
        self.lock = threading.Lock()
        self.behind: deque[Callable[[], None]] = deque()  # what is to be hashed, without the lock
        self.start()

    def is_of(self, descriptor: Descriptor) -> bool:
        """Whether the blob has not been stored anew since."""
        ours = self.descriptor
        return (ours.size, ours.mtime_ns) == (descriptor.size, descriptor.mtime_ns)

    def start(self) -> None:
        self.position = 0
        self.hasher = hashlib.new(self.descriptor.digest.algorithm)
        self.good: bool | None = None  # not known yet
        self.end_was_read = False

    def catch_up(self) -> None:
        """Hash what was read and replied before; with the lock."""
        while self.behind:
            self.behind.popleft()()

    def update(self, data: bytes | memoryview) -> None:
        """Hash what comes next."""
        self.hasher.update(data)
        self.position += len(data)
        if self.position == self.descriptor.size:
            self.good = self.hasher.hexdigest() == self.descriptor.digest.encoded


class Verification:
    """Opens readers that fail with DigestMismatch instead of ending with wrong bytes.

    Hashing goes on where the last reader of the same blob left it, since the kernel asks
    only for what it has not cached. What is read before it is its turn is passed through, and
    hashed later: reads that are under way together end in any order where storage is slow.
    What storage holds ready is replied at once and hashed behind, but for the end of a blob: no
    read of it all ends well before all is hashed. A blob found bad stays so until it is stored
    anew, or until ``forget``. Thread-safe.
    """

    def __init__(self, verify: Verify) -> None:
        self._verify = verify
        self._lock = threading.Lock()
        self._progress: OrderedDict[str, _Progress] = OrderedDict()
        self._hashing = ThreadPoolExecutor(2, thread_name_prefix="blobfs-hashing")

    def reader(self, descriptor: Descriptor, reader: FileReader) -> FileReader:
        """A reader of the same bytes that is held to *descriptor*; it takes *reader* over."""
        progress = None if self._verify is Verify.NONE else self._progress_of(descriptor)
        if progress is not None and progress.good is False:
            reader.close()
            raise _mismatch(descriptor)
        again = self._verify is Verify.ALWAYS
        return _BlobReader(descriptor, reader, progress, self._hashing, again=again)

    def discard(self, descriptor: Descriptor) -> None:
        """Give a blob that was found bad another chance."""
        with self._lock:
            self._progress.pop(str(descriptor.digest), None)

    def _progress_of(self, descriptor: Descriptor) -> _Progress:
        key = str(descriptor.digest)
        with self._lock:
            progress = self._progress.pop(key, None)
            if progress is None or not progress.is_of(descriptor):
                progress = _Progress(descriptor)
            self._progress[key] = progress
            if len(self._progress) > _REMEMBERED:
                self._progress.popitem(last=False)
        return progress


class _BlobReader(FileReader):
    """Raises BlobDamaged where a blob ends early or is gone, DigestMismatch where it is wrong."""

    def __init__(
        self,
        descriptor: Descriptor,
        reader: FileReader,
        progress: _Progress | None,
        hashing: Executor,
        *,
        again: bool,
    ) -> None:
        self._hashing = hashing
        self._descriptor = descriptor
        self._reader = reader
        self._progress = progress
        self._again = again
        self._ahead: dict[
            int, bytes | memoryview
        ] = {}  # by offset, the oldest first; progress.lock guards it

    @property
    def size(self) -> int:
        return self._descriptor.size

    def read_at(self, offset: int, size: int) -> bytes:
        wanted = max(0, min(size, self._descriptor.size - offset))
        try:
            data = self._reader.read_at(offset, wanted)
        except PathNotFound:
            raise BlobDamaged(f"blob {self._descriptor.digest} is gone") from None
        if len(data) < wanted:
            raise BlobDamaged(
                f"blob {self._descriptor.digest} ends at {offset + len(data)},"
                f" not at {self._descriptor.size}"
            )
        if self._progress is not None and data:
            self._check(self._progress, offset, data)
        return data

    def read_nowait(self, offset: int, size: int) -> bytes | memoryview | None:
        progress = self._progress
        is_good = progress is None or (progress.good is True and not self._again)
        if not is_good and not self._may_hash_behind(offset + size):
            return None
        size = max(0, min(size, self._descriptor.size - offset))
        data = self._reader.read_nowait(offset, size)
        if data is None or len(data) < size:
            return None
        if progress is not None and not is_good:
            progress.behind.append(partial(self._hash, progress, offset, data))
            self._hashing.submit(_catch_up, progress)
        return data

    def _may_hash_behind(self, end: int) -> bool:
        """Whether a later read will wait until all is hashed; and few wait for that already."""
        progress = self._progress
        return (
            progress is not None
            and not self._again
            and progress.good is None
            and end < self._descriptor.size
            and not progress.end_was_read
            and len(progress.behind) < _BEHIND
        )

    def _check(self, progress: _Progress, offset: int, data: bytes) -> None:
        progress.end_was_read |= offset + len(data) == self._descriptor.size
        with progress.lock:
            progress.catch_up()
            if self._again and offset == 0 and progress.good:
                progress.start()
            if progress.good is None:
                self._hash(progress, offset, data)
            elif self._again:  # the read that starts anew may be on its way
                self._keep(offset, data)
            if progress.good is False:
                raise _mismatch(self._descriptor)

    def _hash(self, progress: _Progress, offset: int, data: bytes | memoryview) -> None:
        """Hash *data* if it is its turn, else keep it, and then what was kept for its turn."""
        if offset > progress.position:
            self._keep(offset, data)
        else:
            progress.update(data[progress.position - offset :])
        while progress.good is None and (chunk := self._ahead.pop(progress.position, None)):
            progress.update(chunk)

    def _keep(self, offset: int, data: bytes | memoryview) -> None:
        self._ahead[offset] = data
        if len(self._ahead) > _READ_AHEAD:
            del self._ahead[next(iter(self._ahead))]

    def close(self) -> None:
        self._reader.close()


def _catch_up(progress: _Progress) -> None:
    with progress.lock:
        progress.catch_up()


def _mismatch(descriptor: Descriptor) -> DigestMismatch:
    return DigestMismatch(f"the content of blob {descriptor.digest} does not match its digest")

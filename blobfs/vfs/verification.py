"""Verification of blobs against their digests while they are read."""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Final

from blobfs.concurrency import ThreadPool, guard
from blobfs.digest import Descriptor
from blobfs.drivers.base import FileReader
from blobfs.errors import BlobDamaged, DigestMismatch, PathNotFound

_REMEMBERED: Final = 4096
"""Blobs whose progress or result is remembered, the latest read (a few hundred bytes each)."""

_READ_AHEAD: Final = 64
"""Reads out of sequence that one open file keeps; the kernel has as many in progress.

All closed files together keep as many. A read has at most 1 MiB.
"""

_BEHIND: Final = 8
"""Reads of one blob that were answered before they are hashed, of at most 1 MiB each."""

_HASHING: Final = ThreadPool("hashing", 2)


class Verify(Enum):
    """When reads are verified."""

    NONE = "none"
    FIRST = "first"  # a blob that was found good is not hashed again
    ALWAYS = "always"


class _Progress:
    """Hash of the first bytes of a blob, which all its readers continue. Thread-safe.

    *lock* guards the hasher, *position*, *good* and the readers' bytes out of sequence; it is held
    while bytes are hashed, never during storage I/O. *_queue_lock* guards *_behind* and
    *_end_was_read*; it is never held for long, so that an event loop may take it.
    """

    def __init__(self, descriptor: Descriptor) -> None:
        self.descriptor = descriptor
        self.lock = guard()
        self._queue_lock = guard()
        self._behind: deque[Callable[[], None]] = deque()
        self._end_was_read = False
        self.start()

    def is_of(self, descriptor: Descriptor) -> bool:
        """True if *descriptor* is of the same stored file."""
        ours = self.descriptor
        return (ours.size, ours.mtime_ns) == (descriptor.size, descriptor.mtime_ns)

    def start(self) -> None:
        """Begin at the start of the blob; with the lock."""
        self.position = 0
        self.hasher = hashlib.new(self.descriptor.digest.algorithm)
        self.good: bool | None = None  # None: not known yet

    def may_answer_first(self, end: int) -> bool:
        """True if a read up to *end* may be answered first and hashed later."""
        with self._queue_lock:
            return self._may_answer_first(end)

    def _may_answer_first(self, end: int) -> bool:
        # A later read, of the end, has to wait until all is hashed.
        is_last = self._end_was_read or end >= self.descriptor.size
        return self.good is None and not is_last and len(self._behind) < _BEHIND

    def hash_later(self, end: int, call: Callable[[], None]) -> bool:
        """Queue the hashing of a read up to *end*; False if it may not be answered first."""
        with self._queue_lock:
            if not self._may_answer_first(end):
                return False
            self._behind.append(call)
            return True

    def end_reader(self, call: Callable[[], None]) -> None:
        """Queue *call* behind the reads of a reader that is closed."""
        with self._queue_lock:
            self._behind.append(call)

    def note_read(self, end: int) -> None:
        """Note a read up to *end*; after one of the blob's end none is answered first."""
        if end == self.descriptor.size:
            with self._queue_lock:
                self._end_was_read = True

    def catch_up(self) -> None:
        """Do the queued calls; with the lock."""
        while (call := self._next_call()) is not None:
            call()

    def _next_call(self) -> Callable[[], None] | None:
        with self._queue_lock:
            return self._behind.popleft() if self._behind else None

    def update(self, data: bytes | memoryview) -> None:
        """Hash the next bytes; with the lock."""
        self.hasher.update(data)
        self.position += len(data)
        if self.position == self.descriptor.size:
            self.good = self.hasher.hexdigest() == self.descriptor.digest.encoded


class _ReadAhead:
    """Reads out of sequence of closed readers, the latest of all blobs. Thread-safe by its lock.

    A read belongs to a hasher, so it is not used once the blob is hashed from its start again.
    """

    def __init__(self) -> None:
        self._lock = guard()
        self._chunks: OrderedDict[tuple[object, int], bytes | memoryview] = OrderedDict()

    def add(self, progress: _Progress, offset: int, data: bytes | memoryview) -> None:
        """Add a read."""
        with self._lock:
            self._chunks[progress.hasher, offset] = data
            if len(self._chunks) > _READ_AHEAD:
                self._chunks.popitem(last=False)

    def pop(self, progress: _Progress) -> bytes | memoryview | None:
        """Remove and return the read at the position of *progress*, if there is one."""
        with self._lock:
            return self._chunks.pop((progress.hasher, progress.position), None)


class Verification:
    """Opens readers that fail with DigestMismatch instead of ending with wrong bytes.

    Hashing continues where the last reader of the same blob stopped, since the kernel reads only
    bytes that it has not cached. Bytes out of sequence are passed through and hashed later, since
    parallel reads end in any order; they outlive their reader. Bytes that the storage has ready are
    answered first and hashed later, except the end of a blob: once its end is read, reads wait for
    the hash. A bad blob stays bad until it is replaced, or until ``invalidate``. Thread-safe: the
    lock guards the table of blobs.
    """

    def __init__(self, verify: Verify) -> None:
        self._verify = verify
        self._lock = guard()
        self._progress: OrderedDict[str, _Progress] = OrderedDict()
        self._read_ahead = _ReadAhead()

    def reader(self, descriptor: Descriptor, reader: FileReader) -> FileReader:
        """Return a reader that verifies against *descriptor*; it owns *reader*."""
        progress = None if self._verify is Verify.NONE else self._progress_of(descriptor)
        if progress is not None and progress.good is False:
            reader.close()
            raise _mismatch(descriptor)
        again = self._verify is Verify.ALWAYS
        return _BlobReader(descriptor, reader, progress, self._read_ahead, again=again)

    def invalidate(self, descriptor: Descriptor) -> None:
        """Discard the progress and result of a blob, so that it is hashed again."""
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
    """Raises BlobDamaged if a blob is short or missing, DigestMismatch if its bytes are wrong."""

    def __init__(
        self,
        descriptor: Descriptor,
        reader: FileReader,
        progress: _Progress | None,
        read_ahead: _ReadAhead,
        *,
        again: bool,
    ) -> None:
        self._read_ahead = read_ahead
        self._descriptor = descriptor
        self._reader = reader
        self._progress = progress
        self._again = again
        # By offset, the oldest first; under the lock of *progress*.
        self._ahead: dict[int, bytes | memoryview] = {}

    @property
    def size(self) -> int:
        return self._descriptor.size

    def read_at(self, offset: int, size: int) -> bytes:
        wanted = max(0, min(size, self._descriptor.size - offset))
        try:
            data = self._reader.read_at(offset, wanted)
        except PathNotFound:
            raise BlobDamaged(f"the data of blob {self._descriptor.digest} are missing") from None
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
        end = offset + size
        if not (is_good or progress is None or self._may_answer_first(progress, end)):
            return None
        size = max(0, min(size, self._descriptor.size - offset))
        data = self._reader.read_nowait(offset, size)
        if data is None or len(data) < size:
            return None
        if progress is not None and not is_good:
            if not progress.hash_later(end, partial(self._hash, progress, offset, data)):
                return None
            _HASHING.submit(partial(_catch_up, progress))
        return data

    def _may_answer_first(self, progress: _Progress, end: int) -> bool:
        return not self._again and progress.may_answer_first(end)

    def _check(self, progress: _Progress, offset: int, data: bytes) -> None:
        progress.note_read(offset + len(data))
        with progress.lock:
            progress.catch_up()
            if self._again and offset == 0 and progress.good:
                progress.start()
            if progress.good is None:
                self._hash(progress, offset, data)
            elif self._again:  # a parallel read of the start may begin the next hash
                self._keep(offset, data)
            if progress.good is False:
                raise _mismatch(self._descriptor)

    def _hash(self, progress: _Progress, offset: int, data: bytes | memoryview) -> None:
        """Hash *data* and the kept reads that follow, or keep *data* if it is out of sequence."""
        if offset > progress.position:
            self._keep(offset, data)
        else:
            progress.update(data[progress.position - offset :])
        self._hash_kept(progress)

    def _hash_kept(self, progress: _Progress) -> None:
        while progress.good is None and (chunk := self._next_kept(progress)):
            progress.update(chunk)

    def _next_kept(self, progress: _Progress) -> bytes | memoryview | None:
        return self._ahead.pop(progress.position, None) or self._read_ahead.pop(progress)

    def _keep(self, offset: int, data: bytes | memoryview) -> None:
        self._ahead[offset] = data
        if len(self._ahead) > _READ_AHEAD:
            del self._ahead[next(iter(self._ahead))]

    def _leave_kept(self, progress: _Progress) -> None:
        """Leave the reads out of sequence to the blob's next readers."""
        ahead, self._ahead = self._ahead, {}
        if progress.good is None:
            for offset, data in ahead.items():
                self._read_ahead.add(progress, offset, data)
            self._hash_kept(progress)

    def close(self) -> None:
        if self._progress is not None and self._progress.good is None:
            self._progress.end_reader(partial(self._leave_kept, self._progress))
            _HASHING.submit(partial(_catch_up, self._progress))
        self._reader.close()


def _catch_up(progress: _Progress) -> None:
    with progress.lock:
        progress.catch_up()


def _mismatch(descriptor: Descriptor) -> DigestMismatch:
    return DigestMismatch(f"the content of blob {descriptor.digest} does not match its digest")

"""Holding what is read to its digest, while it is read."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from enum import Enum
from typing import Final

from blobfs.digest import Descriptor
from blobfs.drivers.base import FileReader
from blobfs.errors import BlobDamaged, DigestMismatch

_REMEMBERED: Final = 4096
"""Blobs whose progress or verdict is kept, the latest read (a few hundred bytes each)."""


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
        self.start()

    def start(self) -> None:
        self.position = 0
        self.hasher = hashlib.new(self.descriptor.digest.algorithm)
        self.good: bool | None = None  # not known yet


class Verification:
    """Opens readers that fail with DigestMismatch instead of ending with wrong bytes.

    Hashing goes on where the last reader of the same blob left it, since the kernel asks
    only for what it has not cached; what is read out of sequence is passed through. A blob
    found bad stays so until it is stored anew. Thread-safe.
    """

    def __init__(self, verify: Verify) -> None:
        self._verify = verify
        self._lock = threading.Lock()
        self._progress: OrderedDict[str, _Progress] = OrderedDict()

    def reader(self, descriptor: Descriptor, reader: FileReader) -> FileReader:
        """A reader of the same bytes that is held to *descriptor*; it takes *reader* over."""
        progress = None if self._verify is Verify.NONE else self._progress_of(descriptor)
        if progress is not None and progress.good is False:
            reader.close()
            raise _mismatch(descriptor)
        return _BlobReader(descriptor, reader, progress, again=self._verify is Verify.ALWAYS)

    def _progress_of(self, descriptor: Descriptor) -> _Progress:
        key = str(descriptor.digest)
        with self._lock:
            progress = self._progress.pop(key, None)
            if progress is None or progress.descriptor.mtime_ns != descriptor.mtime_ns:
                progress = _Progress(descriptor)
            self._progress[key] = progress
            if len(self._progress) > _REMEMBERED:
                self._progress.popitem(last=False)
        return progress


class _BlobReader(FileReader):
    """Raises BlobDamaged where a blob ends early, DigestMismatch at the end of a wrong one."""

    def __init__(
        self,
        descriptor: Descriptor,
        reader: FileReader,
        progress: _Progress | None,
        *,
        again: bool,
    ) -> None:
        self._descriptor = descriptor
        self._reader = reader
        self._progress = progress
        self._again = again

    @property
    def size(self) -> int:
        return self._descriptor.size

    def read_at(self, offset: int, size: int) -> bytes:
        wanted = max(0, min(size, self._descriptor.size - offset))
        data = self._reader.read_at(offset, wanted)
        if len(data) < wanted:
            raise BlobDamaged(
                f"blob {self._descriptor.digest} ends at {offset + len(data)},"
                f" not at {self._descriptor.size}"
            )
        if self._progress is not None and data:
            self._check(self._progress, offset, data)
        return data

    def _check(self, progress: _Progress, offset: int, data: bytes) -> None:
        with progress.lock:
            if self._again and offset == 0 and progress.good:
                progress.start()
            if progress.good is None and offset <= progress.position < offset + len(data):
                progress.hasher.update(memoryview(data)[progress.position - offset :])
                progress.position = offset + len(data)
                if progress.position == self._descriptor.size:
                    encoded = self._descriptor.digest.encoded
                    progress.good = progress.hasher.hexdigest() == encoded
            if progress.good is False:
                raise _mismatch(self._descriptor)

    def close(self) -> None:
        self._reader.close()


def _mismatch(descriptor: Descriptor) -> DigestMismatch:
    return DigestMismatch(f"the content of blob {descriptor.digest} does not match its digest")

"""Random access to the archives of layers.

A read decompresses the spans between seek points that it touches, and the spans stay in a cache.
So a sequential reader decompresses each span once, and several readers share them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from threading import BoundedSemaphore
from typing import Final

from blobfs.concurrency import SingleFlight, guard, refuse_to_take_long, stop_check
from blobfs.digest import Digest
from blobfs.drivers.base import FileReader
from blobfs.images.compression import decompress
from blobfs.images.index_store import IndexStore
from blobfs.images.layer_index import LayerIndex, SpanContent
from blobfs.images.readers import Ask, AskingReader
from blobfs.images.source import Source

KIND: Final = "archive"
"""The kind of decompressed layers in an IndexStore."""

_CACHE_SIZE: Final = 32 * 2**20
_DECOMPRESSIONS: Final = 4
"""Decompressions at once: each holds a span, of 4 MiB in most layers and of 16 MiB at most."""

_Key = tuple[Digest, int]


class SpanCache:
    """The latest spans of all layers, of at most *limit* bytes.

    Thread-safe: the guard protects the table, and is not held while a span is decompressed. The
    spans that are being decompressed come on top; the semaphore limits their number.
    """

    def __init__(self, limit: int = _CACHE_SIZE) -> None:
        self.decompressed = 0
        self._limit = limit
        self._lock = guard()
        self._spans: OrderedDict[_Key, SpanContent] = OrderedDict()
        self._size = 0
        self._running: SingleFlight[_Key, SpanContent] = SingleFlight()
        self._places = BoundedSemaphore(_DECOMPRESSIONS)

    def stats(self) -> Mapping[str, int]:
        """Return the counts for the metrics."""
        return {"decompressed": self.decompressed}

    def find(self, key: _Key) -> SpanContent | None:
        """Return a span; None if it is not in the cache."""
        with self._lock:
            span = self._spans.get(key)
            if span is not None:
                self._spans.move_to_end(key)
            return span

    def get(self, key: _Key, decompress: Callable[[], SpanContent]) -> SpanContent:
        """Return a span, which one thread decompresses if it is missing; raises its errors."""
        found = self.find(key)
        if found is not None:
            return found
        refuse_to_take_long()
        return self._running.run(key, partial(self._fill, key, decompress))

    def discard(self, key: _Key) -> None:
        """Remove a span from the cache."""
        with self._lock:
            span = self._spans.pop(key, None)
            self._size -= len(span or b"")

    def _fill(self, key: _Key, decompress: Callable[[], SpanContent]) -> SpanContent:
        found = self.find(key)
        if found is not None:
            return found
        with self._places:
            span = decompress()
        with self._lock:
            self.decompressed += 1
            self._spans[key] = span
            self._size += len(span)
            while self._size > self._limit:
                _, old = self._spans.popitem(last=False)
                self._size -= len(old)
        return span


class SeekableLayer(FileReader):
    """The archive of a layer, by spans of its index. Owns the reader of the blob. Thread-safe.

    Bytes with another checksum than that in the index raise DigestMismatch.
    """

    def __init__(self, blob: FileReader, index: LayerIndex, spans: SpanCache) -> None:
        self._blob = blob
        self._index = index
        self._spans = spans

    @property
    def size(self) -> int:
        return self._index.size

    def read_at(self, offset: int, size: int) -> bytes:
        parts = []
        end = min(offset + size, self.size)
        while offset < end:
            number = self._index.span_number(offset)
            key = (self._index.key, number)
            span = self._spans.get(key, partial(self._index.read_span, number, self._blob))
            start = offset - self._index.span_start(number)
            part = span[start : start + end - offset]
            if _is_damaged(span, start, start + len(part)):
                self._spans.discard(key)  # the next read reads the blob again
                raise self._index.changed()
            offset += len(part)
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_nowait(self, offset: int, size: int) -> bytes | memoryview | None:
        end = min(offset + size, self.size)
        if offset >= end:
            return b""
        number = self._index.span_number(offset)
        if self._index.span_number(end - 1) != number:
            return None
        span = self._spans.find((self._index.key, number))
        if span is None:
            return None
        start = self._index.span_start(number)
        if _is_damaged(span, offset - start, end - start):
            return None
        return memoryview(span)[offset - start : end - start]

    def close(self) -> None:
        self._blob.close()


def _is_damaged(span: SpanContent, start: int, end: int) -> bool:
    return any(start < each.stop and each.start < end for each in span.damaged)


def write_archive(blob: FileReader, compression: str, diff_id: Digest | None, path: Path) -> None:
    """Decompress a layer as a whole into the file *path*; raises Corrupt, OSError."""
    pieces = decompress(compression, Source(blob.chunks()))
    if diff_id is not None:
        pieces = diff_id.verified(pieces)
    with path.open("wb") as file:
        for piece in pieces:
            stop_check.get()()
            file.write(piece)


def ask_for_archive(
    ask: Ask, size: int, compression: str, diff_id: Digest | None, path: Path
) -> None:
    """``write_archive`` of a blob of *size* bytes, which are asked for by offset and size."""
    write_archive(AskingReader(ask, size), compression, diff_id, path)


def open_archive(
    store: IndexStore,
    index: LayerIndex,
    blob: FileReader,
    spans: SpanCache,
    write: Callable[[FileReader, str, Digest | None, Path], None] = write_archive,
) -> FileReader:
    """Return a reader of the archive of a layer, which owns *blob*.

    A layer that is not seekable is decompressed into *store* now, by *write*, if it is not there.
    """
    if index.is_seekable:
        return SeekableLayer(blob, index, spans)
    with blob:
        make = partial(write, blob, index.compression, index.diff_id)
        return store.open(KIND, index.digest, make, index.size)

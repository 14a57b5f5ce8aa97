"""Writing objects by multipart uploads, whose parts are sent while the program still writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from hashlib import sha256
from itertools import accumulate
from typing import Final, NamedTuple, TypeVar

from blobfs.drivers.base import FileInfo, FileWriter
from blobfs.drivers.s3.client import Bucket, put_object, remove_object
from blobfs.drivers.s3.multipart import MultipartUpload, UploadedPart
from blobfs.drivers.s3.options import MIN_PART
from blobfs.drivers.s3.reader import get_whole
from blobfs.errors import AppendOnly, BlobfsError, PathNotFound, Stale, WriterClosed

T = TypeVar("T")

_TAIL_HEADER: Final = re.compile(rb"(\d{1,15}) ([0-9a-f]{32}) (\d{1,5}) ([0-9a-f]{32})")

_IN_FLIGHT: Final = 4
"""Parts of one file that are sent in parallel and held in memory, beside the one being filled."""

_PARTS: Final = 2_500
"""Number of parts after which the part size doubles. S3 allows 10,000: 300 GiB from 8 MiB on."""


class _Sent(NamedTuple):
    content: bytearray
    arrival: Future[UploadedPart]


class _Tail(NamedTuple):
    """The object that ``flush`` stores: the bytes that do not fill a part, and hashes of the parts.

    *content* begins at *offset*, and *prefix_hash* is the hash of the parts before it. *parts* is
    the number of parts at the last flush, and *parts_hash* their hash. It counts more parts than
    those before *content* if the last flush ended at the end of a part; then *content* is that of
    the flush before, so that ``go_back`` can return to it.
    """

    offset: int
    prefix_hash: str
    parts: int
    parts_hash: str
    content: bytes

    @classmethod
    def of(cls, parts: Sequence[UploadedPart], content: bytes) -> _Tail:
        """Describe the uploaded *parts* and the *content* after them."""
        hashed = _hash(parts)
        return cls(sum(part.size for part in parts), hashed, len(parts), hashed, content)

    def at(self, parts: Sequence[UploadedPart]) -> _Tail:
        """Describe *parts* without bytes after them, and keep the old content."""
        return self._replace(parts=len(parts), parts_hash=_hash(parts))

    @classmethod
    def parse(cls, stored: bytes) -> _Tail | None:
        """Parse the object's content; None for anything else."""
        header, _, content = stored.partition(b"\n")
        found = _TAIL_HEADER.fullmatch(header)
        if found is None:
            return None
        return cls(int(found[1]), found[2].decode(), int(found[3]), found[4].decode(), content)

    @property
    def end(self) -> int:
        """Bytes of the parts before the tail and of the tail together."""
        return self.offset + len(self.content)

    def stored(self) -> bytes:
        """Format the object's content."""
        before, all_parts = self.prefix_hash.encode(), self.parts_hash.encode()
        return b"%d %s %d %s\n%s" % (self.offset, before, self.parts, all_parts, self.content)


def _hash(parts: Sequence[UploadedPart]) -> str:
    lines = (f"{part.number} {part.etag} {part.size}\n" for part in parts)
    return sha256("".join(lines).encode()).hexdigest()[:32]


class MultipartWriter(FileWriter):
    """Writes the object at *path*, which does not change before ``commit``.

    ``flush`` stores the bytes that do not fill a part as a separate object, the tail: S3 takes no
    small part but the last, and the content of a part cannot be read. A part that could not be sent
    stays in memory, and is sent again by the next call that needs it. The tail also has a hash of
    the parts' ETags: if it differs later, another program has written to the upload. One thread at
    a time may call a writer; its parts are sent by the bucket's pool.
    """

    def __init__(self, bucket: Bucket, path: str, upload: MultipartUpload | None = None) -> None:
        self._bucket = bucket
        self._path = path
        self._upload = upload
        self._parts: list[UploadedPart] = []  # uploaded, without a gap
        self._sent: dict[int, _Sent] = {}  # in flight, by number and in order
        self._size_of_parts = 0  # bytes in both
        self._tail = bytearray()
        self._stored_tail: _Tail | None = None
        self._undisturbed = 0  # bytes that have not changed since they were flushed
        self._is_closed = False

    @classmethod
    def resumed(cls, bucket: Bucket, upload: MultipartUpload) -> MultipartWriter:
        """Continue *upload* after its stored bytes; raises PathNotFound if it has ended."""
        writer = cls(bucket, upload.path, upload)
        writer._empty(writer._load(upload))
        if writer._ends_small():  # a registry has written it
            writer._complete_and_continue(upload)
        return writer

    @classmethod
    def stat(cls, bucket: Bucket, upload: MultipartUpload) -> FileInfo:
        """The attributes of the bytes that ``resumed`` continues; raises PathNotFound."""
        writer = cls(bucket, upload.path, upload)
        writer._load(upload)
        mtime_ns = max((part.mtime_ns for part in writer._parts), default=0)
        return FileInfo(upload.path, writer.size, False, mtime_ns)

    def _load(self, upload: MultipartUpload) -> list[UploadedPart]:
        """Load the parts and the tail as far as they are contiguous; return the other parts."""
        parts = upload.parts()
        count = next(
            (i for i, part in enumerate(parts) if part.number != i + 1 or part.size == 0),
            len(parts),
        )
        ends = list(accumulate((part.size for part in parts[:count]), initial=0))
        self._stored_tail = stored = self._read_tail(upload)
        if stored is not None and stored.offset in ends:
            before = ends.index(stored.offset)
            is_undisturbed = stored.prefix_hash == _hash(parts[:before])
            self._undisturbed = stored.end if is_undisturbed else 0
            if before < stored.parts <= count and stored.parts_hash == _hash(parts[: stored.parts]):
                self._undisturbed = ends[stored.parts]
            # A part after the tail's offset may be the tail itself, sent before a failed commit.
            elif stored.end >= ends[-1] or (is_undisturbed and stored.content):
                count = before
                self._tail = bytearray(stored.content)
        self._parts = parts[:count]
        self._size_of_parts = ends[count]
        return parts[count:]

    def _empty(self, parts: Sequence[UploadedPart]) -> None:
        """Replace *parts* by empty ones, as S3 cannot remove a part."""
        if self._upload is None:
            return
        emptied = [
            self._bucket.pool.submit(partial(self._upload.put, part.number, b""))
            for part in parts
            if part.size
        ]
        for part in emptied:
            self._stale_if_ended(part.result)

    def _ends_small(self) -> bool:
        return bool(self._parts) and self._parts[-1].size < MIN_PART

    def _complete_and_continue(self, upload: MultipartUpload) -> None:
        upload.complete(self._parts)
        self._upload, self._parts = None, []
        self.start_from_object(self._size_of_parts)

    def start_from_object(self, size: int) -> None:
        """Begin with the content of the existing object, which has *size* bytes."""
        self._size_of_parts = 0
        if size < MIN_PART:
            self._tail = bytearray(get_whole(self._bucket, self._path).content)
            return
        self._upload = MultipartUpload.begin(self._bucket, self._path)
        self._parts = self._upload.copy_all(self._bucket.source(self._path), size)
        self._size_of_parts = size

    @property
    def token(self) -> str:
        return self._upload.id if self._upload is not None else ""

    @property
    def size(self) -> int:
        return self._size_of_parts + len(self._tail)

    @property
    def undisturbed_size(self) -> int:
        return self._undisturbed

    def write(self, data: bytes) -> None:
        self._check_open()
        view = memoryview(data)
        while view:
            # A resumed tail may be longer than a part, if the chunk size was larger then.
            room = max(0, self._part_size() - len(self._tail))
            self._tail += view[:room]
            view = view[room:]
            if len(self._tail) >= self._part_size():
                self._send()

    def can_write_nowait(self, size: int) -> bool:
        return len(self._tail) + size < self._part_size()

    def _part_size(self) -> int:
        number = len(self._parts) + len(self._sent)
        return self._bucket.options.chunk_size << number // _PARTS

    def _send(self) -> None:
        """Send the full part, after waiting until fewer than ``_IN_FLIGHT`` are in flight."""
        if self._upload is None:
            self._upload = MultipartUpload.begin(self._bucket, self._path)
        while len(self._sent) >= _IN_FLIGHT:
            self._await_first()
        number = len(self._parts) + len(self._sent) + 1
        content, self._tail = self._tail, bytearray()
        self._sent[number] = self._submit(self._upload, number, content)
        self._size_of_parts += len(content)

    def _submit(self, upload: MultipartUpload, number: int, content: bytearray) -> _Sent:
        return _Sent(content, self._bucket.pool.submit(partial(upload.put, number, content)))

    def _await_first(self) -> None:
        number, sent = next(iter(self._sent.items()))
        if sent.arrival.done() and sent.arrival.exception() is not None and self._upload:
            sent = self._sent[number] = self._submit(self._upload, number, sent.content)
        self._parts.append(self._stale_if_ended(sent.arrival.result))
        del self._sent[number]

    def _await_all(self) -> None:
        while self._sent:
            self._await_first()

    def _stale_if_ended(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except PathNotFound:
            raise Stale(f"{self._path}: another program has ended the multipart upload") from None

    def flush(self) -> None:
        self._check_open()
        self._await_all()
        if self._upload is None:
            self._upload = MultipartUpload.begin(self._bucket, self._path)
        stored = self._stored_tail
        if self._tail or stored is None or not stored.content or self.size < stored.end:
            tail = _Tail.of(self._parts, bytes(self._tail))
        else:
            tail = stored.at(self._parts)
        if tail != stored:
            put_object(self._bucket, self._upload.tail, tail.stored())
            self._stored_tail = tail

    def go_back(self, size: int) -> None:
        self._check_open()
        self._await_all()
        if size == self.size:
            return
        count, before = 0, 0
        stored = self._stored_tail
        wanted = stored.offset if stored is not None and stored.end == size else size
        for part in self._parts:
            if before == wanted:
                break
            before += part.size
            count += 1
        if before != wanted:
            raise AppendOnly(f"{self._path} cannot be cut to {size} bytes")
        self._empty(self._parts[count:])
        del self._parts[count:]
        self._size_of_parts = before
        if stored is not None and stored.end == size:
            self._tail = bytearray(stored.content)
        else:
            self._tail = bytearray()
            self._remove_tail()

    def commit(self) -> None:
        self._check_open()
        self._await_all()
        if self._upload is None or self.size == 0:
            put_object(self._bucket, self._path, bytes(self._tail))
            if self._upload is not None:
                self._upload.abort()
        else:
            self._complete(self._upload)
        self._end()

    def _complete(self, upload: MultipartUpload) -> None:
        parts = list(self._parts)
        if self._tail:
            last = len(parts) + 1
            parts.append(self._stale_if_ended(lambda: upload.put(last, self._tail)))
        self._stale_if_ended(lambda: upload.complete(parts))

    def cancel(self) -> None:
        self._check_open()
        for sent in self._sent.values():
            if not sent.arrival.cancel():
                sent.arrival.exception()  # waits, as a part that arrives later is not removed
        if self._upload is not None:
            self._upload.abort()
        self._end()

    def close(self) -> None:
        if self._is_closed:
            return
        try:
            self.flush()
        finally:
            self._is_closed = True

    def _end(self) -> None:
        self._is_closed = True
        try:
            self._remove_tail()
        except BlobfsError:  # the file is complete, and the tail is hidden
            pass

    def _remove_tail(self) -> None:
        if self._stored_tail is not None and self._upload is not None:
            remove_object(self._bucket, self._upload.tail)
            self._stored_tail = None

    def _read_tail(self, upload: MultipartUpload) -> _Tail | None:
        try:
            return _Tail.parse(get_whole(self._bucket, upload.tail).content)
        except PathNotFound:
            return None

    def _check_open(self) -> None:
        if self._is_closed:
            raise WriterClosed(f"no longer open for writing: {self._path}")

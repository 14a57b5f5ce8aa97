"""A file being written: a multipart upload whose parts go while the program still writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future
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

_UNDER_WAY: Final = 4
"""Parts of one file that are sent at once, and so held; one more is being filled."""

_PARTS: Final = 2_500
"""Parts of one size, before it doubles: 10,000 are allowed, 300 GiB then, at 8 MiB."""


class _Sent(NamedTuple):
    content: bytearray
    arrival: Future[UploadedPart]


class _Tail(NamedTuple):
    """The object that ``flush`` stores: what does not fill a part, and *seals* of the parts.

    *offset* is where *content* begins, *seal* names the parts before it. *parts* is how many had
    arrived at the last flush, which *whole* names: more than those before the content if that
    flush ended where a part does. So it is possible to go back to the flush before.
    """

    offset: int
    seal: str
    parts: int
    whole: str
    content: bytes

    @classmethod
    def of(cls, parts: Sequence[UploadedPart], content: bytes) -> _Tail:
        """Describe the *parts* that have arrived, and the *content* after them."""
        seal = _seal(parts)
        return cls(sum(part.size for part in parts), seal, len(parts), seal, content)

    def at(self, parts: Sequence[UploadedPart]) -> _Tail:
        """Describe *parts* after which nothing is left, and keep the content."""
        return self._replace(parts=len(parts), whole=_seal(parts))

    @classmethod
    def parse(cls, stored: bytes) -> _Tail | None:
        """Read the object; None for anything else."""
        header, _, content = stored.partition(b"\n")
        found = _TAIL_HEADER.fullmatch(header)
        if found is None:
            return None
        return cls(int(found[1]), found[2].decode(), int(found[3]), found[4].decode(), content)

    @property
    def end(self) -> int:
        """Bytes of the parts and of the tail together."""
        return self.offset + len(self.content)

    def stored(self) -> bytes:
        """Give the object's content."""
        numbers = (self.offset, self.seal.encode(), self.parts, self.whole.encode(), self.content)
        return b"%d %s %d %s\n%s" % numbers


def _seal(parts: Sequence[UploadedPart]) -> str:
    lines = (f"{part.number} {part.etag} {part.size}\n" for part in parts)
    return sha256("".join(lines).encode()).hexdigest()[:32]


class MultipartWriter(FileWriter):
    """Writes the object at *path*, which stays what it was until ``commit``.

    What does not fill a part is kept by ``flush`` as an object of its own, the tail: S3 takes
    no small part but the last, and shows none. What could not be sent is kept, and sent again
    by the next call that needs it to be there. The tail also names the parts before it by their
    ETags: where a part is another one later, somebody else has written it.
    """

    def __init__(self, bucket: Bucket, path: str, upload: MultipartUpload | None = None) -> None:
        self._bucket = bucket
        self._path = path
        self._upload = upload
        self._parts: list[UploadedPart] = []  # those that have arrived, without a gap
        self._sent: dict[int, _Sent] = {}  # by number, in their order
        self._sealed = 0  # bytes in both
        self._tail = bytearray()
        self._kept: _Tail | None = None
        self._undisturbed = 0  # bytes that are as they were when they were flushed
        self._is_over = False

    @classmethod
    def resumed(cls, bucket: Bucket, upload: MultipartUpload) -> MultipartWriter:
        """Go on with what has arrived of an upload; raises PathNotFound if it has ended."""
        writer = cls(bucket, upload.path, upload)
        writer._discard(writer._take_up(upload))
        if writer._ends_small():  # as a registry leaves it
            writer._complete_and_begin_anew(upload)
        return writer

    @classmethod
    def stat(cls, bucket: Bucket, upload: MultipartUpload) -> FileInfo:
        """What ``resumed`` would go on with; raises PathNotFound."""
        writer = cls(bucket, upload.path, upload)
        writer._take_up(upload)
        mtime_ns = max((part.mtime_ns for part in writer._parts), default=0)
        return FileInfo(upload.path, writer.size, False, mtime_ns)

    def _take_up(self, upload: MultipartUpload) -> list[UploadedPart]:
        """Begin with what is there, as far as it belongs together; the parts that do not."""
        parts = upload.parts()
        count = next(
            (i for i, part in enumerate(parts) if part.number != i + 1 or part.size == 0),
            len(parts),
        )
        ends = list(accumulate((part.size for part in parts[:count]), initial=0))
        self._kept = kept = self._read_tail(upload)
        if kept is not None and kept.offset in ends:
            sealed = ends.index(kept.offset)
            is_undisturbed = kept.seal == _seal(parts[:sealed])
            self._undisturbed = kept.end if is_undisturbed else 0
            if sealed < kept.parts <= count and kept.whole == _seal(parts[: kept.parts]):
                self._undisturbed = ends[kept.parts]
            # A part behind the tail may be the tail, as it was sent for a completion that failed.
            elif kept.end >= ends[-1] or (is_undisturbed and kept.content):
                count = sealed
                self._tail = bytearray(kept.content)
        self._parts = parts[:count]
        self._sealed = ends[count]
        return parts[count:]

    def _discard(self, parts: Sequence[UploadedPart]) -> None:
        """Leave nothing of *parts* to who goes on; S3 cannot remove them."""
        if self._upload is None:
            return
        emptied = [
            self._bucket.pool.submit(self._upload.put, part.number, b"")
            for part in parts
            if part.size
        ]
        for part in emptied:
            self._stale_if_ended(part.result)

    def _ends_small(self) -> bool:
        return bool(self._parts) and self._parts[-1].size < MIN_PART

    def _complete_and_begin_anew(self, upload: MultipartUpload) -> None:
        upload.complete(self._parts)
        self._upload, self._parts = None, []
        self.take_over(self._sealed)

    def take_over(self, size: int) -> None:
        """Begin with the object that is there, which has *size* bytes."""
        self._sealed = 0
        if size < MIN_PART:
            self._tail = bytearray(get_whole(self._bucket, self._path).content)
            return
        self._upload = MultipartUpload.begin(self._bucket, self._path)
        self._parts = self._upload.copy_all(self._path, size)
        self._sealed = size

    @property
    def token(self) -> str:
        return self._upload.id if self._upload is not None else ""

    @property
    def size(self) -> int:
        return self._sealed + len(self._tail)

    @property
    def undisturbed_size(self) -> int:
        return self._undisturbed

    def write(self, data: bytes) -> None:
        self._check_open()
        view = memoryview(data)
        while view:
            room = max(0, self._part_size() - len(self._tail))  # one from a larger chunk size
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
        """Send what fills a part, once there is room among those under way."""
        if self._upload is None:
            self._upload = MultipartUpload.begin(self._bucket, self._path)
        while len(self._sent) >= _UNDER_WAY:
            self._await_first()
        number = len(self._parts) + len(self._sent) + 1
        content, self._tail = self._tail, bytearray()
        self._sent[number] = self._under_way(self._upload, number, content)
        self._sealed += len(content)

    def _under_way(self, upload: MultipartUpload, number: int, content: bytearray) -> _Sent:
        return _Sent(content, self._bucket.pool.submit(upload.put, number, content))

    def _await_first(self) -> None:
        number, sent = next(iter(self._sent.items()))
        if sent.arrival.done() and sent.arrival.exception() is not None and self._upload:
            sent = self._sent[number] = self._under_way(self._upload, number, sent.content)
        self._parts.append(self._stale_if_ended(sent.arrival.result))
        del self._sent[number]

    def _stale_if_ended(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except PathNotFound:
            raise Stale(f"{self._path}: the multipart upload was ended by somebody else") from None

    def flush(self) -> None:
        self._check_open()
        while self._sent:
            self._await_first()
        if self._upload is None:
            self._upload = MultipartUpload.begin(self._bucket, self._path)
        kept = self._kept
        if self._tail or kept is None or not kept.content or self.size < kept.end:
            tail = _Tail.of(self._parts, bytes(self._tail))
        else:
            tail = kept.at(self._parts)
        if tail != kept:
            put_object(self._bucket, self._upload.tail, tail.stored())
            self._kept = tail

    def go_back(self, size: int) -> None:
        self._check_open()
        while self._sent:
            self._await_first()
        if size == self.size:
            return
        count, sealed = 0, 0
        kept = self._kept
        wanted = kept.offset if kept is not None and kept.end == size else size
        for part in self._parts:
            if sealed == wanted:
                break
            sealed += part.size
            count += 1
        if sealed != wanted:
            raise AppendOnly(f"{self._path} cannot go back to {size} bytes")
        self._discard(self._parts[count:])
        del self._parts[count:]
        self._sealed = sealed
        if kept is not None and kept.end == size:
            self._tail = bytearray(kept.content)
        else:
            self._tail = bytearray()
            self._forget_kept()

    def commit(self) -> None:
        self._check_open()
        while self._sent:
            self._await_first()
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
                sent.arrival.exception()  # once it has arrived or failed, it can be removed
        if self._upload is not None:
            self._upload.abort()
        self._end()

    def close(self) -> None:
        if self._is_over:
            return
        try:
            self.flush()
        finally:
            self._is_over = True

    def _end(self) -> None:
        self._is_over = True
        try:
            self._forget_kept()
        except BlobfsError:  # the file is what it should be, and nobody sees the tail
            pass

    def _forget_kept(self) -> None:
        if self._kept is not None and self._upload is not None:
            remove_object(self._bucket, self._upload.tail)
            self._kept = None

    def _read_tail(self, upload: MultipartUpload) -> _Tail | None:
        try:
            return _Tail.parse(get_whole(self._bucket, upload.tail).content)
        except PathNotFound:
            return None

    def _check_open(self) -> None:
        if self._is_over:
            raise WriterClosed(f"no longer open for writing: {self._path}")

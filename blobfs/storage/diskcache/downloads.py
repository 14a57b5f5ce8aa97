"""Downloads: incomplete blobs of a cache, which their readers fill.

All readers of a blob write to its ``Download``, in any order. When it is complete, one thread
verifies it and turns it into an entry. A download without a reader is kept for a while, because
the kernel does not read again the bytes that it has in its page cache.
"""

from __future__ import annotations

import logging
import os
import time
from collections import OrderedDict, deque
from pathlib import Path
from threading import Condition, Thread
from typing import Final, NamedTuple

from blobfs.concurrency import CallLock, guard, start_thread
from blobfs.digest import Descriptor
from blobfs.drivers.temporaries import write_at
from blobfs.logs import about
from blobfs.storage.diskcache.entries import (
    Entries,
    Ranges,
    allocated_size,
    on_disk,
    write_checksums,
)
from blobfs.storage.diskcache.health import Health
from blobfs.storage.diskcache.quota import SpaceQuota

_MAX_DOWNLOADS: Final = 128
"""Concurrent downloads; each has an open file."""

_MAX_RANGES: Final = 4096
"""Ranges of one download; a blob with more random reads is rarely read completely."""

_CLOSING_S: Final = 2.0
"""The time that ``close`` waits for the verification of complete downloads."""

log = logging.getLogger(__name__)


class IdleLimits(NamedTuple):
    """The disk space of all downloads without a reader, in bytes, and the lifetime of each."""

    size: int
    seconds: float


class Download:
    """An incomplete blob in a temporary file; *taken* bytes of the quota are in use for it.

    Thread-safe: its lock serializes the writes and guards the ranges, *taken* and *is_over*. The
    lock of ``Downloads`` guards *users*. No other lock is taken under it.
    """

    def __init__(self, blob: Descriptor, path: Path) -> None:
        self.blob = blob
        self.path = path
        self.users = 0
        self.is_over = False  # no more writes
        self.taken = 0
        self.lock = CallLock()
        self.ranges = Ranges()
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def lacks(self, offset: int, end: int) -> bool:
        """True if bytes between *offset* and *end* are missing, and can be written."""
        with self.lock:
            return not self.is_over and bool(self.ranges.missing(offset, end))

    def write(self, offset: int, data: bytes, taken: int) -> int:
        """Write *data*, for which *taken* bytes were taken; return how many were not needed."""
        view = memoryview(data)
        with self.lock:
            if self.is_over:
                return taken
            before = self.ranges.allocated
            self.taken += taken
            for start, end in self.ranges.missing(offset, offset + len(data)):
                write_at(self.fd, view[start - offset : end - offset], start)
                self.ranges.add(start, end)
            unused = taken - (self.ranges.allocated - before)
            self.taken -= unused
            return unused

    def end(self, *, complete: bool) -> bool:
        """End the writes; return False if they had ended.

        With *complete*, a download with missing bytes does not end, and False is returned.
        """
        with self.lock:
            if self.is_over or (complete and self.ranges.missing(0, self.blob.size)):
                return False
            self.is_over = True
            return True


class Downloads:
    """The downloads of this process. It owns their files and the verifying thread.

    Thread-safe: the condition guards all tables. No other lock is taken under it. Failures raise
    OSError; the verifying thread reports its own to *health*.
    """

    def __init__(
        self, quota: SpaceQuota, entries: Entries, health: Health, idle: IdleLimits
    ) -> None:
        self.stored = 0
        self.mismatched = 0
        self._quota = quota
        self._entries = entries
        self._health = health
        self._idle_limits = idle
        self._changed = Condition(guard())
        self._downloads: dict[Descriptor, Download] = {}
        self._idle: OrderedDict[Download, float] = OrderedDict()  # idle since
        self._complete: deque[Download] = deque()
        self._thread: Thread | None = None
        self._closing = self._closed = False

    def join(self, blob: Descriptor) -> Download | None:
        """Return the download for a new reader of *blob*; None if there is no space for it.

        The reader calls ``leave`` at its end.
        """
        with self._changed:
            download = self._joined(blob)
        if download is not None or not self._quota.can_fit(blob.size):
            return download
        while len(self._downloads) >= _MAX_DOWNLOADS:
            if not self._drop_oldest():
                return None
        taken = allocated_size(blob.size) - on_disk(0, blob.size)  # for the checksums
        if not self._take(taken):
            return None
        try:
            new = Download(blob, self._quota.new_file())
        except BaseException:
            self._quota.give_back(taken)
            raise
        new.users, new.taken = 1, taken
        with self._changed:
            download = self._joined(blob)
            if download is None and not self._closing:
                download = self._downloads[blob] = new
        if download is not new:
            self._drop(new)
        return download

    def _joined(self, blob: Descriptor) -> Download | None:
        download = self._downloads.get(blob)
        if download is not None:
            download.users += 1
            self._idle.pop(download, None)
        return download

    def leave(self, download: Download) -> None:
        """Count a reader that has ended."""
        with self._changed:
            download.users -= 1
            if download.users == 0 and not download.is_over:
                self._idle[download] = time.monotonic()
                self._notify()
        while self._is_too_much_idle():
            self._drop_oldest()

    def _is_too_much_idle(self) -> bool:
        with self._changed:
            return sum(download.taken for download in self._idle) > self._idle_limits.size

    def add(self, download: Download, offset: int, data: bytes) -> None:
        """Write *data* to *download*, which is dropped if there is no space."""
        end = offset + len(data)
        if not download.lacks(offset, end):
            return
        taken = on_disk(offset, end)
        if len(download.ranges) > _MAX_RANGES or not self._take(taken):
            self._drop(download)
            return
        unused = download.write(offset, data, taken)
        if unused:
            self._quota.give_back(unused)
        if download.end(complete=True):
            with self._changed:
                self._complete.append(download)
                self._notify()

    def drop_all(self) -> None:
        """Drop all incomplete downloads."""
        for download in list(self._downloads.values()):
            self._drop(download)

    def close(self) -> None:
        """Wait up to 2 s for the verification of complete downloads, and drop the others."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(_CLOSING_S)
        self._closed = True
        self.drop_all()

    def _take(self, size: int) -> bool:
        while not self._quota.take(size):
            if not self._drop_oldest():
                return False
        return True

    def _drop_oldest(self) -> bool:
        """Drop the download that is idle for the longest time; return False if none is idle."""
        with self._changed:
            if not self._idle:
                return False
            download, _ = self._idle.popitem(last=False)
            self._unlist(download)
        self._drop(download)
        return True

    def _drop(self, download: Download) -> None:
        if download.end(complete=False):
            self._discard(download)

    def _discard(self, download: Download) -> None:
        """Remove an ended download; only the thread that ended it calls this."""
        with self._changed:
            self._idle.pop(download, None)
            self._unlist(download)
        os.close(download.fd)
        try:
            download.path.unlink(missing_ok=True)
        finally:
            self._quota.give_back(download.taken)

    def _unlist(self, download: Download) -> None:
        if self._downloads.get(download.blob) is download:
            del self._downloads[download.blob]

    def _notify(self) -> None:
        if self._thread is None:
            self._thread = start_thread("disk-cache", self._work)
        self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._complete or self._closing) and (wait_s := self._wait_s()) != 0:
                    self._changed.wait(wait_s)
                if self._closing and not self._complete:
                    return
                download = self._complete.popleft() if self._complete else None
            try:
                if download is None:
                    self._drop_oldest()
                else:
                    self._finish(download)
            except InterruptedError:
                pass  # the cache is being closed
            except OSError as exc:
                if not self._closed:
                    self._health.failed(exc)

    def _wait_s(self) -> float | None:
        """Return the time until the next idle download expires; None if none is idle."""
        since = next(iter(self._idle.values()), None)
        if since is None:
            return None
        return max(0.0, since + self._idle_limits.seconds - time.monotonic())

    def _finish(self, download: Download) -> None:
        """Turn a complete download into an entry if it matches its digest."""
        blob = download.blob
        try:
            if not write_checksums(download.fd, blob, lambda: not self._closed):
                self.mismatched += 1
                log.warning(
                    "blob %s is not cached: it does not match its digest",
                    blob.digest,
                    extra=about(digest=blob.digest),
                )
                return
            if self._quota.add_entry(download.path, blob.digest, blob.size, download.taken):
                download.taken = 0
                self.stored += 1
                self._entries.sync(blob.digest)
            else:
                download.taken = 0
            self._health.worked()
        finally:
            self._discard(download)

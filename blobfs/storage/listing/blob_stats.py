"""Cached attributes of blobs, from listings and HEAD requests."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

from blobfs.concurrency import SingleFlight, guard
from blobfs.drivers.base import FileInfo
from blobfs.drivers.objectstore import ObjectStore, Page

_MAX: Final = 200_000
"""Blobs kept (about 300 bytes each), the most recently added ones."""

_FEW: Final = 8
"""The number of unknown blobs from which one page of a listing replaces single requests."""

_Put = Callable[[Iterable[tuple[str, FileInfo | None]]], None]


class BlobStats:
    """Attributes of blobs below *root*, each valid for *ttl_s* seconds.

    A missing blob is noted for *missing_ttl_s*, so that a listing of links whose blobs were
    removed requests each once.

    For many blobs at once a few pages of all blobs are listed. The next call continues with the
    next page. Blobs that are still unknown are requested one by one. So a look at a few
    repositories costs a few requests, and a walk of all costs a page for each thousand blobs.

    What a request found is not kept for a path that has changed since the begin of the request.

    Thread-safe: the lock guards all changes of the tables, and one thread at a time lists a page.
    """

    def __init__(
        self, store: ObjectStore, root: str, ttl_s: float, missing_ttl_s: float = 0.0
    ) -> None:
        self._store = store
        self._root = root
        self._ttl_s = ttl_s
        self._missing_ttl_s = missing_ttl_s
        self._missing: OrderedDict[str, float] = OrderedDict()  # path: expiry
        self._changed_meanwhile: dict[int, set[str]] = {}  # of each request in progress
        self._lock = guard()
        self._known: OrderedDict[str, tuple[FileInfo, float]] = OrderedDict()
        self._crawling: SingleFlight[tuple[()], bool] = SingleFlight()
        self._pages: Iterator[Page] | None = None
        self._crawled_at = -ttl_s

    def get(self, path: str) -> FileInfo | None:
        """Return the attributes of a blob's file; None if they are unknown."""
        found = self._known.get(path)
        return found[0] if found is not None and found[1] > time.monotonic() else None

    def is_missing(self, path: str) -> bool:
        """True if the blob's file was missing within the last *missing_ttl_s*."""
        return self._missing.get(path, 0.0) > time.monotonic()

    @contextmanager
    def request(self) -> Iterator[_Put]:
        """Yield a function that adds what a request to the store, made in the block, has found.

        It takes paths with their attributes, or None for a missing file. It does not add paths that
        were invalidated since the begin of the block.
        """
        changed: set[str] = set()
        with self._lock:
            self._changed_meanwhile[id(changed)] = changed
        try:
            yield partial(self._put, changed)
        finally:
            with self._lock:
                del self._changed_meanwhile[id(changed)]

    def _put(self, changed: set[str], found: Iterable[tuple[str, FileInfo | None]]) -> None:
        now = time.monotonic()
        with self._lock:
            for path, info in found:
                if path in changed:
                    continue
                if info is None:
                    self._missing[path] = now + self._missing_ttl_s
                else:
                    self._known[path] = (info, now + self._ttl_s)
                    self._known.move_to_end(path)
                    self._missing.pop(path, None)
            while len(self._known) > _MAX:
                self._known.popitem(last=False)
            while len(self._missing) > _MAX:
                self._missing.popitem(last=False)

    def invalidate(self, path: str) -> None:
        """Remove a path that has changed, or may have changed."""
        with self._lock:
            self._known.pop(path, None)
            self._missing.pop(path, None)
            for changed in self._changed_meanwhile.values():
                changed.add(path)

    def prefetch(self, paths: Sequence[str]) -> None:
        """Look up the unknown ones of *paths*."""
        if self._ttl_s == 0:
            return
        unknown = self._unknown(paths)
        for _ in range(len(unknown) // _FEW):
            if not unknown or not self._crawling.run((), partial(self._crawl, unknown)):
                break
            unknown = self._unknown(unknown)
        with self.request() as put:
            put(zip(unknown, self._store.stat_files(unknown), strict=True))

    def _unknown(self, paths: Sequence[str]) -> list[str]:
        return [path for path in paths if self.get(path) is None and not self.is_missing(path)]

    def _crawl(self, unknown: Sequence[str]) -> bool:
        """Add the next page of all blobs, unless another thread has just added all *unknown* ones.

        False after the last page, for *ttl_s* seconds. One thread at a time calls it.
        """
        if not self._unknown(unknown):
            return True
        if self._pages is None:
            if time.monotonic() < self._crawled_at + self._ttl_s:
                return False
            self._pages = self._store.pages(self._root)
            self._crawled_at = time.monotonic()
        with self.request() as put:
            page = next(self._pages, None)
            if page is None:
                self._pages = None
                return False
            put((f.path, FileInfo(f.path, f.size, False, f.mtime_ns)) for f in page.files)
        if page.is_last:
            self._pages = None
        return True

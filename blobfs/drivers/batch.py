"""A driver wrapper that stores small files in batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain, groupby
from typing import Final

from blobfs.concurrency import CallLock, guard
from blobfs.drivers.base import (
    BytesReader,
    FileInfo,
    FileReader,
    NewFile,
    StorageDriver,
    holds,
    map_each,
    stat_or_none,
)
from blobfs.drivers.objectstore import ObjectStore
from blobfs.drivers.wrapper import ResumableWrapper
from blobfs.errors import AccessDenied, NotADirectory, NotAFile, PathNotFound, StorageReadOnly

_SMALL: Final = 64 * 2**10
"""The largest file in bytes that is kept in memory."""

_FILES: Final = 8192
_BYTES: Final = 32 * 2**20
"""The files and bytes after which a batch is stored."""

_OF_A_PART: Final = (AccessDenied, NotADirectory, NotAFile, PathNotFound)
"""Errors that a user can cause who may write only to one part of the storage."""


class BatchDriver(ResumableWrapper):
    """Keeps small files in memory until ``flush`` stores them, or until they are many.

    Its readers see them at once, and listings after ``flush``. A directory in the place of a file
    is removed. *rank* orders the files of a batch by their paths: those of a higher rank are stored
    after those of a lower one are durable.

    *owner* names the part of the storage that a path belongs to. If access to a part is denied, or
    something else is in the place of its directories, ``refused`` has the reason, and the files of
    other parts are stored. A file without an owner is
    needed by others, so that its failure is that of the batch.

    After a failure an object store may have some of the files, as an answer can be lost. Immutable
    ones that it has are not sent again.

    Thread-safe: the guard is for the files, and ``_storing_lock`` lets one thread store a batch.
    """

    def __init__(
        self,
        driver: StorageDriver,
        rank: Callable[[str], int],
        owner: Callable[[str], str] = lambda _: "",
    ) -> None:
        super().__init__(driver)
        self.refused: dict[str, str] = {}
        self._stat_now = driver.stat_now if isinstance(driver, ObjectStore) else driver.stat
        self._rank = rank
        self._owner = owner
        self._lock = guard()
        self._storing_lock = CallLock()
        self._files: dict[str, NewFile] = {}
        self._size = 0
        self._storing: dict[str, NewFile] = {}
        self._has_failed = False

    def flush(self) -> None:
        """Store all files that were kept; they are kept again after a failure."""
        with self._storing_lock:
            self._store()

    def _store(self) -> None:
        with self._lock:
            self._storing, self._files, self._size = self._files, {}, 0
        try:
            files = sorted(self._storing.values(), key=self._rank_of)
            for _, equal in groupby(files, self._rank_of):
                self._put_all(list(equal))
            self._has_failed = False
        except BaseException:
            self._has_failed = self.is_object_store
            with self._lock:
                self._files = self._storing | self._files
                self._size = sum(len(file.content) for file in self._files.values())
            raise
        finally:
            with self._lock:
                self._storing = {}

    def _put_all(self, files: Sequence[NewFile]) -> None:
        """Store files, without those of the parts that may not be written."""
        if self.refused:
            files = [file for file in files if self._owner(file.path) not in self.refused]
        try:
            self._put_together(files)
        except _OF_A_PART:
            parts: dict[str, list[NewFile]] = {}
            for file in files:
                parts.setdefault(self._owner(file.path), []).append(file)
            for owner, part in parts.items():
                self._put_part(owner, part)

    def _put_part(self, owner: str, files: Sequence[NewFile]) -> None:
        try:
            self._put_together(files)
        except _OF_A_PART as exc:
            if not owner or isinstance(exc, StorageReadOnly):
                raise
            self.refused[owner] = str(exc)

    def _put_together(self, files: Sequence[NewFile]) -> None:
        if self._has_failed:
            found = map_each(self._driver, partial(holds, self._driver), files)
            files = [file for file, is_stored in found if not is_stored]
        try:
            self._driver.put_files(files)
        except NotAFile:
            for file in files:
                info = stat_or_none(self._driver, file.path)
                if info is not None and info.is_dir:
                    self._driver.delete(file.path)
            self._driver.put_files(files)

    def _rank_of(self, file: NewFile) -> int:
        return self._rank(file.path)

    def put_content(self, path: str, content: bytes) -> None:
        if len(content) > _SMALL:
            self._driver.put_content(path, content)
        else:
            self._keep(NewFile(path, content, is_immutable=False))

    def put_immutable(self, path: str, chunks: Iterable[bytes], size: int | None = None) -> None:
        unread, content = iter(chunks), b""
        for chunk in unread:
            content += chunk
            if len(content) > _SMALL:
                self._driver.put_immutable(path, chain((content,), unread))
                return
        self._keep(NewFile(path, content, is_immutable=True))

    def _keep(self, file: NewFile) -> None:
        with self._lock:
            self._files[file.path] = file
            self._size += len(file.content)
            is_full = self._is_full
        if is_full:
            self._store_full()

    @property
    def _is_full(self) -> bool:
        return len(self._files) >= _FILES or self._size >= _BYTES

    def _store_full(self) -> None:
        with self._storing_lock:
            with self._lock:
                is_full = self._is_full
            if is_full:  # no other thread has stored them meanwhile
                self._store()

    def _kept(self, path: str) -> NewFile | None:
        with self._lock:
            return self._files.get(path) or self._storing.get(path)

    def stat(self, path: str) -> FileInfo:
        kept = self._kept(path)
        return self._driver.stat(path) if kept is None else _info(kept)

    def stat_now(self, path: str) -> FileInfo:
        """``stat`` of a file that was kept, or in the storage itself; raises PathNotFound."""
        kept = self._kept(path)
        return self._stat_now(path) if kept is None else _info(kept)

    def prefetch(self, paths: Sequence[str]) -> None:
        """Do nothing."""

    def is_known_to_hold(self, path: str, content: bytes) -> bool:
        """True if a file that was kept has that *content*."""
        kept = self._kept(path)
        return kept is not None and kept.content == content

    def invalidate(self, path: str) -> None:
        """Do nothing."""

    def open(self, path: str, size: int | None = None) -> FileReader:
        kept = self._kept(path)
        return self._driver.open(path, size) if kept is None else BytesReader(kept.content)

    def read_at(self, path: str, offset: int, size: int) -> bytes:
        kept = self._kept(path)
        if kept is None:
            return self._driver.read_at(path, offset, size)
        return kept.content[offset : offset + size]

    def sync(self, path: str) -> None:
        if self._kept(path) is None:
            self._driver.sync(path)

    def delete(self, path: str) -> None:
        self.flush()
        self._driver.delete(path)


def _info(file: NewFile) -> FileInfo:
    return FileInfo(file.path, len(file.content), is_dir=False, mtime_ns=time.time_ns())

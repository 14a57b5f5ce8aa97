"""Driver wrappers that report a lost registry as an error, not as an empty registry.

The storage may answer although the registry is gone: ``blobs/`` is a separate file system that is
not mounted, ``docker/`` was renamed, or a bucket was emptied. Every path is then missing, and a
program such as rsync(1) with ``--delete`` would delete its copy. So before a path is reported as
missing, the wrapper confirms that the path's part of the registry still exists.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import Final

from blobfs import paths
from blobfs.drivers.base import (
    DirEntry,
    FileInfo,
    FileReader,
    FileWriter,
    NewFile,
    StorageDriver,
    is_below,
)
from blobfs.drivers.capacity import Bounded, Capacity, capacity_of
from blobfs.drivers.objectstore import ObjectStore, Page
from blobfs.drivers.wrapper import RemoteWrapper, ResumableWrapper
from blobfs.errors import PathNotFound, StorageUnavailable

_PARTS: Final = (paths.REPOSITORIES, paths.BLOBS)


def with_presence(driver: StorageDriver) -> StorageDriver:
    """Wrap *driver* so that it raises StorageUnavailable after the registry is lost."""
    if isinstance(driver, ObjectStore):
        return PresenceObjectStore(driver)
    return PresenceDriver(driver)


class _ConfirmingDriver(ResumableWrapper):
    """Driver wrapper that confirms the absence of each missing path in reading calls."""

    @abstractmethod
    def confirm_absence(self, *missing: str) -> None:
        """Raise StorageUnavailable if the paths are missing because the registry is gone."""

    @abstractmethod
    def note_presence(self, path: str) -> None:
        """Note that *path* exists."""

    def stat_many(self, paths: Sequence[str]) -> list[FileInfo | None]:
        return self._confirmed_each(self._driver.stat_many(paths), paths)

    def _confirmed_each(
        self, infos: list[FileInfo | None], paths: Sequence[str]
    ) -> list[FileInfo | None]:
        missing = [path for path, info in zip(paths, infos, strict=True) if info is None]
        if len(missing) < len(infos):
            self.note_presence(next(info.path for info in infos if info is not None))
        if missing:
            self.confirm_absence(*missing)
        return infos

    def listdir(self, path: str) -> Iterator[DirEntry]:
        try:
            entries = self._driver.listdir(path)
        except PathNotFound:
            self.confirm_absence(path)
            raise
        first = next(entries, None)
        if first is None:
            self.confirm_absence(path)
            return iter(())
        self.note_presence(f"{path}/{first.name}")
        return chain((first,), entries)

    def open(self, path: str, size: int | None = None) -> FileReader:
        try:
            return self._driver.open(path, size)
        except PathNotFound:
            self.confirm_absence(path)
            raise

    def read_at(self, path: str, offset: int, size: int) -> bytes:
        try:
            return self._driver.read_at(path, offset, size)
        except PathNotFound:
            self.confirm_absence(path)
            raise


class PresenceDriver(_ConfirmingDriver, Bounded):
    """Driver wrapper for directories, which detects the loss of ``repositories`` or ``blobs``.

    The ``identity`` of each directory is kept since it was first found. The directory is lost if
    it is missing, or if an empty directory of another identity is in its place: the mount point of
    a file system that is not mounted is such a directory. An empty directory of the same identity
    is valid, as its files were deleted. Writes are refused too while a directory is lost, because
    the file system would hide the written files when it is mounted again.

    Thread-safe: one assignment sets an identity.
    """

    def __init__(self, driver: StorageDriver) -> None:
        super().__init__(driver)
        self._identities: dict[str, object] = {}

    def stat(self, path: str) -> FileInfo:
        try:
            info = self._driver.stat(path)
        except PathNotFound:
            self.confirm_absence(path)
            raise
        if path == "/":
            self.confirm_absence(paths.ROOT)
        elif len(self._identities) < len(_PARTS):
            self.note_presence(path)
        return info

    def note_presence(self, path: str) -> None:
        for part in _PARTS:
            if part not in self._identities and is_below(path, part):
                with suppress(PathNotFound):  # it was removed just now
                    self._identities[part] = self._driver.stat(part).identity

    def confirm_absence(self, *missing: str) -> None:
        for part, known in tuple(self._identities.items()):
            for path in missing:
                if is_below(path, part) or is_below(part, path):
                    self._confirm_part(part, known)
                    break

    def _confirm_part(self, part: str, known: object) -> None:
        try:
            found = self._driver.stat(part).identity
            if found == known:
                return
            is_empty = next(self._driver.listdir(part), None) is None
        except PathNotFound:
            raise _gone(part) from None
        if is_empty:
            raise _gone(part)
        self._identities[part] = found

    def put_content(self, path: str, content: bytes) -> None:
        self.confirm_absence(path)
        self._driver.put_content(path, content)

    def put_immutable(self, path: str, chunks: Iterable[bytes], size: int | None = None) -> None:
        self.confirm_absence(path)
        self._driver.put_immutable(path, chunks, size)

    def put_files(self, files: Iterable[NewFile]) -> None:
        listed = list(files)
        self.confirm_absence(*(file.path for file in listed))
        self._driver.put_files(listed)

    def create(self, path: str) -> FileWriter:
        self.confirm_absence(path)
        return self._driver.create(path)

    def move(self, source: str, target: str) -> None:
        self.confirm_absence(source, target)
        self._driver.move(source, target)

    def capacity(self) -> Capacity | None:
        return capacity_of(self._driver)


class PresenceObjectStore(_ConfirmingDriver, RemoteWrapper, ObjectStore):
    """Wrapper for object stores, which detects the loss of all keys of the registry.

    ``stat_now`` is not confirmed: writers use it for paths that are mostly missing.

    This process may delete the last link or upload itself. So after a deletion, an empty registry
    is a loss only if a key was found again since. It never deletes a blob.

    Thread-safe: one assignment sets a flag.
    """

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self._store = store
        self._held = False
        self._held_blobs = False

    def stat(self, path: str) -> FileInfo:
        if path == "/":
            self._look_for_keys()
            return FileInfo(path, 0, True, 0)
        try:
            info = self._store.stat(path)
        except PathNotFound:
            self.confirm_absence(path)
            raise
        self.note_presence(path)
        return info

    def note_presence(self, path: str) -> None:
        if "/_uploads/" not in path:  # a cancelled upload is no loss
            self._held = self._held or is_below(path, paths.ROOT)
        self._held_blobs = self._held_blobs or is_below(path, paths.BLOBS)

    def confirm_absence(self, *missing: str) -> None:
        if self._held or self._held_blobs:
            self._look_for_keys()

    def _look_for_keys(self) -> None:
        page = next(self._store.pages(paths.ROOT, limit=1))
        for file in page.files:
            self.note_presence(file.path)
        if not page.files and page.is_last and (self._held or self._held_blobs):
            raise _gone(paths.ROOT)

    def pages(self, path: str, *, limit: int = 1000, after: str = "") -> Iterator[Page]:
        is_empty = True
        for page in self._store.pages(path, limit=limit, after=after):
            for file in page.files[:1]:
                is_empty = False
                self.note_presence(file.path)
            if page.is_last and is_empty:
                self.confirm_absence(path)
            yield page

    def stat_now(self, path: str) -> FileInfo:
        return self._store.stat_now(path)

    def stat_files(self, paths: Sequence[str]) -> list[FileInfo | None]:
        return self._confirmed_each(self._store.stat_files(paths), paths)

    def put_files(self, files: Iterable[NewFile]) -> None:
        self._store.put_files(files)

    def delete(self, path: str) -> None:
        self._held = False
        self._store.delete(path)


def _gone(part: str) -> StorageUnavailable:
    return StorageUnavailable(
        f"{part} is gone from the storage; restore or mount it,"
        " or mount the registry again if the removal was intended"
    )

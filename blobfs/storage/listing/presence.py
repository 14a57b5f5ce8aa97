"""Wrappers of drivers that never show the loss of a registry as an empty one.

A storage may be there and its registry gone: ``blobs/`` is a mount of its own that is missing,
``docker/`` was renamed, a bucket was emptied. Every path is then reported as missing, and a
program such as rsync(1) with ``--delete`` would delete its copy. So each answer that tells of an
absence is confirmed: the part of the registry that the path is in must still be there.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import Final, TypeVar, TypeVarTuple

from blobfs import paths
from blobfs.drivers.base import DirEntry, FileInfo, FileReader, FileWriter, StorageDriver
from blobfs.drivers.objectstore import ObjectStore, Page
from blobfs.drivers.wrapper import DriverWrapper
from blobfs.errors import PathNotFound, StorageUnavailable
from blobfs.storage.listing.cache import is_below

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_PARTS: Final = (paths.REPOSITORIES, paths.BLOBS)


def with_presence(driver: StorageDriver) -> StorageDriver:
    """*driver*, which raises StorageUnavailable once the registry that it held is gone."""
    if isinstance(driver, ObjectStore):
        return PresenceObjectStore(driver)
    return PresenceDriver(driver)


class _ConfirmingDriver(DriverWrapper):
    """Confirms what is said to be missing, for those who read."""

    @abstractmethod
    def confirm_absence(self, *missing: str) -> None:
        """Raise StorageUnavailable if the paths are missing because the registry is gone."""

    def note_presence(self, path: str) -> None:
        """Remember that something was found at *path*."""

    def stat(self, path: str) -> FileInfo:
        info = self._confirmed(super().stat, path)
        self.note_presence(path)
        return info

    def stat_many(self, paths: Sequence[str]) -> list[FileInfo | None]:
        return self._confirmed_each(super().stat_many(paths), paths)

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
        entries = self._confirmed(super().listdir, path)
        first = next(entries, None)
        if first is None:
            self.confirm_absence(path)
            return iter(())
        self.note_presence(f"{path}/{first.name}")
        return chain((first,), entries)

    def walk(self, path: str) -> Iterator[FileInfo]:
        try:
            yield from super().walk(path)
        except PathNotFound:
            self.confirm_absence(path)
            raise

    def open(self, path: str) -> FileReader:
        return self._confirmed(super().open, path)

    def get_content(self, path: str) -> bytes:
        return self._confirmed(super().get_content, path)

    def read_at(self, path: str, offset: int, size: int) -> bytes:
        return self._confirmed(super().read_at, path, offset, size)

    def _confirmed(self, call: Callable[[str, *Ts], T], path: str, *args: *Ts) -> T:
        try:
            return call(path, *args)
        except PathNotFound:
            self.confirm_absence(path)
            raise


class PresenceDriver(_ConfirmingDriver):
    """A driver of directories, of which ``repositories`` and ``blobs`` are not replaced by none.

    Each of the two is known by its ``identity`` since it was first found. If it is missing, or
    another one without an entry is there, as below a file system that is not mounted, it is gone.
    One that is still the same may be empty: somebody has deleted what was in it. Changes are
    refused as well while a part is gone: what is written would be hidden when it is back.

    Thread-safe: a part is noted or replaced by one assignment.
    """

    def __init__(self, driver: StorageDriver) -> None:
        super().__init__(driver)
        self._identities: dict[str, object] = {}

    def confirm(self) -> None:
        super().confirm()
        self.confirm_absence(paths.ROOT)

    def note_presence(self, path: str) -> None:
        if len(self._identities) == len(_PARTS):
            return
        for part in _PARTS:
            if part not in self._identities and is_below(path, part):
                with suppress(PathNotFound):  # it has gone just now
                    self._identities[part] = self.identity(part)

    def confirm_absence(self, *missing: str) -> None:
        for part in _PARTS:
            if any(is_below(path, part) or is_below(part, path) for path in missing):
                self._confirm_part(part)

    def _confirm_part(self, part: str) -> None:
        known = self._identities.get(part)
        if known is None:
            return
        try:
            found = self._driver.identity(part)
            if found == known:
                return
            is_empty = next(self._driver.listdir(part), None) is None
        except PathNotFound:
            raise _gone(part) from None
        if is_empty:
            raise _gone(part)
        self._identities[part] = found

    def stat_now(self, path: str) -> FileInfo:
        return self._confirmed(super().stat_now, path)

    def put_content(self, path: str, content: bytes) -> None:
        self.confirm_absence(path)
        super().put_content(path, content)

    def put_immutable(self, path: str, chunks: Iterable[bytes]) -> None:
        self.confirm_absence(path)
        super().put_immutable(path, chunks)

    def create(self, path: str) -> FileWriter:
        self.confirm_absence(path)
        return super().create(path)

    def move(self, source: str, target: str) -> None:
        self.confirm_absence(source, target)
        super().move(source, target)


class PresenceObjectStore(_ConfirmingDriver, ObjectStore):
    """A store of objects, which has no directories: it must not lose every key of the registry.

    Writers ask by ``stat_now`` for what is mostly missing, so that is not confirmed.

    Thread-safe. This process may delete the last link or upload itself, so after a deletion a key
    must be found again before none is taken for a loss. It never deletes a blob.
    """

    is_object_store = True

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self._store = store
        self._held = False
        self._held_blobs = False

    def confirm(self) -> None:
        self._look_for_keys()

    def note_presence(self, path: str) -> None:
        if "/_uploads/" not in path:  # an upload goes when it is cancelled, here or elsewhere
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

    def pages(self, path: str, *, limit: int = 1000) -> Iterator[Page]:
        is_empty = True
        for page in self._store.pages(path, limit=limit):
            for file in page.files[:1]:
                is_empty = False
                self.note_presence(file.path)
            if page.is_last and is_empty:
                self.confirm_absence(path)
            yield page

    def stat_files(self, paths: Sequence[str]) -> list[FileInfo | None]:
        return self._confirmed_each(self._store.stat_files(paths), paths)

    def delete(self, path: str) -> None:
        self._held = False
        super().delete(path)

    def delete_files(self, paths: Sequence[str]) -> None:
        self._held = False
        super().delete_files(paths)


def _gone(part: str) -> StorageUnavailable:
    return StorageUnavailable(
        f"{part} was there and is gone from the storage; restore or mount it,"
        " or mount the registry anew if that is intended"
    )

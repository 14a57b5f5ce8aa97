"""The wrapper that validates paths and offsets before they reach a driver."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from blobfs.drivers.base import DirEntry, FileInfo, FileReader, FileWriter, Unfinished
from blobfs.drivers.wrapper import DriverWrapper
from blobfs.errors import OffsetInvalid, PathInvalid

_NAME: Final = re.compile(r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+")
_PATH: Final = re.compile(rf"(?:/{_NAME.pattern})+")


class CheckedDriver(DriverWrapper):
    """Raises PathInvalid and OffsetInvalid, and hides stored names that are no valid components."""

    def write_refusal(self, path: str) -> str | None:
        return self._driver.write_refusal(_checked(path))

    def identity(self, path: str) -> object:
        return self._driver.identity(_checked_or_root(path))

    def stat(self, path: str) -> FileInfo:
        return self._driver.stat(_checked_or_root(path))

    def stat_now(self, path: str) -> FileInfo:
        return self._driver.stat_now(_checked_or_root(path))

    def prefetch(self, paths: Sequence[str]) -> None:
        self._driver.prefetch([_checked(path) for path in paths])

    def is_known_to_hold(self, path: str, content: bytes) -> bool:
        return self._driver.is_known_to_hold(_checked(path), content)

    def stat_many(self, paths: Sequence[str]) -> list[FileInfo | None]:
        return self._driver.stat_many([_checked_or_root(path) for path in paths])

    def listdir(self, path: str) -> Iterator[DirEntry]:
        entries = self._driver.listdir(_checked_or_root(path))
        return (entry for entry in entries if _NAME.fullmatch(entry.name))

    def walk(self, path: str) -> Iterator[FileInfo]:
        found = self._driver.walk(_checked_or_root(path))
        return (info for info in found if _PATH.fullmatch(info.path))

    def open(self, path: str) -> FileReader:
        return _CheckedReader(self._driver.open(_checked(path)))

    def open_of_size(self, path: str, size: int) -> FileReader:
        return _CheckedReader(self._driver.open_of_size(_checked(path), size))

    def redirect_url(self, path: str) -> str | None:
        return self._driver.redirect_url(_checked(path))

    def invalidate(self, path: str) -> None:
        self._driver.invalidate(_checked(path))

    def get_content(self, path: str) -> bytes:
        return self._driver.get_content(_checked(path))

    def read_at(self, path: str, offset: int, size: int) -> bytes:
        return self._driver.read_at(_checked(path), _checked_offset(offset), size)

    def put_content(self, path: str, content: bytes) -> None:
        self._driver.put_content(_checked(path), content)

    def put_immutable(self, path: str, chunks: Iterable[bytes]) -> None:
        self._driver.put_immutable(_checked(path), chunks)

    def sync(self, path: str) -> None:
        self._driver.sync(_checked(path))

    def create(self, path: str) -> FileWriter:
        return self._driver.create(_checked(path))

    def append(self, path: str, token: str = "") -> FileWriter:
        return self._driver.append(_checked(path), token)

    def stat_unfinished(self, path: str, token: str = "") -> FileInfo:
        return self._driver.stat_unfinished(_checked(path), token)

    def unfinished(self, path: str) -> Iterator[Unfinished]:
        return self._driver.unfinished(_checked_or_root(path))

    def move(self, source: str, target: str) -> None:
        self._driver.move(_checked(source), _checked(target))

    def delete(self, path: str) -> None:
        self._driver.delete(_checked(path))

    def prune(self, path: str) -> None:
        self._driver.prune(_checked(path))


class _CheckedReader(FileReader):
    def __init__(self, reader: FileReader) -> None:
        self._reader = reader

    @property
    def size(self) -> int:
        return self._reader.size

    def read_at(self, offset: int, size: int) -> bytes:
        return self._reader.read_at(_checked_offset(offset), size)

    def read_nowait(self, offset: int, size: int) -> bytes | memoryview | None:
        return self._reader.read_nowait(_checked_offset(offset), size)

    def close(self) -> None:
        self._reader.close()


def _checked(path: str) -> str:
    if _PATH.fullmatch(path) is None:
        raise PathInvalid(f"not a driver path: {path[:255]!r}")
    return path


def _checked_or_root(path: str) -> str:
    return path if path == "/" else _checked(path)


def _checked_offset(offset: int) -> int:
    if offset < 0:
        raise OffsetInvalid(f"negative offset: {offset}")
    return offset

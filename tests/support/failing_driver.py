"""A driver that notes every call that reaches the storage, and fails at one of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from blobfs.drivers.base import (
    DirEntry,
    FileInfo,
    FileReader,
    FileWriter,
    StorageDriver,
)
from blobfs.errors import StorageUnavailable


class Call(NamedTuple):
    """A method of the driver, or of a writer, and the path it was for."""

    method: str
    path: str


class Crash(BaseException):
    """The process ends here, as far as a test can have it end."""


class TroubledDriver(StorageDriver):
    """Passes everything on, and keeps it in *calls*.

    The call of number *fail_at* fails, or the first of *fail_method*: before it does anything, or
    else, with *done*, after it was done. With *crash* it is a Crash, and nothing reaches the
    storage afterwards. With *append_only* its writers are as little able as the contract allows.
    *on_call* is told of every call before it is passed on.
    """

    def __init__(
        self,
        driver: StorageDriver,
        *,
        fail_at: int | None = None,
        done: bool = False,
        crash: bool = False,
        append_only: bool = False,
    ) -> None:
        self.name = driver.name
        self.is_local = driver.is_local
        self.calls: list[Call] = []
        self.on_call: Callable[[Call], object] = bool
        self.fail_at = fail_at
        self.fail_method: str | None = None
        self.failed = False
        self.done = done
        self.append_only = append_only
        self._driver = driver
        self._crash = crash

    def methods(self, path_end: str) -> list[str]:
        """The methods that were called for paths that end so."""
        return [call.method for call in self.calls if call.path.endswith(path_end)]

    @contextmanager
    def noting(self, method: str, path: str) -> Iterator[None]:
        """Pass a call on, within the block."""
        if self.failed and self._crash:
            raise Crash
        self.calls.append(Call(method, path))
        self.on_call(self.calls[-1])
        is_the_one = not self.failed and (
            len(self.calls) == self.fail_at or method == self.fail_method
        )
        if is_the_one and not self.done:
            self._fail(path)
        try:
            yield
        finally:
            if is_the_one:
                self._fail(path)

    def _fail(self, path: str) -> None:
        self.failed = True
        raise Crash if self._crash else StorageUnavailable(f"{path}: as the test has it")

    def stat(self, path: str) -> FileInfo:
        with self.noting("stat", path):
            return self._driver.stat(path)

    def stat_many(self, paths: Sequence[str]) -> list[FileInfo | None]:
        with self.noting("stat_many", " ".join(paths)):
            return self._driver.stat_many(paths)

    def listdir(self, path: str) -> Iterator[DirEntry]:
        with self.noting("listdir", path):
            return self._driver.listdir(path)

    def open(self, path: str, size: int | None = None) -> FileReader:
        with self.noting("open", path):
            return self._driver.open(path, size)

    def read_at(self, path: str, offset: int, size: int) -> bytes:
        with self.noting("read_at", path):
            return self._driver.read_at(path, offset, size)

    def put_content(self, path: str, content: bytes) -> None:
        with self.noting("put_content", path):
            self._driver.put_content(path, content)

    def create(self, path: str) -> FileWriter:
        with self.noting("create", path):
            return self._wrapped(self._driver.create(path), path)

    def append(self, path: str, token: str = "") -> FileWriter:
        with self.noting("append", path):
            return self._wrapped(self._driver.append(path, token), path)

    def move(self, source: str, target: str) -> None:
        with self.noting("move", source):
            self._driver.move(source, target)

    def delete(self, path: str) -> None:
        with self.noting("delete", path):
            self._driver.delete(path)

    def prune(self, path: str) -> None:
        with self.noting("prune", path):
            self._driver.prune(path)

    def close(self) -> None:
        self._driver.close()

    def _wrapped(self, writer: FileWriter, path: str) -> FileWriter:
        kind = _AppendOnlyWriter if self.append_only else _TroubledWriter
        return kind(self, writer, path)


class _AppendOnlyWriter(FileWriter):
    def __init__(self, driver: TroubledDriver, writer: FileWriter, path: str) -> None:
        self._driver = driver
        self._writer = writer
        self._path = path

    @property
    def size(self) -> int:
        return self._writer.size

    def write(self, data: bytes) -> None:
        with self._driver.noting("writer.write", self._path):
            self._writer.write(data)

    def flush(self) -> None:
        with self._driver.noting("writer.flush", self._path):
            self._writer.flush()

    def commit(self) -> None:
        with self._driver.noting("writer.commit", self._path):
            self._writer.commit()

    def cancel(self) -> None:
        with self._driver.noting("writer.cancel", self._path):
            self._writer.cancel()

    def close(self) -> None:
        with self._driver.noting("writer.close", self._path):
            self._writer.close()


class _TroubledWriter(_AppendOnlyWriter):
    def is_undisturbed(self) -> bool:
        return self._writer.is_undisturbed()

    @property
    def fingerprint(self) -> str:
        return self._writer.fingerprint

    def move_to(self, target: str) -> bool:
        with self._driver.noting("writer.move_to", self._path):
            return self._writer.move_to(target)

    def rewrite(self, offset: int, data: bytes) -> None:
        with self._driver.noting("writer.rewrite", self._path):
            self._writer.rewrite(offset, data)

    def truncate(self, size: int) -> None:
        with self._driver.noting("writer.truncate", self._path):
            self._writer.truncate(size)

    def read_at(self, offset: int, size: int) -> bytes:
        with self._driver.noting("writer.read_at", self._path):
            return self._writer.read_at(offset, size)

"""The driver that stores files in memory, for tests and as the reference of their suite."""

from __future__ import annotations

import time
from collections.abc import Iterator

from blobfs.concurrency import guard
from blobfs.drivers.base import (
    BytesReader,
    DirEntry,
    FileInfo,
    FileReader,
    FileWriter,
    StorageDriver,
)
from blobfs.errors import Busy, NotADirectory, NotAFile, PathNotFound, Stale, WriterClosed


class _File:
    __slots__ = ("content", "mtime_ns")

    def __init__(self, content: bytes = b"") -> None:
        self.content = content
        self.mtime_ns = time.time_ns()


_Directory = dict[str, "_File | _Directory"]


class InMemoryDriver(StorageDriver):
    """Stores files in a tree of dicts. Thread-safe: one lock guards the tree.

    The content of a file is replaced, never changed, so readers need no lock.
    """

    name = "inmemory"
    is_local = True

    def __init__(self) -> None:
        self._lock = guard()
        self._root: _Directory = {}

    def stat(self, path: str) -> FileInfo:
        with self._lock:
            node = self._find(path)
            if isinstance(node, _File):
                return FileInfo(path, len(node.content), False, node.mtime_ns)
            return FileInfo(path, 0, True, 0)

    def listdir(self, path: str) -> Iterator[DirEntry]:
        with self._lock:
            directory = self._find(path)
            if isinstance(directory, _File):
                raise PathNotFound(path)
            children = [DirEntry(name, isinstance(n, dict)) for name, n in directory.items()]
        return iter(children)

    def open(self, path: str, size: int | None = None) -> FileReader:
        with self._lock:
            return BytesReader(self._file(path).content)

    def put_content(self, path: str, content: bytes) -> None:
        with self._lock:
            self._put(path, _File(bytes(content)))

    def create(self, path: str) -> FileWriter:
        file = _File()
        with self._lock:
            self._put(path, file)
        return _Writer(self, path, file)

    def append(self, path: str, token: str = "") -> FileWriter:
        with self._lock:
            return _Writer(self, path, self._file(path))

    def move(self, source: str, target: str) -> None:
        with self._lock:
            self._put(target, self._file(source))
            if source != target:
                parent, name = self._parent(source)
                del parent[name]

    def delete(self, path: str) -> None:
        with self._lock:
            self._find(path)
            parent, name = self._parent(path)
            if parent.pop(name, None) is None:
                raise PathNotFound(path)

    def prune(self, path: str) -> None:
        with self._lock:
            try:
                node = self._find(path)
                parent, name = self._parent(path)
            except PathNotFound:
                return
            if _prune(node):
                parent.pop(name, None)

    def holds(self, path: str, file: _File) -> bool:
        """True if *file* is still at *path*."""
        with self._lock:
            try:
                return self._find(path) is file
            except PathNotFound:
                return False

    def _find(self, path: str) -> _File | _Directory:
        node: _File | _Directory = self._root
        for name in path.split("/")[1:] if path != "/" else ():
            if isinstance(node, _File) or name not in node:
                raise PathNotFound(path)
            node = node[name]
        return node

    def _file(self, path: str) -> _File:
        node = self._find(path)
        if not isinstance(node, _File):
            raise NotAFile(f"not a file: {path}")
        return node

    def _parent(self, path: str) -> tuple[_Directory, str]:
        above, _, name = path.rpartition("/")
        parent = self._find(above or "/")
        if isinstance(parent, _File):
            raise PathNotFound(path)
        return parent, name

    def _put(self, path: str, file: _File) -> None:
        *parents, name = path.split("/")[1:]
        directory = self._root
        for parent in parents:
            below = directory.setdefault(parent, {})
            if isinstance(below, _File):
                raise NotADirectory(f"below a file: {path}")
            directory = below
        if isinstance(directory.get(name), dict):
            raise NotAFile(f"not a file: {path}")
        directory[name] = file


class _Writer(FileWriter):
    """Collects written bytes; ``flush``, ``commit`` and ``close`` replace the file's content."""

    def __init__(self, driver: InMemoryDriver, path: str, file: _File) -> None:
        self._driver = driver
        self._path = path
        self._file: _File | None = file
        self._seen = file.content
        self._content = bytearray(file.content)

    @property
    def size(self) -> int:
        return len(self._content)

    def write(self, data: bytes) -> None:
        self._refuse_disturbed()
        self._content += data

    def can_write_nowait(self, size: int) -> bool:
        return True

    def rewrite(self, offset: int, data: bytes) -> None:
        self._refuse_disturbed()
        self._content[offset : offset + len(data)] = data

    def truncate(self, size: int) -> None:
        self._refuse_disturbed()
        del self._content[size:]
        self._content += bytes(size - len(self._content))

    def read_at(self, offset: int, size: int) -> bytes:
        self._open_file()
        return bytes(self._content[offset : offset + size])

    def is_undisturbed(self) -> bool:
        file = self._open_file()
        if not self._driver.holds(self._path, file):
            raise Stale(f"{self._path} was committed or removed by another writer")
        return file.content is self._seen

    def _refuse_disturbed(self) -> None:
        if not self.is_undisturbed():
            raise Busy(f"{self._path} is being written by another writer")

    def flush(self) -> None:
        self.is_undisturbed()
        self._store()

    def _store(self) -> None:
        file = self._open_file()
        file.content = self._seen = bytes(self._content)
        file.mtime_ns = time.time_ns()

    def commit(self) -> None:
        self.flush()
        self._file = None

    def move_to(self, target: str) -> bool:
        self._refuse_disturbed()
        self._store()
        self._driver.move(self._path, target)
        self._file = None
        return True

    def cancel(self) -> None:
        self._open_file()
        self._file = None
        try:
            self._driver.delete(self._path)
        except PathNotFound:
            pass

    def close(self) -> None:
        if self._file is not None:
            self._store()
            self._file = None

    def _open_file(self) -> _File:
        if self._file is None:
            raise WriterClosed(f"no longer open for writing: {self._path}")
        return self._file


def _prune(node: _File | _Directory) -> bool:
    """Remove the empty directories below *node*; True if *node* is an empty directory then."""
    if isinstance(node, _File):
        return False
    for name, child in list(node.items()):
        if _prune(child):
            del node[name]
    return not node

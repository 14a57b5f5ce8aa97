"""Guards that notice I/O: a call that may wait fails in a thread that holds one.

``watch`` replaces the locks of ``blobfs.concurrency.guard`` and wraps the calls that may wait: of
drivers, of the disk, and of what ``blobfs.concurrency`` offers. Run as a program, this module is
blobfs with such guards; the mounts of the tests use it.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Final, ParamSpec, TypeVar

from blobfs import concurrency

_DISK: Final = (
    *("open", "pread", "pwrite", "write", "fsync", "rename", "unlink", "mkdir", "rmdir"),
    *("stat", "listdir", "scandir", "statvfs"),
)

_CLASSES: Final = (
    "blobfs.drivers.filesystem.FilesystemDriver",
    "blobfs.drivers.inmemory.InMemoryDriver",
    "blobfs.drivers.localfile.LocalReader",
    "blobfs.drivers.localfile.LocalWriter",
    "blobfs.drivers.s3.driver.S3Driver",
    "blobfs.drivers.s3.reader.S3Reader",
    "blobfs.drivers.s3.writer.MultipartWriter",
    "blobfs.concurrency.CallLock",
    "blobfs.concurrency.SingleFlight",
    "blobfs.concurrency.ThreadPool",
)
"""Their public methods may wait."""

_AT_ONCE: Final = {"close", "locked", "name", "read_nowait", "can_write_nowait", "submit"}
"""Public methods that do not wait; ``close`` may, but finalizers call it anywhere."""

P = ParamSpec("P")
T = TypeVar("T")

_held = threading.local()


def _guards() -> list[WatchedLock]:
    found: list[WatchedLock] = _held.__dict__.setdefault("guards", [])
    return found


class WatchedLock:
    """A lock whose thread knows that it holds it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._place = ""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        got = self._lock.acquire(blocking, timeout)
        if got:
            _guards().append(self)
        return got

    def release(self) -> None:
        _guards().remove(self)
        self._lock.release()

    def locked(self) -> bool:
        return self._lock.locked()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def _watched(call: Callable[P, T]) -> Callable[P, T]:
    @functools.wraps(call)
    def watched(*args: P.args, **kwargs: P.kwargs) -> T:
        assert not _guards(), f"{call.__qualname__} is called while a guard is held"
        return call(*args, **kwargs)

    return watched


def _methods(owner: type) -> Iterator[str]:
    for name, method in vars(owner).items():
        is_private = name.startswith("_") and name != "__enter__"
        if inspect.isfunction(method) and not is_private and name not in _AT_ONCE:
            yield name


def watch(*, with_s3: bool = True) -> None:
    """Watch the guards that are created from now on; boto3 is imported only *with_s3*."""
    concurrency.new_lock = WatchedLock  # type: ignore[assignment]
    for path in _CLASSES:
        if ".s3." in path and not with_s3:
            continue
        module, _, name = path.rpartition(".")
        owner = getattr(import_module(module), name)
        for method in _methods(owner):
            setattr(owner, method, _watched(getattr(owner, method)))
    for name in _DISK:
        call = getattr(os, name)
        watched = _watched(call)
        for supports in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
            if call in supports:
                supports.add(watched)
        setattr(os, name, watched)


if __name__ == "__main__":
    # A file may name a bucket.
    watch(with_s3=any("s3:" in word or word.endswith((".yml", ".yaml")) for word in sys.argv))
    import_module("blobfs.cli").main(prog_name="blobfs")

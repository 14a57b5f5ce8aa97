"""A cache of blobs on a disk, over a store that counts what is asked of it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blobfs import paths
from blobfs.digest import Digest
from blobfs.storage.diskcache.cache import CachedDriver, CacheOptions
from tests.support.remote_driver import KIB, MIB, RemoteDriver


def content(seed: int, size: int = MIB) -> bytes:
    """The same bytes for the same *seed*."""
    return random.Random(seed).randbytes(size)


def put(remote: RemoteDriver, blob: bytes, algorithm: str = "sha256") -> str:
    """Where *blob* is stored."""
    path = paths.blob_data(Digest.of(blob, algorithm))
    remote.put_content(path, blob)
    return path


class Cached:
    """A driver with a cache, as a mount has it."""

    def __init__(self, remote: RemoteDriver, driver: CachedDriver, directory: Path) -> None:
        self.remote = remote
        self.driver = driver
        self.directory = directory

    def read(self, path: str, *, step: int = 100 * KIB) -> bytes:
        """The whole blob, in pieces."""
        with self.driver.open(path, self.remote.stat(path).size) as reader:
            return b"".join(reader.chunks(step))

    def read_at(self, path: str, offset: int, size: int) -> bytes:
        """A part of it, with a reader of its own."""
        with self.driver.open(path, self.remote.stat(path).size) as reader:
            return reader.read_at(offset, size)

    def count(self, name: str) -> int:
        return self.driver.stats()[name]

    def until(self, name: str, number: int) -> None:
        """Wait for a counter."""
        self.remote.until(lambda: self.count(name) >= number)

    def store(self, *blobs: bytes) -> list[str]:
        """Have entries of *blobs*."""
        stored = [put(self.remote, blob) for blob in blobs]
        for path in stored:
            before = self.count("stored")
            self.read(path)
            self.until("stored", before + 1)
        return stored

    def is_asked(self, path: str, blob: bytes) -> bool:
        """Whether reading *blob*, which is right, takes requests."""
        before = len(self.remote.requests)
        assert self.read(path) == blob
        return len(self.remote.requests) > before

    def entry(self, path: str) -> Path:
        return self.directory / "v1" / Path(path).parent.relative_to(paths.BLOBS)

    def temporary(self) -> list[Path]:
        """What is being filled, by all processes."""
        return [path for path in self.directory.glob("v1/tmp/*/*") if path.name != "lock"]

    def on_disk(self) -> int:
        """What entries, and what is becoming one, take on the disk in bytes."""
        sizes = {}  # by inode: a file may be on its way from one place to the other
        for path in (*self.temporary(), *self.directory.glob("v1/sha*/*/*")):
            try:
                info = path.lstat()
            except FileNotFoundError:
                continue
            sizes[info.st_ino] = 512 * info.st_blocks
        return sum(sizes.values())


@contextmanager
def caching(
    directory: Path,
    remote: RemoteDriver | None = None,
    *,
    size: int = 64 * MIB,
    min_free: int = 0,
    idle_s: float = 600.0,
    retry_s: float = 0.0,
    patience_s: float = 30.0,
) -> Iterator[Cached]:
    """A mount's part that caches; *remote* stays as it is afterwards."""
    options = CacheOptions(directory, size, min_free, idle_s, retry_s, patience_s)
    remote = remote or RemoteDriver()
    driver = CachedDriver.opened(remote, options)
    try:
        yield Cached(remote, driver, directory)
    finally:
        driver.close()

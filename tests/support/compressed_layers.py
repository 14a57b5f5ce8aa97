"""Layers made by the real tools: GNU tar, gzip and zstd."""

from __future__ import annotations

import os
import random
import subprocess
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from blobfs.digest import Descriptor, Digest
from blobfs.drivers.base import BytesReader
from blobfs.images.layer import Layer
from blobfs.images.layer_index import LayerIndex
from tests.support.services import run


class CountingReader(BytesReader):
    """A blob that counts the bytes that are read."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.bytes_read = 0
        self.is_closed = False

    def read_at(self, offset: int, size: int) -> bytes:
        data = super().read_at(offset, size)
        self.bytes_read += len(data)
        return data

    def close(self) -> None:
        self.is_closed = True


def layer_of(blob: bytes, archive: bytes | None = None, media_type: str = "") -> Layer:
    """The layer of a blob; its diff ID is that of *archive*."""
    descriptor = Descriptor(Digest.of(blob), len(blob), media_type)
    return Layer(descriptor, None if archive is None else Digest.of(archive))


def indexed(blob: bytes, path: Path, archive: bytes | None = None) -> LayerIndex:
    """Build the index *path* of a layer, and open it."""
    LayerIndex.build(BytesReader(blob), layer_of(blob, archive), path)
    return LayerIndex(path)


@cache
def archive() -> bytes:
    """30 MB by GNU tar: files that compress well, badly, and not at all."""
    with TemporaryDirectory() as name:
        root = Path(name)
        chance = random.Random(1)
        words = [chance.randbytes(chance.randrange(2, 12)) for _ in range(2000)]
        for number in range(60):
            directory = root / f"d{number % 7}"
            directory.mkdir(exist_ok=True)
            (directory / f"words{number}").write_bytes(b" ".join(chance.choices(words, k=40_000)))
        (root / "random").write_bytes(chance.randbytes(5 * 2**20))
        (root / "zeros").write_bytes(bytes(9 * 2**20))
        (root / "link").symlink_to("d0/words0")
        os.link(root / "random", root / "same")
        return tar(root)


def tar(root: Path) -> bytes:
    """The archive of a directory by GNU tar."""
    return run("tar", "--create", "--numeric-owner", "--directory", root, ".", timeout_s=120)


def piped(data: bytes, *command: str) -> bytes:
    """The output of a program that reads *data*."""
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout


def gzipped(data: bytes, level: int = 6) -> bytes:
    """The output of gzip."""
    return piped(data, "gzip", f"-{level}", "-n")


def parallel_gzipped(data: bytes, step: int = 2**20) -> bytes:
    """A member for each *step* bytes, as parallel programs write them."""
    return b"".join(gzipped(part) for part in _parts(data, step))


def estargz(data: bytes) -> bytes:
    """A member for each header and for each content, and an empty one with a footer."""
    bounds = sorted(_member_bounds(data))
    parts = [data[start:end] for start, end in pairwise(bounds)]
    footer = b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff\x1a\0SG\x16\0" + b"0" * 16 + b"STARGZ"
    footer += b"\x01\0\0\xff\xff" + bytes(8)
    return b"".join(member(part) for part in parts if part) + footer


def member(data: bytes) -> bytes:
    """A gzip member."""
    compressor = zlib.compressobj(wbits=31)
    return compressor.compress(data) + compressor.flush()


def zstandard(data: bytes, *options: str) -> bytes:
    """One frame by zstd."""
    return piped(data, "zstd", "--quiet", "--stdout", *options)


def zstd_frames(data: bytes, step: int = 2**20) -> bytes:
    """A frame for each *step* bytes, with skippable frames between them."""
    skippable = b"\x5a\x2a\x4d\x18" + (9).to_bytes(4, "little") + b"\x28\xb5\x2f\xfdxxxxx"
    return b"".join(skippable + zstandard(part) for part in _parts(data, step)) + skippable


def _parts(data: bytes, step: int) -> Iterable[bytes]:
    return (data[start : start + step] for start in range(0, len(data), step))


def _member_bounds(data: bytes) -> Iterator[int]:
    yield from (0, len(data))
    with TemporaryDirectory() as name, closing(indexed(data, Path(name, "index"))) as index:
        for each in index.members():
            yield from (each.offset, each.offset + each.size)

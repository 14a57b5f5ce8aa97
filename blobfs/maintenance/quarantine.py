"""The quarantine of a repair: a directory of this machine with copies of damaged blobs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from blobfs.digest import Digest
from blobfs.drivers.base import FileReader


@dataclass(frozen=True, slots=True)
class Copy:
    """A durable copy of damaged bytes, and the digest that they have."""

    file: Path
    digest: Digest

    @classmethod
    def made(cls, reader: FileReader, directory: Path, name: Digest) -> Self:
        """Copy what is stored under *name* to a new file in *directory*; an earlier one stays.

        Raises the errors of the storage, and OSError.
        """
        directory.mkdir(parents=True, exist_ok=True)
        file = _created(directory, f"{name.algorithm}-{name.encoded}")
        path = Path(file.name)
        try:
            with file:
                digest = Digest.of_chunks(_written(reader, file), name.algorithm)
                file.flush()
                os.fsync(file.fileno())
            for each in (directory, directory.parent):
                _sync(each)
        except BaseException:
            path.unlink()
            raise
        return cls(path, digest)

    def remove(self) -> None:
        """Remove the copy."""
        self.file.unlink()


def _created(directory: Path, name: str) -> BinaryIO:
    """Create the file *name*, or *name* with the first free number."""
    number = 0
    while True:
        try:
            return open(directory / (f"{name}.{number}" if number else name), "xb")
        except FileExistsError:
            number += 1


def _written(reader: FileReader, file: BinaryIO) -> Iterator[bytes]:
    """Yield the chunks of *reader*, each after it was written to *file*."""
    for chunk in reader.chunks():
        file.write(chunk)
        yield chunk


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

"""One blob in a plain file, or in a standard stream, as a source and as a target."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from blobfs.concurrency import CallLock
from blobfs.digest import CANONICAL, Descriptor, Digest
from blobfs.drivers.base import FileReader
from blobfs.drivers.localfile import LocalReader
from blobfs.drivers.oserrors import os_errors
from blobfs.drivers.temporaries import closed_on_failure, owned_fd, replacing_own, write_all
from blobfs.errors import (
    DigestMismatch,
    ManifestUnknown,
    MountRefused,
    RepositoryUnknown,
    TagUnknown,
)
from blobfs.reference import Tag
from blobfs.transfer.base import Outline, Source, Target
from blobfs.transfer.streams import STDIN, STDOUT, open_stdin, write_to


class FileSource(Source):
    """The content of a file as the only blob of the repository ``""``. Thread-safe.

    Without *path* it is the standard input, which is kept in a temporary file, as its digest must
    be known before it is sent. Raises PathNotFound, AccessDenied, NotAFile.
    """

    def __init__(self, path: Path | None) -> None:
        self._place = str(path or STDIN)
        self._hashing = CallLock()
        self._digests: dict[str, Digest] = {}
        with os_errors(self._place):
            if path is None:
                fd = open_stdin()
            else:
                fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with closed_on_failure(fd):
                self._reader = LocalReader.of(self._place, os.dup(fd), is_local=True)
        self._fd = fd

    def repositories(self) -> Iterator[str]:
        return iter([""])

    def tags(self, repository: str) -> Iterator[Tag]:
        if repository:
            raise RepositoryUnknown(repository)
        return iter(())

    def tagged(self, repository: str, tag: Tag) -> Digest:
        raise TagUnknown(tag)

    def blobs(self, repository: str) -> Iterator[Digest]:
        return iter([self._digest(CANONICAL)])

    def referrers(self, repository: str, digest: Digest) -> Sequence[Digest]:
        return ()

    def manifest(self, repository: str, digest: Digest) -> bytes:
        raise ManifestUnknown(digest)

    def outline(self, repository: str, digest: Digest) -> Outline:
        raise ManifestUnknown(digest)

    def size(self, repository: str, digest: Digest) -> int:
        found = self._digest(digest.algorithm)
        if found != digest:
            raise DigestMismatch(f"{self._place} has the digest {found}, and not {digest}")
        return self._reader.size

    def open(self, repository: str, blob: Descriptor) -> FileReader:
        with os_errors(self._place):
            return LocalReader.of(self._place, os.dup(self._fd), is_local=True)

    def close(self) -> None:
        if self._fd >= 0:
            self._reader.close()
            os.close(self._fd)
            self._fd = -1

    def _digest(self, algorithm: str) -> Digest:
        with self._hashing:
            if algorithm not in self._digests:
                self._digests[algorithm] = Digest.of_chunks(self._reader.chunks(), algorithm)
            return self._digests[algorithm]


class FileTarget(Target):
    """A file that gets the bytes of the blob *wanted*; without *path* it is the standard output.

    The file is replaced when the blob was verified. In the standard output wrong bytes are an error
    at their end.
    """

    def __init__(self, path: Path | None, wanted: Digest) -> None:
        self._path = path
        self._place = str(path or STDOUT)
        self._wanted = wanted
        self._has_begun = self._is_done = False

    def missing(self, repository: str, blobs: Sequence[Descriptor]) -> list[Descriptor]:
        return [blob for blob in blobs if not self._has(blob)]

    def _has(self, blob: Descriptor) -> bool:
        self._refuse_others(blob.digest)
        if self._is_done or self._path is None or not self._path.is_file():
            return self._is_done
        with suppress(DigestMismatch), FileSource(self._path) as source:
            return source.size("", blob.digest) == blob.size
        return False

    def link(self, repository: str, blob: Descriptor, holder: str | None) -> bool:
        return False

    def put_blob(self, repository: str, blob: Descriptor, chunks: Iterable[bytes]) -> None:
        self._refuse_others(blob.digest)
        verified = blob.digest.verified(chunks)
        if self._path is None:
            self._print(verified)
        else:
            self._replace(self._path, verified)
        self._is_done = True

    def _print(self, chunks: Iterable[bytes]) -> None:
        if self._has_begun:
            raise MountRefused(
                "the standard output has a part of the blob, which cannot be repeated; copy again"
            )
        self._has_begun = True
        with os_errors(self._place):
            for chunk in chunks:
                write_to(sys.stdout.buffer, chunk)
            sys.stdout.buffer.flush()

    def _replace(self, path: Path, chunks: Iterable[bytes]) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        with os_errors(self._place), owned_fd(os.open(path.parent, flags)) as directory:
            with replacing_own(path.name, directory) as fd:
                for chunk in chunks:
                    write_all(fd, chunk)
            os.fsync(directory)

    def has_manifest(self, repository: str, manifest: Descriptor) -> bool:
        self._refuse_manifest(manifest.digest)

    def put_manifest(self, repository: str, digest: Digest, payload: bytes) -> None:
        self._refuse_manifest(digest)

    def tag(self, repository: str, tag: Tag, digest: Digest, history: Sequence[Digest]) -> None:
        self._refuse_manifest(digest)

    def repositories(self) -> Iterator[str]:
        return iter(())

    def tags(self, repository: str) -> Iterator[Tag]:
        return iter(())

    def tagged(self, repository: str, tag: Tag) -> Digest:
        raise TagUnknown(tag)

    def untag(self, repository: str, tag: Tag) -> None:
        """Do nothing: a file has no tags."""

    def close(self) -> None:
        """Do nothing: no file is open between two calls."""

    def _refuse_others(self, digest: Digest) -> None:
        if digest != self._wanted:
            self._refuse_manifest(self._wanted)

    def _refuse_manifest(self, digest: Digest) -> NoReturn:
        raise MountRefused(
            f"{digest} is a manifest, and a file gets one blob; copy the image into a directory"
        )

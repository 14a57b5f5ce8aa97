"""Blobs that somebody removes, replaces or cuts in the bucket, while they are read."""

import errno
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from blobfs.reference import RepositoryName
from tests.fuse.s3.conftest import QUICK
from tests.support.buckets import Bucket
from tests.support.layout import image
from tests.support.mounts import MountedRegistry, eventually, failing_with, mounted
from tests.support.repositories import layer, put_layer

pytestmark = [pytest.mark.fuse, pytest.mark.s3]

SIZE = 12 * 2**20

# So that most of a blob is not there yet when its first bytes are read.
SHORT_SIGHTED = ("--read-memory", "4", "--read-part", "1", "--readahead-kb", "128")


@pytest.fixture(scope="module")
def shared(bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedRegistry]:
    place = tmp_path_factory.mktemp("shared")
    with mounted(bucket.url, place, *QUICK, *SHORT_SIGHTED) as mount:
        yield mount


BECOMES: dict[str, Callable[[bytes], bytes | None]] = {
    "removed": lambda _: None,
    "replaced": lambda content: content[::-1],
    "cut": lambda content: content[: SIZE // 2],
    "longer": lambda content: content + b"x",
    "emptied": lambda _: b"",
}


def _change(bucket: Bucket, digest: Digest, content: bytes | None) -> None:
    path = paths.blob_data(digest)
    if content is None:
        bucket.remove(path)
    else:
        bucket.put(path, content)


@pytest.fixture
def blobs(bucket: Bucket, repository: Path) -> Iterator[dict[str, bytes]]:
    """A layer for each change. After the test, each that is stored anew is read."""
    blobs = {change: random.Random(change).randbytes(SIZE) for change in BECOMES}
    for content in blobs.values():
        put_layer(repository, content)
    yield blobs
    # At another second: S3 tells no less.
    second = bucket.put("/clock", b"")
    eventually(lambda: bucket.put("/clock", b"") != second)
    for content in blobs.values():
        bucket.put(paths.blob_data(Digest.of(content)), content)
        assert layer(repository, Digest.of(content)).read_bytes() == content


def test_blob_that_changes_while_it_is_read_is_an_error(
    bucket: Bucket, repository: Path, blobs: dict[str, bytes]
) -> None:
    """[S13.10] A blob that is removed or replaced while it is read, or was since it was looked up,
    is EIO.
    """
    for change, content in blobs.items():
        file = layer(repository, Digest.of(content))
        with file.open("rb", buffering=0) as opened:
            assert opened.read(2**20) == content[: 2**20]
            _change(bucket, Digest.of(content), BECOMES[change](content))
            got = bytearray(content[: 2**20])
            with failing_with(errno.EIO):
                while chunk := opened.read(2**17):
                    got += chunk
            assert content.startswith(got)
        assert len(got) < SIZE, change
        # What is not there any more is told.
        with failing_with(errno.EIO), file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            opened.read()


def test_blob_that_was_changed_before_it_is_read_is_an_error(
    bucket: Bucket, repository: Path, blobs: dict[str, bytes]
) -> None:
    """[S13.3] A blob's size and time are kept for `--entry-timeout`.
    [S13.10] A blob that is removed or replaced while it is read, or was since it was looked up, is
    EIO. Its size is remembered.
    """
    for change, content in blobs.items():
        file = layer(repository, Digest.of(content))
        assert file.stat().st_size == SIZE
        _change(bucket, Digest.of(content), BECOMES[change](content))
        with failing_with(errno.EIO):
            file.read_bytes()


def test_damaged_link_and_missing_blob_hide_nothing_else(bucket: Bucket, repository: Path) -> None:
    """[S4.1] Looking it up is EIO, with one warning that names it.
    [S4.2] Everything beside it goes on working.
    """
    good, bad, lost = (Digest.of(content) for content in (b"good", b"bad", b"lost"))
    for digest, content in ((good, b"good"), (bad, b"bad")):
        bucket.put(paths.blob_data(digest), content)
    for digest, link in ((good, str(good)), (bad, "nonsense"), (lost, str(lost))):
        path = paths.link(paths.layers(RepositoryName(repository.name)), digest)
        bucket.put(path, link.encode())
    name, manifest = RepositoryName(repository.name), image(good, lost)
    revision = Digest.of(manifest)
    bucket.put(paths.blob_data(revision), manifest)
    bucket.put(paths.link(paths.revisions(name), revision), str(revision).encode())
    eventually(lambda: len(os.listdir(repository / "_layers/sha256")) == 3)
    assert layer(repository, good).read_bytes() == b"good"
    for digest in (bad, lost):
        with failing_with(errno.EIO):
            layer(repository, digest).stat()

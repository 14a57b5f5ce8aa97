"""Uploads to a bucket: what programs get, what is in the bucket meanwhile, and what is left."""

import errno
import os
import random
from pathlib import Path

import pytest

from blobfs import paths
from blobfs.digest import Digest
from tests.support.buckets import CHUNK, Bucket
from tests.support.mounts import failing_with
from tests.support.repositories import layers, shell, upload
from tests.support.writers import state

pytestmark = [pytest.mark.fuse, pytest.mark.s3]

SIZES = [3000, 2_500_000, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK]
LARGE = 2 * CHUNK + 17
OTHER = Digest.of(b"something else")

declared = pytest.mark.parametrize("is_declared", [True, False], ids=["declared", "undeclared"])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source"


def _bytes(seed: object, size: int) -> bytes:
    return random.Random(str(seed)).randbytes(size)


def _written(source: Path, content: bytes) -> Digest:
    source.write_bytes(content)
    return Digest.of(content)


@declared
@pytest.mark.parametrize("size", SIZES)
def test_cp_stores_the_blob(
    repository: Path, bucket: Bucket, source: Path, size: int, is_declared: bool
) -> None:
    """[S7.1] A close that returns 0 to whoever has the last descriptor means: verified, durable,
    linked.
    [S7.2] Bytes that hash to it are committed at the close, or the fsync, after which they do.
    [S7.3] Without a declared digest, the last close commits under the digest that the bytes have.
    """
    content = _bytes((size, is_declared), size)
    digest = _written(source, content)
    done = shell("cp", source, upload(repository, digest if is_declared else "layer.tar"))
    assert (done.returncode, done.stderr) == (0, "")
    assert bucket.get(paths.blob_data(digest)) == content
    assert layers(repository) == {digest.encoded: content}
    assert bucket.leftovers() == []


def test_empty_blob_is_stored_where_it_is_declared(repository: Path, bucket: Bucket) -> None:
    """[S7.3] The empty blob has to be declared."""
    digest = Digest.of(b"")
    for name in (str(digest), "layer.tar"):
        assert shell("cp", "/dev/null", upload(repository, name)).returncode == 0
    assert bucket.get(paths.blob_data(digest)) == b""
    assert layers(repository) == {digest.encoded: b""}
    assert state(upload(repository, "layer.tar")) == "open"
    assert bucket.leftovers() == []


@pytest.mark.parametrize("size", [3000, 2_500_000, CHUNK, 2 * CHUNK + 1])
def test_other_bytes_than_declared_are_never_there(
    repository: Path, bucket: Bucket, source: Path, size: int
) -> None:
    """[S7.2] Other bytes are EBADMSG at the last close, or at the rename, and nothing appears in
    `_layers`. And give way to the right ones.
    """
    content = _bytes(("wrong", size), size)
    digest = Digest.of(content)
    _written(source, content[:-1] + bytes([content[-1] ^ 1]))
    file = upload(repository, digest)
    done = shell("cp", source, file)
    assert (done.returncode, done.stderr) == (1, f"cp: failed to close '{file}': Bad message\n")
    assert state(file).startswith("failed: ")
    assert not bucket.has_blob(digest)
    assert layers(repository) == {}
    _written(source, content)
    done = shell("cp", source, file)
    assert (done.returncode, done.stderr) == (0, "")
    assert layers(repository) == {digest.encoded: content}
    assert bucket.leftovers() == []


@pytest.mark.parametrize(
    "command",
    [
        "cat {0} > {1}",
        "dd if={0} of={1} bs=100K status=none",
        "dd if={0} of={1} bs=1M conv=fsync status=none",
        "rsync -a {0} {1}",
        "rsync --inplace {0} {1}",
        "(head -c 6000000 {0}; tail -c +6000001 {0}) > {1}",
        "tee {1} < {0} > /dev/null",
        "install -m 644 {0} {1}",
        "cp --sparse=always {0} {1}",
        "cp -p {0} {1}",
    ],
)
@declared
def test_program_stores_the_blob(
    repository: Path, bucket: Bucket, source: Path, command: str, is_declared: bool
) -> None:
    """[S7.1] A close that returns 0 to whoever has the last descriptor means: verified, durable,
    linked.
    """
    content = _bytes((command, is_declared), LARGE)
    digest = _written(source, content)
    file = upload(repository, digest if is_declared else "layer.tar")
    done = shell("bash", "-c", command.format(source, file))
    assert (done.returncode, done.stderr) == (0, "")
    assert state(file) == "committed"
    assert layers(repository) == {digest.encoded: content}
    assert bucket.leftovers() == []


@pytest.mark.parametrize("size", [600_000, 1_200_000, CHUNK, 6_000_000])
@pytest.mark.parametrize("command", ["tail -c +{2} {0} >> {1}", "rsync --append {0} {1}"])
def test_closed_upload_is_gone_on_with(
    repository: Path, bucket: Bucket, source: Path, command: str, size: int
) -> None:
    """[S7.5] An open upload is gone on with by `>>`, `dd oflag=append conv=notrunc`, `rsync
    --append` and the like.
    """
    content = _bytes((command, size), LARGE)
    digest = _written(source, content)
    file = upload(repository, digest)
    with failing_with(errno.EBADMSG):
        file.write_bytes(content[:size])
    done = shell("bash", "-c", command.format(source, file, size + 1))
    assert (done.returncode, done.stderr) == (0, "")
    assert layers(repository) == {digest.encoded: content}
    assert bucket.leftovers() == []


def test_declared_blob_is_not_there_before_it_is_right(repository: Path, bucket: Bucket) -> None:
    """[S7.2] Nothing appears in `_layers`.
    [S13.7] The blob of a declared `sha256:` digest grows under its own key. It grows under its own
    key, where nobody sees it.
    """
    content = _bytes("growing", LARGE)
    digest = Digest.of(content)
    with upload(repository, digest).open("wb", buffering=0) as opened:
        for start in range(0, len(content), 2**20):
            assert not bucket.has_blob(digest)
            opened.write(content[start : start + 2**20])
            if start % (3 * 2**20) == 0:
                os.fsync(opened.fileno())
                assert bucket.multipart_uploads() in ([], [paths.blob_data(digest)])
        os.fsync(opened.fileno())
        assert bucket.has_blob(digest)


@pytest.mark.parametrize("size", [3000, 2_500_000, CHUNK, 2 * CHUNK + 1])
@pytest.mark.parametrize("is_written", [False, True], ids=["closed", "while it is written"])
@declared
def test_rm_leaves_nothing_in_the_bucket(
    repository: Path, bucket: Bucket, size: int, is_written: bool, is_declared: bool
) -> None:
    """[S7.10] `rm` of an open upload removes all of it from the storage, also while it is
    written.
    """
    content = _bytes((size, is_written, is_declared), size)
    file = upload(repository, OTHER if is_declared else "layer.tar")
    file.touch()
    os.setxattr(file, "user.blobfs.size", str(size + 1).encode())
    if is_written:
        with file.open("wb", buffering=0) as opened:
            opened.write(content)
            os.fsync(opened.fileno())
            assert bucket.leftovers()
            file.unlink()
    else:
        with failing_with(errno.EBADMSG):
            file.write_bytes(content)
        assert bucket.leftovers()
        file.unlink()
    assert bucket.leftovers() == []
    assert os.listdir(repository / "_uploads") == []
    assert layers(repository) == {}


def test_what_was_written_is_not_written_again(repository: Path, bucket: Bucket) -> None:
    """[S13.5] What was written cannot be written again, nor cut: EINVAL. But from the start."""
    file, content = upload(repository, "layer.tar"), _bytes("rewritten", LARGE)
    with failing_with(errno.EINVAL), file.open("wb", buffering=0) as opened:
        opened.write(content)
        with failing_with(errno.EINVAL):
            os.pwrite(opened.fileno(), b"x", 5)
    assert layers(repository) == {}
    with failing_with(errno.EINVAL):
        os.truncate(file, 1000)
    os.truncate(file, 0)
    file.write_bytes(content)
    assert layers(repository) == {Digest.of(content).encoded: content}
    assert bucket.leftovers() == []


def test_upload_is_read_once_it_is_complete(repository: Path) -> None:
    """[S13.6] An upload of more than 1 MiB, and any that was closed or synced, can be read once it
    is complete, and until then has a size only: EOPNOTSUPP.
    """
    file, content = upload(repository, "layer.tar"), _bytes("read", LARGE)
    with file.open("wb", buffering=0) as opened:
        opened.write(content[:1000])
        assert file.read_bytes() == content[:1000]
        opened.write(content[1000:])
        assert file.stat().st_size == len(content)
        with failing_with(errno.EOPNOTSUPP):
            file.read_bytes()
    assert file.read_bytes() == content
    waiting = upload(repository, OTHER)
    with failing_with(errno.EBADMSG):
        waiting.write_bytes(b"closed too early")
    with failing_with(errno.EOPNOTSUPP):
        waiting.read_bytes()
    waiting.unlink()


def test_directories_have_no_times(repository: Path) -> None:
    """[S13.4] It has no times: it says 1970."""
    upload(repository, "layer.tar").write_bytes(b"layer")
    assert (repository / "_layers").stat().st_mtime == 0
    assert next((repository / "_layers/sha256").iterdir()).stat().st_mtime > 10**9
